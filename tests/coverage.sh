#!/usr/bin/env bash
# Which lines the tests reach, and of Python which branches: tests/coverage.sh [PYTHON [JOBS]]
# All is done in a copy of the tree in build/coverage, whose C++ is compiled to count. Kernels in Triton and CUDA are left
# out: they run in an interpreter and on a device. Prints both tables; what is below 90 % is listed in docs/coverage.md.
set -euo pipefail
cd "$(dirname "$0")/.."
python=$(realpath -s "${1:-python3}")
jobs=${2:-auto}
export PATH="$(dirname "$python"):$PATH"
folder=$PWD/build/coverage tree=$PWD/build/coverage/tree
version=$("$python" -c "import kgfast; print(kgfast.__version__)")
rm -rf "$tree"
mkdir -p "$tree"
git ls-files -z | xargs -0 cp --parents -t "$tree"
ln -s ../kernels "$tree/kgfast/kernels"

cmake -S "$tree" -B "$folder/build" -G Ninja -DCMAKE_BUILD_TYPE=Release -DKGFAST_CUDA=OFF "-DKGFAST_VERSION=$version" \
  "-DCMAKE_CXX_FLAGS=--coverage -fprofile-update=atomic" "-DKGFAST_OUTPUT=$tree/kgfast/_C.so" \
  -DPython_EXECUTABLE="$python" -Dpybind11_DIR="$("$python" -m pybind11 --cmakedir)" >"$folder/log" 2>&1 \
  && cmake --build "$folder/build" >>"$folder/log" 2>&1 || { tail -20 "$folder/log" >&2; exit 1; }

cd "$tree"
find "$folder/build" -name '*.gcda' -delete
export PYTHONPATH=$tree
status=0
coverage erase
coverage run -m pytest -n "$jobs" --dist worksteal -p no:cacheprovider || status=$?
coverage combine --quiet
coverage report
gcovr --root "$tree" --filter csrc/ --merge-mode-functions=separate --gcov-ignore-parse-errors=negative_hits.warn "$folder/build"
exit "$status"
