#!/usr/bin/env bash
# The compiled kernels under AddressSanitizer and UndefinedBehaviorSanitizer: tests/kernels/sanitize.sh [PYTHON]
# Builds its own copy of the extension in build/sanitize and runs tests/kernels/sanitize_main.py with it.
set -euo pipefail
cd "$(dirname "$0")/../.."
python=$(command -v "${1:-python3}") || { echo "sanitize: no Python at ${1:-python3}" >&2; exit 2; }
python=$(realpath -s "$python")  # -s: a virtual environment is known by the link
export PATH="$(dirname "$python"):$PATH"
folder=build/sanitize
mkdir -p "$folder"
compiler=${CXX:-g++}

cmake -S . -B "$folder" -G Ninja -DCMAKE_BUILD_TYPE=Release -DCMAKE_CXX_COMPILER="$compiler" -DKGFAST_SANITIZE=ON -DKGFAST_CUDA=OFF \
  "-DCMAKE_CXX_FLAGS=-Wno-maybe-uninitialized -Wno-uninitialized" \
  -DKGFAST_VERSION=sanitize -DKGFAST_OUTPUT="$PWD/$folder/_C.so" -DPython_EXECUTABLE="$python" \
  -Dpybind11_DIR="$("$python" -m pybind11 --cmakedir)" >"$folder.log" 2>&1 || { cat "$folder.log" >&2; exit 1; }
cmake --build "$folder"

preload=
for name in libasan.so libubsan.so; do
  library=$("$compiler" -print-file-name="$name")
  [[ -e $library ]] || { echo "sanitize: $compiler has no $name" >&2; exit 2; }
  preload+="${preload:+:}$(realpath "$library")"
done
# Leaks are off: the interpreter and torch keep memory until the process ends.
export ASAN_OPTIONS=detect_leaks=0:abort_on_error=0:exitcode=66:allocator_may_return_null=0
export UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1:exitcode=66
LD_PRELOAD=$preload "$python" tests/kernels/sanitize_main.py "$folder/_C.so"
