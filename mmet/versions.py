"""Versions of what results depend on, for the files that results are written to."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

PACKAGES = ("mmet", "torch", "transformers", "datasets", "accelerate", "numpy", "pillow")


def installed_versions() -> dict[str, str]:
    """Versions of Python and of `PACKAGES`; packages that are not installed are left out."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:  # mmet itself, when run from its source folder
            continue
    return versions
