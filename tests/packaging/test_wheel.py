"""Wheel and source distribution: what they hold, and that what is installed works without the source."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """A copy of the checkout, since building writes beside the source."""
    folder = tmp_path_factory.mktemp("source")
    files = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in filter(None, files.split("\0")):
        if name.startswith(("mmet/", "recipes/", "tests/test_")) or "/" not in name:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes((ROOT / name).read_bytes())
    return folder


@pytest.fixture(scope="module")
def wheel(source, tmp_path_factory) -> Path:
    """The wheel of this source, built without the network."""
    return build_wheel(source, tmp_path_factory.mktemp("wheel"))


def build_wheel(source: Path, folder: Path) -> Path:
    build = ["pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder)]
    subprocess.run([sys.executable, "-m", *build, str(source)], check=True)
    (path,) = folder.glob("mmet-*.whl")
    return path


def test_source_distribution__builds_the_same_wheel(source, wheel, tmp_path):
    build = "import sys; from setuptools.build_meta import build_sdist; build_sdist(sys.argv[1])"
    subprocess.run([sys.executable, "-c", build, str(tmp_path)], cwd=source, check=True, capture_output=True)
    (path,) = tmp_path.glob("mmet-*.tar.gz")
    with tarfile.open(path) as archive:
        folders = {Path(name).parts[1] for name in archive.getnames() if len(Path(name).parts) > 2}
    assert folders == {"mmet", "mmet.egg-info", "recipes"}
    assert contents(build_wheel(path, tmp_path)) == contents(wheel)


def contents(wheel: Path) -> dict[str, bytes]:
    archive = zipfile.ZipFile(wheel)
    return {name: archive.read(name) for name in archive.namelist()}


def test_wheel__holds_modules_scripts_recipes_and_types(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    recipes = {f"mmet/{path.relative_to(ROOT)}" for path in (ROOT / "recipes").rglob("*.yaml")}
    modules = {str(path.relative_to(ROOT)) for path in [*ROOT.glob("*_mmet.py"), *(ROOT / "mmet").rglob("*.py")]}
    assert recipes | modules | {"run_pretrain.py", "run_reid_eval.py", "mmet/py.typed"} <= names
    assert not [name for name in names if name.startswith(("tests", "docs", "benchmarks", "recipes"))]
    data = [path for path in (ROOT / "mmet").rglob("*.*") if path.suffix not in (".py", ".pyc")]
    assert {str(path.relative_to(ROOT)) for path in data} <= names


def test_wheel__every_command_is_a_function_of_it(wheel):
    archive = zipfile.ZipFile(wheel)
    text = archive.read(next(name for name in archive.namelist() if name.endswith("entry_points.txt"))).decode()
    commands = dict(re.findall(r"^(mmet-\w+) = (\S+)$", text, re.MULTILINE))
    assert {"mmet-data", "mmet-doctor", "mmet-eval", "mmet-footage", "mmet-gallery", "mmet-pretrain"} <= set(commands)
    for target in commands.values():
        module, function = target.split(":")
        source = archive.read(f"{module.replace('.', '/')}.py").decode()
        assert re.search(rf"^(def {function}\(|from .* import .*\b{function}\b)", source, re.MULTILINE), target


@pytest.mark.slow
def test_wheel__installed_elsewhere_it_draws_trains_evaluates_and_searches(wheel, tmp_path):
    venv.create(tmp_path / "clean", symlinks=True)
    python = tmp_path / "clean" / "bin" / "python"
    paths = {"base": str(tmp_path / "clean"), "platbase": str(tmp_path / "clean")}
    packages = Path(sysconfig.get_path("purelib", vars=paths))
    # The other packages are read where they are; a path file leaves out this project's editable installation.
    (packages / "others.pth").write_text("\n".join(path for path in sys.path if path.endswith("site-packages")))
    install = ["pip", "--python", str(python), "install", "--quiet", "--no-deps", "--no-index", str(wheel)]
    subprocess.run([sys.executable, "-m", *install], check=True)
    check = Path(__file__).with_name("check_installed.py")
    done = subprocess.run(
        [python, "-I", str(check)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("all commands of the installed package work\n")
