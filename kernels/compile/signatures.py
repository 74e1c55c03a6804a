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
from dataclasses import dataclass
from unittest import mock

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from kgfast.kernels.triton import configurations
from kgfast.kernels.triton.formulae import Formulae

TYPE_NAMES = {torch.float32: "fp32", torch.float64: "fp64", torch.bfloat16: "bf16", torch.float16: "fp16",
              torch.int64: "i64", torch.int32: "i32", torch.uint32: "u32", torch.bool: "i1",
              torch.uint8: "u8"}  # fmt: skip


@dataclass
class Signature:
    """A kernel as Triton compiles it."""

    kernel: triton.JITFunction
    types: dict[str, str]  # of the arguments that are no constants
    constants: dict[str, object]
    multiples: list[str]  # arguments that are multiples of 16
    options: dict[str, int]

    @property
    def key(self) -> str:
        """The kernel's name and a short digest of everything else."""
        constants = sorted((name, word(value)) for name, value in self.constants.items())
        words = tuple(self.types.items()), constants, tuple(self.multiples), tuple(sorted(self.options.items()))
        return f"{self.kernel.__name__}-{hashlib.sha256(repr(words).encode()).hexdigest()[:10]}"

    def compile(self, architecture: int):
        """Triton's compiled kernel for sm_<architecture>; needs no GPU."""
        names = self.kernel.arg_names
        attributes = {(names.index(one),): [["tt.divisibility", 16]] for one in self.multiples}
        constants = {(names.index(name),): value for name, value in self.constants.items()}
        types = {name: self.types.get(name, "constexpr") for name in names}
        source = ASTSource(self.kernel, types, constants, attributes)
        return triton.compile(source, target=GPUTarget("cuda", architecture, 32), options=self.options)


def word(constant) -> str:
    """How a constant stands in a key."""
    return type(constant).__name__ if isinstance(constant, Formulae) else str(constant)


def describe(kernel, arguments: dict, options: dict) -> Signature:
    """The signature that Triton's launcher would make of these arguments."""
    found = Signature(kernel, {}, {}, [], options)
    for parameter in kernel.params:
        name, value = parameter.name, arguments[parameter.name]
        if isinstance(value, torch.Tensor):
            found.types[name] = "*" + TYPE_NAMES[value.dtype]
            if value.storage_offset() * value.element_size() % 16 == 0:
                found.multiples.append(name)
        elif parameter.is_constexpr or value is None:
            found.constants[name] = value
        elif isinstance(value, bool):
            found.types[name] = "i1"
        elif isinstance(value, int):
            free = not parameter.do_not_specialize
            if value == 1 and free:
                found.constants[name] = value
                continue
            found.types[name] = parameter.annotation_type or ("i32" if -(2**31) <= value < 2**31 else "i64")
            if value % 16 == 0 and free:
                found.multiples.append(name)
        elif isinstance(value, float):
            found.types[name] = "fp32"
        else:
            raise TypeError(f"{kernel.__name__}: argument {name} is a {type(value).__name__}")
    return found


@contextmanager
def architecture_is(architecture: int) -> Iterator[None]:
    """Inside, launchers choose the tiles of sm_<architecture>, with 132 multiprocessors."""
    with mock.patch.object(configurations, "device_properties", lambda device: (architecture, 132)):
        yield


def record(launch: Callable[[], object], architecture: int) -> list[Signature]:
    """The distinct signatures that `launch` (on meta tensors) uses on sm_<architecture>."""
    found: dict[str, Signature] = {}

    def note(kernel, *, grid, warmup, **given):
        arguments = {name: given.pop(name) for name in kernel.arg_names if name in given}
        signature = describe(kernel, arguments, options=given)
        found[signature.key] = signature

    with architecture_is(architecture), mock.patch.object(triton.JITFunction, "run", note):
        launch()
    return list(found.values())
