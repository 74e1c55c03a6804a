#!/usr/bin/env bash
# The core's tests with other versions of torch, before a release: tests/torch_matrix.sh [PYTHON [VERSION ..]]
# Each version is installed in an environment of its own in build/torch-matrix (a CUDA build takes some 5 GB) and removed
# again; kgfast._C, which knows nothing of torch, is the one that PYTHON built here. The last line is a table for the docs.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${1:-python3}
shift || true
versions=("${@:-}")
[[ -n ${versions[0]} ]] || versions=(2.6.0 2.8.0 2.11.0 newest)
compiled=(tests/ops/test_compile.py tests/ops/test_ops.py)
core=(--quick tests/core tests/ops/test_autograd.py tests/functional tests/steps tests/backends/test_conformance*.py)
needed=(numpy pydantic safetensors pyarrow pyyaml rich typer pytest pytest-benchmark)
folder=build/torch-matrix
trap 'rm -rf "$folder"' EXIT
failed=0
table="| torch | compiled losses, ops | core |"$'\n'"|---|---|---|"

# Runs tests, shows those that fail, and adds the summary to the table; -v undoes the -q of the project's settings.
run() {
  PYTHONPATH=$PWD "$folder/bin/python" -m pytest -v --tb=short -p no:cacheprovider "$@" >"$folder/log" 2>&1 || failed=1
  grep -E '^(FAILED|ERROR|E  )' "$folder/log" | cut -c1-200 || true
  table+=" $(tail -1 "$folder/log" | sed -E 's/^=+ | in [^=]* =+$|, [0-9]+ (deselected|warnings?)//g') |"
}

for version in "${versions[@]}"; do
  rm -rf "$folder"
  "$python" -m venv "$folder"
  own=$folder/bin/python
  wanted=torch
  [[ $version == newest ]] || wanted+="==$version"
  if ! "$own" -m pip install --quiet --no-cache-dir --disable-pip-version-check "$wanted" "${needed[@]}" >"$folder/log" 2>&1; then
    tail -3 "$folder/log" >&2
    failed=1 table+=$'\n'"| $version | could not be installed | |"
    continue
  fi
  version=$("$own" -c 'import torch; print(torch.__version__)')
  echo "== torch $version"
  table+=$'\n'"| $version |"
  run "${compiled[@]}"
  run "${core[@]}"
done
echo "$table"
exit "$failed"
