"""Files of torch.save that hold arrays of NumPy, read as data: nothing in them is called but what makes an array.

`torch.load(weights_only=True)` reads the same only where a file was written with protocol 2 of pickle, which can't hold
the larger of these arrays.
"""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import IO, Any

import numpy as np

from kgfast.errors import DataError

RECONSTRUCT = np.zeros(0).__reduce__()[0]
ALLOWED = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): str.encode,  # how protocol 2 holds bytes
    **{(f"numpy.{core}.multiarray", "_reconstruct"): RECONSTRUCT for core in ("core", "_core")},
}


class Arrays(pickle.Unpickler):
    """Lets in dicts, lists, strings, numbers and arrays of NumPy."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, and only arrays of NumPy are let in")
        return ALLOWED[module, name]

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError("it holds tensors, and only arrays of NumPy are let in")


def read_arrays(path: Path) -> Any:
    """What the file holds; DataError where that is anything else."""
    try:
        with path.open("rb") as file:
            if not zipfile.is_zipfile(file):
                file.seek(0)
                return older(file)
            with zipfile.ZipFile(file) as archive:
                inside = [name for name in archive.namelist() if name.endswith("/data.pkl")]
                if len(inside) != 1:
                    raise DataError(f"{path} is no file of torch.save")
                with archive.open(inside[0]) as content:
                    return Arrays(content).load()
    except (DataError, OSError):
        raise
    except Exception as error:  # a damaged pickle raises whatever it comes upon
        raise DataError(f"{path} can't be read as data alone: {type(error).__name__}: {error}") from None


def older(file: IO[bytes]) -> Any:
    """Before torch 1.6: a magic number, a version and a description of the machine, then the content."""
    for _ in range(3):
        Arrays(file).load()
    return Arrays(file).load()
