"""The ops that torch sees: `library` registers them, `autograd` makes their gradients."""

from kgfast.ops.library import of

__all__ = ["of"]
