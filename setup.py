"""What setup.cfg cannot say: the recipes, a folder at the top for readers, are package data of `mmet` when installed.

`pip install .` puts `recipes/` into the package as `mmet/recipes`; a checkout and an editable installation read the
folder where it is (`mmet/training/recipes.py`).
"""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["mmet", "mmet.*"]), "mmet.recipes"],
    package_dir={"mmet.recipes": "recipes"},
)
