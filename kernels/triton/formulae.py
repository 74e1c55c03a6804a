"""Formulae that kernels take as a constant: a score's operator, a similarity, an objective, an update rule.

Each is one class of `@triton.jit` functions and facts, and one object of it; kernels have the object as a
`tl.constexpr` and call `OBJECTIVE.value.negative(..)`. So a new one is one class in one file, and costs nothing at run
time. It is an object, not the functions themselves, because Triton 3.2 refuses callables as constants. Facts are plain
Python values to kernels: they stand alone in an `if`, or are passed on as a constant, which may then be compared.
"""

from __future__ import annotations

import hashlib
from functools import cached_property
from typing import ClassVar

from kgfast.errors import KgfastError


class Formulae:
    """A family, `class Operator(Formulae, file=..)`, or a member of one, `class TransE(Operator, of="TransE")`."""

    file: ClassVar[str]
    members: ClassVar[dict]

    def __init_subclass__(cls, file=None, of=None):
        if file is not None:
            cls.file, cls.members = file, {}
        else:
            cls.members[of] = cls()

    @classmethod
    def find(cls, key) -> Formulae:
        """The member registered for `key`."""
        if key not in cls.members:
            known = ", ".join(str(one) for one in cls.members)
            raise KgfastError(
                f"Triton knows no {cls.__name__} {key!r}, only {known}: add a class to kernels/triton/{cls.file}"
            )
        return cls.members[key]

    @property
    def value(self) -> Formulae:
        """Compiled kernels read a constant's value; the interpreter hands over the object itself."""
        return self

    @cached_property
    def cache_key(self) -> str:
        """A digest of all functions' sources and all facts: Triton keeps compiled kernels by it."""
        own = sorted(set(dir(type(self))) - {*dir(Formulae), "file", "members"})
        found = {name: getattr(type(self), name) for name in own}
        keys = {name: getattr(one, "cache_key", None) if callable(one) else one for name, one in found.items()}
        return hashlib.sha256(repr(keys).encode()).hexdigest()

    def __repr__(self) -> str:  # a part of names in compiled code, and of the keys of older Tritons
        return f"{type(self).__name__}_{self.cache_key[:16]}"
