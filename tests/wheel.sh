#!/usr/bin/env bash
# The wheel for Linux, and a try of it in an empty environment: tests/wheel.sh [PYTHON]
# Leaves it in dist/. torch brings the OpenMP runtime, so that both share its threads: the wheel has none of its own.
set -euo pipefail
cd "$(dirname "$0")/.."
python=$(realpath -s "${1:-.venv/bin/python}")
export PATH="$(dirname "$python"):$PATH"
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
pip=(-m pip --quiet --disable-pip-version-check)

"$python" "${pip[@]}" wheel . --no-deps --no-build-isolation -w "$folder/built"
"$python" -m auditwheel repair --exclude libgomp.so.1 -w dist "$folder"/built/*.whl
wheel=$(ls -t dist/*.whl | head -1)

"$python" -m venv "$folder/empty"
"$folder/empty/bin/python" "${pip[@]}" install -c constraints.txt "$wheel"
cd "$folder"  # so that the package is the installed one
empty/bin/kgfast info
empty/bin/kgfast train --data world --model distmult --dim 32 --epochs 3 --out run
empty/bin/kgfast predict run --head Norway --relation capital --k 3
empty/bin/python - <<'PYTHON'
import pathlib, torch, kgfast
assert "site-packages" in kgfast.__file__, kgfast.__file__
assert kgfast.cpu_level() in kgfast.cpu_levels()
table = torch.randn(10, 8, requires_grad=True)
loss = kgfast.one_vs_all_loss(table, torch.randn(3, 8), torch.tensor([[0, 1, 2]]), score="distmult", side="tail")
loss.backward()
assert table.grad.isfinite().all() and float(loss.detach()) > 0
assert (pathlib.Path(kgfast.__file__).parent / "kernels" / "triton").is_dir()
PYTHON
echo "$wheel works in an empty environment"
