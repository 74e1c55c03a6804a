"""Which kernels are compiled with which types and constants: what the launchers ask for, seen on meta tensors.

`record` runs a launcher (tile_cases.py, row_cases.py) on tensors without memory and, in place of launching, notes for
each kernel what Triton would compile it for: the types of its arguments, its constants, which arguments are multiples
of 16 (so that memory is read 16 bytes at a time), warps and stages. So nothing is written down twice, a signature can't
differ from what a device will be asked to run, and no GPU is needed. `Signature.compile` hands it to Triton's compiler
for an architecture; lane.py makes a table of the registers that come out. A signature's key in that table is the
kernel's name and a digest of the rest, in which formulae (kernels/triton/formulae.py) go by their names: it changes
when a launcher asks for something else, and not when a formula is edited.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from unittest import mock

import torch
import triton

from kgfast.kernels.triton import configurations
from kgfast.kernels.triton.formulae import Formulae

TYPE_NAMES = {torch.float32: "fp32", torch.float64: "fp64", torch.bfloat16: "bf16", torch.float16: "fp16",
              torch.int64: "i64", torch.int32: "i32", torch.uint32: "u32", torch.bool: "i1",
              torch.uint8: "u8"}  # fmt: skip


@dataclass(frozen=True)
class Signature:
    """A kernel as Triton compiles it: types and constants by argument name, arguments that are multiples of 16."""

    kernel: object = field(compare=False, repr=False)
    name: str
    types: tuple[tuple[str, str], ...]
    constants: tuple[tuple[str, object], ...]
    multiples: tuple[str, ...]
    options: tuple[tuple[str, int], ...]

    @property
    def key(self) -> str:
        """The kernel's name and a short digest of everything else."""
        constants = sorted((name, word(value)) for name, value in self.constants)
        words = repr((self.types, constants, self.multiples, self.options))
        return f"{self.name}-{hashlib.sha256(words.encode()).hexdigest()[:10]}"

    def compile(self, architecture: int):
        """Triton's compiled kernel for sm_<architecture>; needs no GPU."""
        from triton.backends.compiler import GPUTarget
        from triton.compiler import ASTSource

        names = self.kernel.arg_names
        attributes = {(names.index(one),): [["tt.divisibility", 16]] for one in self.multiples}
        constants = {(names.index(name),): value for name, value in self.constants}
        types = {**dict(self.types), **{name: "constexpr" for name, _ in self.constants}}
        source = ASTSource(self.kernel, {name: types[name] for name in names}, constants, attributes)
        return triton.compile(source, target=GPUTarget("cuda", architecture, 32), options=dict(self.options))


def word(constant) -> str:
    return type(constant).__name__ if isinstance(constant, Formulae) else str(constant)


def describe(kernel, arguments: dict, options: dict) -> Signature:
    """The signature that Triton's launcher would make of these arguments."""
    types, constants, multiples = {}, {}, []
    for parameter in kernel.params:
        name, value = parameter.name, arguments[parameter.name]
        if isinstance(value, torch.Tensor):
            types[name] = "*" + TYPE_NAMES[value.dtype]
            if value.storage_offset() * value.element_size() % 16 == 0:
                multiples.append(name)
        elif parameter.is_constexpr or value is None:
            constants[name] = value
        elif isinstance(value, bool):
            types[name] = "i1"
        elif isinstance(value, int):
            free = not parameter.do_not_specialize
            if value == 1 and free:
                constants[name] = value
                continue
            types[name] = parameter.annotation_type or ("i32" if -(2**31) <= value < 2**31 else "i64")
            if value % 16 == 0 and free:
                multiples.append(name)
        elif isinstance(value, float):
            types[name] = "fp32"
        else:
            raise TypeError(f"{kernel.__name__}: argument {name} is a {type(value).__name__}")
    return Signature(kernel, kernel.__name__, tuple(types.items()), tuple(constants.items()), tuple(multiples),
                     tuple(sorted(options.items())))  # fmt: skip


@contextmanager
def architecture_is(architecture: int) -> Iterator[None]:
    """Inside, launchers choose the tiles of sm_<architecture>, with 132 multiprocessors."""
    with mock.patch.object(configurations, "device_properties", lambda device: (architecture, 132)):
        yield


def record(launch: Callable[[], object], architecture: int) -> list[Signature]:
    """The distinct signatures that `launch` (on meta tensors) uses on sm_<architecture>."""
    found: dict[str, Signature] = {}

    def note(self, *args, grid=None, warmup=None, **kwargs):
        positional = dict(zip(self.arg_names, args, strict=False))
        arguments = positional | {name: value for name, value in kwargs.items() if name in self.arg_names}
        options = {name: value for name, value in kwargs.items() if name not in self.arg_names}
        signature = describe(self, arguments, options)
        found[signature.key] = signature

    with architecture_is(architecture), mock.patch.object(triton.runtime.jit.JITFunction, "run", note):
        launch()
    return list(found.values())
