"""Counts what a call launches on a GPU, where there is none: Triton's kernels in the interpreter, and torch's ops that
are no views and have something to do."""

from collections import Counter

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from triton.runtime import interpreter

MEMORY = ("empty", "new_empty", "empty_like", "empty_strided")


class Launches(TorchDispatchMode):
    """Inside: `found`, how often each kernel and each op of torch was launched."""

    def __init__(self):
        super().__init__()
        self.found: Counter[str] = Counter()

    def __enter__(self):
        self.launch = interpreter.GridExecutor.__call__

        def note(executor, *arguments, **named):
            self.found[executor.fn.__name__] += 1
            self.quiet = True
            try:
                return self.launch(executor, *arguments, **named)
            finally:
                self.quiet = False

        self.quiet = False
        interpreter.GridExecutor.__call__ = note
        return super().__enter__()

    def __exit__(self, *error):
        interpreter.GridExecutor.__call__ = self.launch
        return super().__exit__(*error)

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        name = function.name().partition("::")[2].partition(".")[0]
        if not self.quiet and not function.is_view and name not in MEMORY and does_something(result):
            self.found[f"torch.{name}"] += 1
        return result

    def total(self) -> int:
        return sum(self.found.values())


def does_something(result) -> bool:
    """Whether an op wrote anything; assertions return nothing and are launched all the same."""
    tensors = [one for one in torch.utils._pytree.tree_leaves(result) if isinstance(one, torch.Tensor)]
    return not tensors or any(one.numel() for one in tensors)
