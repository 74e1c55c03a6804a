#!/usr/bin/env bash
# The compiled kernels under sanitizers: tests/kernels/sanitize.sh [PYTHON] [address|thread]
# address: AddressSanitizer and UndefinedBehaviorSanitizer, with every kernel and some fuzzed calls; thread: ThreadSanitizer.
# Builds its own copy of the extension in build/sanitize and runs tests/kernels/sanitize_main.py with it.
set -euo pipefail
cd "$(dirname "$0")/../.."
python=$(command -v "${1:-python3}") || { echo "sanitize: no Python at ${1:-python3}" >&2; exit 2; }
python=$(realpath -s "$python")  # -s: a virtual environment is known by the link
export PATH="$(dirname "$python"):$PATH"
kind=${2:-address}
folder=build/sanitize
[[ $kind == thread ]] && folder=build/sanitize-thread
mkdir -p "$folder"
compiler=${CXX:-g++}

cmake -S . -B "$folder" -G Ninja -DCMAKE_BUILD_TYPE=Release -DCMAKE_CXX_COMPILER="$compiler" "-DKGFAST_SANITIZE=$kind" \
  -DKGFAST_CUDA=OFF "-DCMAKE_CXX_FLAGS=-Wno-maybe-uninitialized -Wno-uninitialized" \
  -DKGFAST_VERSION=sanitize -DKGFAST_OUTPUT="$PWD/$folder/_C.so" -DPython_EXECUTABLE="$python" \
  -Dpybind11_DIR="$("$python" -m pybind11 --cmakedir)" >"$folder.log" 2>&1 || { cat "$folder.log" >&2; exit 1; }
cmake --build "$folder"

libraries=(libasan.so libubsan.so)
[[ $kind == thread ]] && libraries=(libtsan.so)
preload=
for name in "${libraries[@]}"; do
  library=$("$compiler" -print-file-name="$name")
  [[ -e $library ]] || { echo "sanitize: $compiler has no $name" >&2; exit 2; }
  preload+="${preload:+:}$(realpath "$library")"
done
# Leaks are off: the interpreter and torch keep memory until the process ends.
export ASAN_OPTIONS=detect_leaks=0:abort_on_error=0:exitcode=66:allocator_may_return_null=0
export UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1:exitcode=66
export TSAN_OPTIONS=halt_on_error=1:exitcode=66:report_signal_unsafe=0:ignore_noninstrumented_modules=1
if [[ $kind == thread ]]; then  # which needs addresses where it expects them
  setarch "$(uname -m)" -R env LD_PRELOAD="$preload" OMP_NUM_THREADS=1 "$python" tests/kernels/sanitize_main.py "$folder/_C.so" threads
else
  LD_PRELOAD=$preload "$python" tests/kernels/sanitize_main.py "$folder/_C.so"
  LD_PRELOAD=$preload "$python" tests/fuzz --extension "$PWD/$folder/_C.so" --calls "${CALLS:-4000}" --files 0 --keep build/fuzz-sanitize.txt
fi
