#!/usr/bin/env bash
# Install the wheel with the lowest or the highest versions that setup.cfg allows, and use it from an empty folder.
#
#   bash tests/packaging/compatibility.sh 3.10 lowest-direct
#   bash tests/packaging/compatibility.sh 3.13 highest
#
# Needs `uv` (pip install uv) and a Python of that version, which `uv` finds or downloads. More arguments go to
# `uv pip install`, such as 'torch<=2.14.1'.
set -euo pipefail
python=$1 resolution=$2
shift 2
source=$(cd "$(dirname "$0")/../.." && pwd)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
uv build --quiet --wheel --out-dir "$folder" "$source"
uv venv --quiet --python "$python" "$folder/environment"
uv pip install --quiet --python "$folder/environment/bin/python" --resolution "$resolution" "$folder"/mmet-*.whl "$@"
cd "$folder"
OMP_NUM_THREADS=2 environment/bin/python -I "$source/tests/packaging/check_installed.py"
