"""Where the conformance suite runs: a lane is a backend on a device, with the sizes and dtypes that fit there.

Without options: the CPU's kernels at every instruction set, the CUDA kernels on the host, and every backend of a GPU
that is here; in a process with TRITON_INTERPRET=1 (see test_interpreter.py) Triton's kernels on the CPU instead.
`--impl` and `--device` name others.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest
import torch

from kgfast import backends, reference, testing
from kgfast.backends.base import Backend
from kgfast.backends.cpu import _C
from kgfast.core.environment import CUDA_ON_HOST, TRITON_INTERPRETED

if TRITON_INTERPRETED:
    import interpreter

    interpreter.quicken_interpreter()
    interpreter.multiply_in_order()

FLOAT32, FLOAT64 = torch.float32, torch.float64
SCORES = tuple(reference.SCORES)  # kgfast's own: tests may register others later

# of a device: the values of the axes that a test leaves to its lane
COMMON = dict(queries=(7, 1, 130), rows=(1, 2, 37, 1100), row_dim=(2, 34, 130), drawn=(1, 2, 5, 64),
              triples=(7, 1, 0, 65), k=(1, 10, 203, 210),
              size=("1x1x1", "7x5x6", "9x37x33", "6x700x16", "300x40x9"))  # fmt: skip
FULL = COMMON | dict(dim=testing.DIMS, negatives=testing.NEGATIVES, batch=(7, 1))
HOST = COMMON | dict(dim=(1, 16, 33, 130), negatives=(1, 5, 20), batch=(7, 1))
DEVICE = COMMON | dict(dim=(1, 16, 33, 257), negatives=(1, 5, 64), batch=(7, 1, 150))
# where a launch takes milliseconds
INTERPRETED = dict(dim=(34, 1, 15), negatives=(5, 1), batch=(5,), queries=(7, 1), rows=(1, 37, 70), row_dim=(6, 38),
                   drawn=(21, 1), triples=(6, 0), k=(1, 10, 40, 45),
                   size=("1x1x1", "7x37x33", "37x100x9", "16x64x32"))  # fmt: skip


@dataclass(frozen=True)
class Lane:
    """A backend on a device. level: the CPU's instruction set. slow: an interpreter, for which few small cases are."""

    impl: str
    device: str
    level: str | None = None
    slow: bool = False
    tiles: bool = True  # whether it has the ops over all candidates
    dtypes: tuple[torch.dtype, ...] = (FLOAT32, FLOAT64)
    sizes: dict = field(default_factory=dict, hash=False, compare=False)

    @property
    def name(self) -> str:
        return f"{self.impl}-{self.level or ('interpreter' if self.slow else self.device)}"

    @property
    def entities(self) -> int:
        return 11 if self.slow else testing.NUM_ENTITIES

    @property
    def backend(self) -> Backend:
        return backends.get(self.impl)

    @property
    def widest(self) -> bool:
        """Whether it is no lower instruction set of a CPU."""
        return self.level in (None, _C.cpu_levels()[-1])

    def case(self, score: str, dim: int, batch: int, negatives: int, **options) -> testing.Case:
        """A case of the lane's size, on its device."""
        if self.slow and score == "rescal":
            dim = min(dim, 6)
        sizes = {"num_entities": self.entities, **options}
        return testing.make_case(score, dim, batch, negatives, **sizes).on(self.device)

    def known(self, triples: torch.Tensor):
        """Known triples, the batch's among them, such that some candidates are left."""
        count = 30 if self.slow else 120
        return testing.make_known(triples.cpu(), count=count, num_entities=self.entities).to(self.device)

    def on(self, *tensors):
        """The tensors on the lane's device."""
        return [one.to(self.device) if isinstance(one, torch.Tensor) else one for one in tensors]

    def compare(self, op: str, leaves, call, **options) -> None:
        """`testing.compare` for this lane's backend."""
        testing.compare(op, self.on(*leaves), call, self.impl, **options)

    @contextmanager
    def active(self) -> Iterator[Lane]:
        """Inside, the backend serves the lane's tensors, at its level."""
        with pytest.MonkeyPatch.context() as patch:
            if self.impl == "cuda" and self.device == "cpu":
                patch.setattr("kgfast.backends.cuda.ON_HOST", True)
            before = _C.cpu_level()
            _C.set_cpu_level(self.level or before)
            try:
                yield self
            finally:
                _C.set_cpu_level(before)


def cpu_lanes() -> list[Lane]:
    return [Lane("cpu", "cpu", level, sizes=FULL) for level in _C.cpu_levels()]


def device_lanes(impl: str) -> list[Lane]:
    """A backend of GPUs, on one."""
    dtypes = (FLOAT32,) if impl == "cuda" else (FLOAT32, FLOAT64)
    return [Lane(impl, "cuda", dtypes=dtypes, sizes=DEVICE)]


def emulated_lanes(impl: str) -> list[Lane]:
    """A backend of GPUs, on the CPU: Triton's in its interpreter, where it was chosen; CUDA's kernels on the host,
    whose tiles are Triton's."""
    if impl == "triton":
        return [Lane(impl, "cpu", slow=True, sizes=INTERPRETED)] if TRITON_INTERPRETED else []
    possible = _C.cuda.on_host and backends.TRITON
    return [Lane(impl, "cpu", tiles=TRITON_INTERPRETED, slow=TRITON_INTERPRETED, dtypes=(FLOAT32,),
                 sizes=INTERPRETED if TRITON_INTERPRETED else HOST)] if possible else []  # fmt: skip


def lanes_of(impl: str | None, device: str | None) -> list[Lane]:
    """The lanes that `--impl` and `--device` ask for; a usage error where what is named can't serve."""
    if impl is None and device is None:
        if TRITON_INTERPRETED:  # the others have a process without
            return emulated_lanes("triton") + (emulated_lanes("cuda") if CUDA_ON_HOST else [])
        on_gpu = [lane for one in ("triton", "cuda") if not backends.why_not(one, "cuda") for lane in device_lanes(one)]
        return emulated_lanes("cuda") + cpu_lanes() + (on_gpu if torch.cuda.is_available() else [])
    found = []
    for name in ("cpu", "triton", "cuda") if impl is None else (impl,):
        if device == "cuda":
            reason = backends.why_not(name, "cuda") if torch.cuda.is_available() else "no CUDA device was found"
            found += [] if reason else device_lanes(name)
        else:
            found += cpu_lanes() if name == "cpu" else emulated_lanes(name)
            reason = f"not on the CPU{'' if name == 'cuda' else ' without TRITON_INTERPRET=1'}"
        if impl is not None and not found:
            raise pytest.UsageError(f"--impl {impl} --device {device or 'cpu'}: {reason}")
    return found


def name_of(setting: dict) -> str:
    """An id for a setting: words, flags that are set, numbers by name."""
    words = []
    for key, value in setting.items():
        if isinstance(value, torch.dtype):
            words.append({FLOAT32: "f32", FLOAT64: "f64"}.get(value, str(value).removeprefix("torch.")))
        elif isinstance(value, str):
            words.append(value)
        elif value is True or (value and isinstance(value, float)):
            words.append(key)
        elif isinstance(value, int) and not isinstance(value, bool):
            words.append(f"{key}{value}")
    return "-".join(words)


def settings_of(lane: Lane, names: tuple[str, ...], axes: dict) -> list[dict]:
    """Few settings in which every pair of values occurs, for every score where there are scores; in a slow lane the
    score is an axis as any other. `names`: axes of which the lane has the values."""
    axes = {name: lane.dtypes if name == "dtype" else lane.sizes[name] for name in names} | axes
    scores = axes.pop("score", None)
    if scores is None or lane.slow:
        return testing.pairwise(**({} if scores is None else {"score": scores}), **axes)
    return [{"score": score, **setting} for score in scores for setting in testing.pairwise(**axes)]


def parametrize(metafunc) -> None:
    """`lane`, and `setting` for a test with axes.

    @pytest.mark.lanes(tiles=True, widest=True, slow=False, impls=(..)) leaves out lanes without tiles, lower
    instruction sets, interpreters, other backends. @pytest.mark.axes("dim", objective=(..)) makes settings.
    """
    config, wanted = metafunc.config, metafunc.definition.get_closest_marker("lanes")
    found = lanes_of(config.getoption("--impl"), config.getoption("--device"))
    options = {} if wanted is None else wanted.kwargs
    assert options.keys() <= {"tiles", "widest", "slow", "impls"}, options
    found = [
        lane
        for lane in found
        if (lane.tiles or not options.get("tiles")) and (lane.widest or not options.get("widest"))
        and (not lane.slow or options.get("slow", True)) and lane.impl in options.get("impls", (lane.impl,))
    ]  # fmt: skip
    mark = metafunc.definition.get_closest_marker("axes")
    if mark is None:
        metafunc.parametrize("lane", found, ids=[lane.name for lane in found], indirect=True)
        return
    rows = [(lane, setting) for lane in found for setting in settings_of(lane, mark.args, dict(mark.kwargs))]
    ids = [f"{lane.name}-{name_of(setting)}" for lane, setting in rows]
    metafunc.parametrize("lane, setting", rows, ids=ids, indirect=["lane"])
