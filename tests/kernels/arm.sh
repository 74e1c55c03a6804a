#!/usr/bin/env bash
# The compiled kernels on Arm (aarch64), without an Arm machine: tests/kernels/arm.sh [PYTHON [PYTEST ARGUMENT ..]]
# Builds kgfast._C with Debian's cross compiler and runs the conformance tests with it, or what the arguments say, in Debian's
# Python for arm64 with PyTorch's wheel for Arm, under QEMU. Those are fetched into build/arm the first time (some 250 MB);
# nothing is installed in the system. VERSION names another torch.
set -euo pipefail
cd "$(dirname "$0")/../.."
python=$(command -v "${1:-python3}") || { echo "arm: no Python at ${1:-python3}" >&2; exit 2; }
python=$(realpath -s "$python")  # -s: a virtual environment is known by the link
shift || true
export PATH="$(dirname "$python"):$PATH"
[[ $(uname -m) != aarch64 ]] || { echo "arm: this is an Arm machine: make test does it" >&2; exit 2; }
version=${VERSION:-2.10.0}  # 146 MB; that of 2.13.0 has CUDA too, 427 MB
for tool in aarch64-linux-gnu-g++ aarch64-linux-gnu-objdump qemu-aarch64-static apt-get dpkg-deb; do
  command -v "$tool" >/dev/null && continue
  echo "arm: no $tool; on Debian: apt-get install g++-aarch64-linux-gnu qemu-user-static" >&2
  exit 2
done
folder=$PWD/build/arm
system=$folder/system
packages=$folder/packages
mkdir -p "$folder"

# Debian's Python and all that it needs, unpacked. apt keeps its lists and its state in a folder of its own.
if [[ ! -e $folder/system.done ]]; then
  rm -rf "$system" "$folder/apt"
  mkdir -p "$system" "$folder"/apt/{lists,archives}/partial
  touch "$folder/apt/status"
  apt=(apt-get -qq -o "Dir::State=$folder/apt" -o "Dir::State::status=$folder/apt/status" -o "Dir::Cache=$folder/apt"
    -o Debug::NoLocking=1 -o APT::Sandbox::User= -o APT::Architecture=arm64 -o APT::Architectures::=arm64)
  "${apt[@]}" update
  "${apt[@]}" install --yes --no-install-recommends --download-only python3 libstdc++6
  for package in "$folder"/apt/archives/*.deb; do dpkg-deb -x "$package" "$system"; done
  (cd "$folder/apt" && "${apt[@]}" download "lib$(readlink "$system/usr/bin/python3")-dev")  # headers alone
  dpkg-deb -x "$folder"/apt/libpython3*-dev_*.deb "$system"
  touch "$folder/system.done"
fi
name=$(readlink "$system/usr/bin/python3")  # as in python3.11
export PYTHONPATH=$packages:$PWD OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
arm=(qemu-aarch64-static -L "$system" "$system/usr/bin/$name")

# What the tests import. Dependencies are named: pip would choose those of the machine that it runs on.
if [[ ! -e $folder/packages-$version.done ]]; then
  rm -rf "$packages" "$folder"/packages-*.done
  grep -v '^torch==' constraints.txt >"$folder/constraints.txt"
  "$python" -m pip install --quiet --disable-pip-version-check --no-deps --only-binary=:all: --target "$packages" \
    --platform manylinux_2_28_aarch64 --platform manylinux_2_17_aarch64 --python-version "${name#python}" \
    -c "$folder/constraints.txt" "torch==$version" filelock fsspec jinja2 markupsafe mpmath networkx sympy typing_extensions \
    numpy pyarrow rich markdown-it-py mdurl pytest iniconfig packaging pluggy pygments pytest-benchmark py-cpuinfo
  touch "$folder/packages-$version.done"
fi

# Beside the machine's own module: each Python finds its own by the end of the name.
module=$PWD/kgfast/_C$("${arm[@]}" -c 'import sysconfig; print(sysconfig.get_config_var("EXT_SUFFIX"))')
trap 'rm -f "$module"' EXIT
cmake -S . -B "$folder/cmake" -G Ninja -DCMAKE_BUILD_TYPE=Release -DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64 \
  -DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++ "-DCMAKE_CXX_FLAGS=-isystem $system/usr/include" -DKGFAST_CUDA=OFF \
  -DKGFAST_VERSION=arm -DKGFAST_OUTPUT="$folder/_C.so" -DPython_EXECUTABLE="$python" \
  -DPython_INCLUDE_DIR="$system/usr/include/$name" -Dpybind11_DIR="$("$python" -m pybind11 --cmakedir)" \
  >"$folder/cmake.log" 2>&1 || { cat "$folder/cmake.log" >&2; exit 1; }
cmake --build "$folder/cmake"
cp "$folder/_C.so" "$module"

# Multiply-adds of four float32 in the products over all candidates: without them the vectors are no NEON registers.
vectors=$(aarch64-linux-gnu-objdump -d -C --no-show-raw-insn "$folder/_C.so" |
  awk '/^[0-9a-f]+ </ { inside = /product_panel<float>/ } inside && /fmla\tv[0-9]+\.4s/ { count++ } END { print count + 0 }')
(( vectors > 0 )) || { echo "arm: no NEON multiply-add in product_panel<float>" >&2; exit 1; }

"${arm[@]}" - "$module" <<'PYTHON'
import platform, sys, torch, kgfast  # torch first: it brings the OpenMP runtime
from kgfast import _C
assert platform.machine() == "aarch64" and _C.__file__ == sys.argv[1], (platform.machine(), _C.__file__)
assert kgfast.cpu_levels() == ["baseline"], kgfast.cpu_levels()
runtimes = {line.split()[-1] for line in open("/proc/self/maps") if "libgomp" in line}
assert len(runtimes) == 1, f"not the one OpenMP runtime of torch: {runtimes}"
PYTHON
# All but the largest RESCAL, of which the specification takes most of the time there.
(( $# )) || set -- tests/backends/test_conformance*.py -k "not (rescal and dim257)"
# -v undoes the -q of the project's settings
"${arm[@]}" -m pytest -v -p no:cacheprovider --impl cpu "$@" 2>&1 | tee "$folder/tests.log"
echo "arm: aarch64 under QEMU, torch $version, $vectors NEON multiply-adds in product_panel<float>:" \
  "$(tail -1 "$folder/tests.log" | sed -E 's/^=+ | =+$|, [0-9]+ (deselected|warnings?)//g')"
