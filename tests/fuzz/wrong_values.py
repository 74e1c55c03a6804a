"""Values that are wrong for a kind of argument, by a word that finds each again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

import kgfast

Makers = dict[str, Callable[[], Any]]

OBJECTS: Makers = {
    "none": lambda: None,
    "string": lambda: "1x",
    "empty_string": lambda: "",
    "surrogate": lambda: "\ud800",
    "bytes": lambda: b"1",
    "list": lambda: [1, 2],
    "empty_list": lambda: [],
    "nested_list": lambda: [[[0]]],
    "dict": dict,
    "set": lambda: {1},
    "object": object,
    "type": lambda: int,
    "function": lambda: len,
    "complex": lambda: 1j,
    "ellipsis": lambda: ...,
    "array_of_objects": lambda: np.array([None, object()], dtype=object),
    "array_of_strings": lambda: np.array(["a", "b"]),
}
NUMBERS: Makers = {"three": lambda: 3, "half": lambda: 0.5, "minus": lambda: -1, "huge": lambda: 2**63}
NOT_FINITE: Makers = {
    "nan": lambda: float("nan"),
    "inf": lambda: float("inf"),
    "minus_inf": lambda: float("-inf"),
    "numpy_nan": lambda: np.float32("nan"),
    "tensor_nan": lambda: torch.tensor(torch.nan),
}
TENSORS: Makers = {
    "two_numbers": lambda: torch.tensor([1.0, 2.0]),
    "two_ids": lambda: torch.tensor([1, 2]),
    "meta_number": lambda: torch.empty((), device="meta"),
    "complex_number": lambda: torch.tensor(1j),
    "nested": lambda: torch.nested.nested_tensor([torch.zeros(2, 3), torch.zeros(1, 3)], layout=torch.jagged),
    "sparse": lambda: torch.eye(3).to_sparse(),
    "four_dimensions": lambda: torch.zeros(2, 3, 3, 3),
}
ARRAYS: Makers = {"array": lambda: np.zeros((3, 3)), "array_of_ids": lambda: np.zeros((3, 3), np.int64)}
DTYPES = (torch.bool, torch.uint8, torch.int32, torch.float16, torch.complex64, torch.float8_e4m3fn)


def without(values: Makers, *words: str) -> Makers:
    return {word: make for word, make in values.items() if word not in words}


def some_tensor(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    return torch.ones(shape).to(dtype)


def tensor(shape: tuple[int, ...], dtype: torch.dtype, *, scalars: bool = False) -> Makers:
    """Wrong for an argument that must be a dense tensor of this shape and dtype on the CPU."""
    shown = OBJECTS | NUMBERS | NOT_FINITE | TENSORS | ARRAYS | {"true": lambda: True}
    others = [other for other in (*DTYPES, torch.int64, torch.float32) if other != dtype]
    if dtype.is_floating_point:
        others.remove(torch.float16)  # some may be cast
        others = [other for other in others if not other.is_floating_point or other.itemsize == 1]
    for other in others:
        shown[str(other)[6:]] = lambda other=other: some_tensor(shape, other)
    shown["scalar"] = lambda: torch.ones((), dtype=dtype)
    shown["one_dimension_more"] = lambda: torch.ones((*shape, 2), dtype=dtype)
    shown["longer"] = lambda: torch.ones((shape[0] + 1, *shape[1:]), dtype=dtype)
    shown["meta"] = lambda: torch.ones(shape, dtype=dtype, device="meta")
    shown["sparse_alike"] = lambda: torch.ones(shape, dtype=dtype).to_sparse()
    return shown


def table(rows: int, dim: int, **more: Callable[[], Any]) -> Makers:
    """Wrong for float32 [rows, dim], of which another number of rows is right."""
    return without(tensor((rows, dim), torch.float32), "longer") | {
        "float16": lambda: torch.ones(rows, dim).half(),
        "float64_alone": lambda: torch.ones(rows, dim).double(),
        "embedding_alone": lambda: torch.nn.Embedding(rows, dim).double(),
        "linear": lambda: torch.nn.Linear(dim, rows),
        **more,
    }


def ids(shape: tuple[int, ...], count: int, masked: bool = False, **more: Callable[[], Any]) -> Makers:
    """Wrong for ids below `count`, which int32 may hold too."""
    shown = without(tensor(shape, torch.int64), "int32")
    for word, value in (("beyond", count), ("below", -2 if masked else -1), ("far", 2**62), ("lowest", -(2**63))):
        shown[word] = lambda value=value: torch.cat(
            [torch.zeros(shape).flatten()[1:].long(), torch.tensor([value])]
        ).view(shape)
    return shown | more


def number(lowest: float | None = None, highest: float | None = None, none: bool = False) -> Makers:
    """Wrong for a finite number within bounds."""
    shown = OBJECTS | NOT_FINITE | without(TENSORS) | ARRAYS
    shown |= {
        "digits": lambda: "1",
        "true": lambda: True,
        "beyond_double": lambda: 10**400,
        "wants_gradient": lambda: torch.tensor(0.5, requires_grad=True),
        "tensor_true": lambda: torch.tensor(True),
        "numpy_true": lambda: np.bool_(True),
    }
    if lowest is not None:
        shown["too_low"] = lambda: lowest - 0.25
        shown["numpy_too_low"] = lambda: np.float64(lowest - 1)
    if highest is not None:
        shown["too_high"] = lambda: highest + 0.25
    return without(shown, "none") if none else shown


def integer(lowest: int | None, beyond: int | None = None) -> Makers:
    """Wrong for an integer in [lowest, beyond)."""
    shown = OBJECTS | NOT_FINITE | TENSORS | ARRAYS
    shown |= {
        "digits": lambda: "1",
        "true": lambda: True,
        "half": lambda: 0.5,
        "whole_float": lambda: 4.0,
        "numpy_float": lambda: np.float64(3),
        "numpy_true": lambda: np.bool_(True),
        "tensor_half": lambda: torch.tensor(1.5),
        "tensor_true": lambda: torch.tensor(True),
        "meta_integer": lambda: torch.empty((), dtype=torch.int64, device="meta"),
    }
    if lowest is not None:
        shown |= {"too_low": lambda: lowest - 1, "far_too_low": lambda: -(2**70)}
        if lowest > -(2**63):
            shown["numpy_too_low"] = lambda: np.int64(lowest - 1)
    if beyond is not None:
        shown |= {"too_high": lambda: beyond, "huge": lambda: max(beyond, 2**63), "enormous": lambda: 10**40}
    return shown


def word(right: str, none: bool = False) -> Makers:
    """Wrong for one of several words."""
    shown = OBJECTS | NUMBERS | NOT_FINITE | TENSORS | ARRAYS
    shown |= {
        "capital": right.title,
        "space": lambda: right + " ",
        "of_bytes": right.encode,
        "in_a_list": lambda: [right],
        "array_of_it": lambda: np.array([right]),
        "true": lambda: True,
        "meta": lambda: torch.ones(2, device="meta"),
        "code": lambda: 0,
    }
    return without(shown, "none") if none else shown


def flag() -> Makers:
    """Wrong for True or False."""
    return OBJECTS | NOT_FINITE | without(TENSORS) | ARRAYS | {"two": lambda: 2, "digits": lambda: "0"}


def known(entities: int, relations: int, none: bool = True) -> Makers:
    """Wrong for the KnownTriples of a graph."""
    shown = (
        OBJECTS | NUMBERS | NOT_FINITE | TENSORS | ARRAYS | {"class": lambda: kgfast.KnownTriples, "true": lambda: True}
    )
    triple = torch.zeros(1, 3, dtype=torch.int64)
    shown["triples"] = lambda: triple
    shown["more_entities"] = lambda: kgfast.KnownTriples.from_triples(triple, entities + 1, relations)
    shown["fewer_entities"] = lambda: kgfast.KnownTriples.from_triples(triple, entities - 1, relations)
    shown["more_relations"] = lambda: kgfast.KnownTriples.from_triples(triple, entities, relations + 1)
    return without(shown, "none") if none else shown


def instance(none: bool = False) -> Makers:
    """Wrong for an object of a class of kgfast's."""
    shown = OBJECTS | NUMBERS | NOT_FINITE | TENSORS | ARRAYS | {"true": lambda: True}
    return without(shown, "none") if none else shown
