#!/usr/bin/env bash
# Everything that only a GPU can show, in one call of under ten minutes: build, conformance, sanitizer, launches, times of
# every op against its floor and its rivals, training. Needs torch, and Triton or nvcc; no network.
#
#     benchmarks/gpu.sh [--device cuda|cpu] [--tiny] [--out FOLDER] [--python PYTHON] [--data FOLDER] [--quick] [STAGE ..]
#
# Each stage has its own time limit and leaves its own part, so that one that fails or hangs does not lose the others. The
# last stage joins the parts into one dated file, results/gpu/<chip>-<date>.json (or FOLDER). --device cpu --tiny runs every
# path here on the CPU (Triton's interpreter, CUDA kernels on the host), so that no slip of the pen waits for a GPU.
# Two stages must be named: `tests` runs the test suite there, `heads` times losses over all candidates beside all rivals. --quick: fewer rounds of each op and half of the recipe's time.
set -uo pipefail
cd "$(dirname "$0")/.."
root=$PWD device=cuda tiny= out= python=python3 data= quick= stages=()
while (($#)); do
  case $1 in
    --device) device=$2; shift 2 ;;
    --tiny) tiny=--tiny; shift ;;
    --out) out=$2; shift 2 ;;
    --python) python=$2; shift 2 ;;
    --data) data=$2; shift 2 ;;
    --quick) quick=1; shift ;;
    -*) echo "gpu.sh: $1 is unknown" >&2; exit 2 ;;
    *) stages+=("$1"); shift ;;
  esac
done
((${#stages[@]})) || stages=(build ceilings conformance sanitize launches ops training report)
[[ -n $out ]] || out=${OUT:-$root/benchmarks/results/gpu}
work=$root/build/gpu-$device parts=$root/build/gpu-$device/parts
mkdir -p "$work" "$parts" "$out" || exit 2
[[ " ${stages[*]} " == *" build "* ]] && rm -f "$parts"/*.json
if [[ $device == cpu ]]; then
  export TRITON_INTERPRET=1 KGFAST_CUDA_HOST=1 OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
fi
options=(--device "$device" $tiny)

# stage NAME SECONDS COMMAND ..: its exit status, seconds and the end of its output are parts of the result
failed=() deadline=$((SECONDS + 585))
stage() {
  local name=$1 limit=$2 begin status left=$((deadline - SECONDS))
  shift 2
  [[ " ${stages[*]} " == *" $name "* ]] || return 0
  [[ $name == report ]] || left=$((left - 15))
  ((limit = limit < left ? limit : (left > 1 ? left : 1)))
  begin=$(date +%s.%N)
  echo "== $name (at most $limit s)"
  timeout --kill-after=5 "$limit" "$@" >"$work/$name.log" 2>&1
  status=$?
  tail -n 25 "$work/$name.log"
  "$interpreter" - "$name" "$status" "$begin" "$limit" "$work/$name.log" "$parts/stage-$name.json" <<'END'
import json, sys, time
name, status, begin, limit, log, path = sys.argv[1:]
seconds = round(time.time() - float(begin), 1)
end = open(log, encoding="utf-8", errors="replace").read()[-4000:]
part = {"stage": name, "status": int(status), "seconds": seconds, "limit": float(limit), "end_of_output": end if int(status) else ""}
open(path, "w", encoding="utf-8").write(json.dumps(part))
print(f"== {name}: {'done' if int(status) == 0 else 'FAILED, status ' + status} after {seconds} s")
END
  ((status == 0)) || failed+=("$name")
}

build() {
  # a virtual environment that sees the packages of $python, which may itself be of one
  "$python" -m venv "$work/venv" || "$python" -m venv --without-pip "$work/venv" || return 1
  local own
  own=$("$work/venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
  "$python" -c 'import site, sysconfig; print("\n".join(dict.fromkeys([*site.getsitepackages(), sysconfig.get_path("purelib"), site.getusersitepackages()])))' >"$own/outer.pth"
  # without pip: in place, where the package kgfast.kernels is a link
  "$work/venv/bin/python" -m pip install --quiet --no-index --no-deps --no-build-isolation -e . \
    || { "$work/venv/bin/python" setup.py -q build_ext --inplace && ln -sfn ../kernels kgfast/kernels; } || return 1
  "$work/venv/bin/python" -m kgfast info 2>/dev/null || "$work/venv/bin/python" -c 'import json; from kgfast.cli.info import collect; print(json.dumps(collect(), indent=1))'
}

if [[ $device == cpu ]]; then
  interpreter=$python  # the dry run uses what is built
else
  interpreter=$python
  export -f build
  export python work
  stage build 240 bash -c build
  [[ -x $work/venv/bin/python ]] && interpreter=$work/venv/bin/python
fi
export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1

stage ceilings 30 "$interpreter" -m benchmarks.gpu.ceilings "${options[@]}" --part "$parts/ceilings.json"
stage conformance 150 "$interpreter" -m benchmarks.gpu.conformance "${options[@]}" --part "$parts/conformance.json"
sanitizer=$(command -v compute-sanitizer || echo /usr/local/cuda/bin/compute-sanitizer)
if [[ -x $sanitizer && $device == cuda ]]; then
  # every tensor in memory of its own, or memcheck would see torch's large blocks alone; either tool runs whatever the other says
  stage sanitize 95 bash -c "worst=0; for tool in memcheck racecheck; do PYTORCH_NO_CUDA_MEMORY_CACHING=1 timeout 45 '$sanitizer' \
    --tool \$tool --error-exitcode 9 --launch-timeout 60 '$interpreter' -m benchmarks.gpu.sanitize ${options[*]} || worst=\$?; done; exit \$worst"
else
  stage sanitize 60 "$interpreter" -m benchmarks.gpu.sanitize "${options[@]}" --without
fi
# names as they fail: the time limit may end the suite before its summary
stage tests 240 bash -c "'$interpreter' -m pytest -v --tb=short -p no:cacheprovider -n 12 2>&1 | grep -vE ' (PASSED|SKIPPED) '; exit \${PIPESTATUS[0]}"
stage launches 75 "$interpreter" -m benchmarks.gpu.launches "${options[@]}" --part "$parts/launches.json"
stage ops 150 "$interpreter" -m benchmarks.gpu.ops "${options[@]}" --part "$parts/ops.json" ${quick:+--seconds 0.5}
# must be named: losses over all candidates beside everything that is here
stage heads 175 "$interpreter" -m benchmarks.gpu.heads "${options[@]}" --part "$parts/heads.json" ${quick:+--seconds 0.3}
stage training 90 "$interpreter" -m benchmarks.gpu.training "${options[@]}" --part "$parts/training.json" ${data:+--data "$data"} ${quick:+--seconds 25}
stage report 20 "$interpreter" -m benchmarks.gpu.report "${options[@]}" --parts "$parts" --out "$out"
((${#failed[@]} == 0)) || { echo "failed: ${failed[*]}" >&2; exit 1; }
