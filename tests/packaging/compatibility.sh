#!/usr/bin/env bash
# Install the wheel with the lowest or the highest versions that setup.cfg allows, and use it from an empty folder.
#
#   bash tests/packaging/compatibility.sh 3.10 lowest-direct
#   bash tests/packaging/compatibility.sh 3.13 highest
#   TESTS="tests/modeling tests/gallery" bash tests/packaging/compatibility.sh 3.11 highest 'torch==2.13.0'
#
# Needs `uv` (pip install uv) and a Python of that version, which `uv` finds or downloads. More arguments go to
# `uv pip install`. Files and folders in TESTS are run by pytest in the same environment afterwards.
set -euo pipefail
python=$1 resolution=$2
shift 2
source=$(cd "$(dirname "$0")/../.." && pwd)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
uv build --quiet --wheel --out-dir "$folder" "$source"
uv venv --quiet --python "$python" "$folder/environment"
install=(uv pip install --quiet --python "$folder/environment/bin/python")
# "Direct" requirements are those of setup.cfg only where that is named: a wheel's own would be the highest.
"${install[@]}" --resolution "$resolution" -r "$source/setup.cfg" --extra footage "$@"
"${install[@]}" --no-deps "$folder"/mmet-*.whl
export OMP_NUM_THREADS=2
(cd "$folder" && environment/bin/python -I "$source/tests/packaging/check_installed.py")
if [ -n "${TESTS:-}" ]; then
    "${install[@]}" pytest hypothesis
    cd "$source"
    # shellcheck disable=SC2086  (a list of words)
    HF_HUB_OFFLINE=1 "$folder/environment/bin/python" -m pytest -q -m 'not slow and not common' $TESTS
fi
