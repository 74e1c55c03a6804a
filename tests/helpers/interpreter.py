"""Triton's interpreter, made fast enough for tests and exact in the order of its sums.

It is chosen by TRITON_INTERPRET=1 before Triton is imported, so tests of it have a process of their own.
"""

import numpy as np
from triton.runtime import interpreter


def quicken_interpreter():
    """Triton's interpreter patches its language anew, one layer on top of the other, whenever a kernel calls a device
    function. Here a launch patches each of the language's modules once."""
    patch, launch = interpreter._patch_lang, interpreter.GridExecutor.__call__
    scopes = {}

    def patch_once(function):
        modules = frozenset(id(value) for value in function.__globals__.values() if value is lang or value is lang.core)
        if modules not in scopes:
            scopes[modules] = patch(function)
        return Kept()

    class Kept:
        def restore(self):
            """At the end of the launch, not of a call."""

    def launch_and_restore(self, *args, **kwargs):
        try:
            return launch(self, *args, **kwargs)
        finally:
            for scope in reversed(scopes.values()):
                scope.restore()
            scopes.clear()

    lang = interpreter.tl
    interpreter._patch_lang, interpreter.GridExecutor.__call__ = patch_once, launch_and_restore


def multiply_in_order():
    """Every number of the interpreter's products is summed in the same order, as on a GPU: NumPy's libraries sum
    otherwise at the edges of a matrix, on some processors."""

    def dot(self, a, b, d, input_precision, max_num_imprecise_acc):
        sum, x, y = np.zeros_like(d.data), a.data.astype(np.float64), b.data.astype(np.float64)
        for k in range(len(y)):
            np.add(sum, x[:, k, None] * y[k], out=sum, casting="same_kind")  # rounded once, as by a multiply-add
        return interpreter.TensorHandle(sum + d.data, d.dtype.scalar)

    interpreter.InterpreterBuilder.create_dot = dot
