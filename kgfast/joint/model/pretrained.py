"""The files of a pretrained model's folder: which of them are read, and that no format among them can run code."""

from __future__ import annotations

import json
import os
from pathlib import Path

from kgfast.errors import CheckpointError

ONE, INDEX = "model.safetensors", "model.safetensors.index.json"
MOST_BYTES = 1 << 26  # of the index: a line a parameter


def check_weights(folder: Path) -> None:
    """CheckpointError unless the weights are model.safetensors, or safetensors files of the folder named by its index.

    A file's name alone tells transformers how to read it: what does not end in .safetensors would be unpickled.
    """
    if not (folder / "config.json").is_file():
        raise CheckpointError(f"backbone {folder}: there is no config.json; a local folder of transformers is needed")
    if (folder / "adapter_config.json").exists():
        raise CheckpointError(f"backbone {folder}: adapter_config.json: it is an adapter, and a whole model is needed")
    if (folder / ONE).is_file():
        return
    if not (folder / INDEX).is_file():
        raise CheckpointError(
            f"backbone {folder}: there are no safetensors, neither {ONE} nor {INDEX} (other formats may run code)"
        )
    names = index_names(folder / INDEX)
    for name in names:
        if name != os.path.basename(name) or not name.endswith(".safetensors"):
            raise CheckpointError(f"{folder / INDEX}: {name!r} is not the name of a safetensors file of the folder")
        if not (folder / name).is_file():
            raise CheckpointError(f"{folder / INDEX}: {name} is missing, or no plain file")


def index_names(path: Path) -> list[str]:
    """The files that an index names, each once."""
    try:
        with open(path, "rb") as file:
            names = json.loads(file.read(MOST_BYTES))["weight_map"].values()
        if not names or not all(isinstance(name, str) for name in names):
            raise ValueError("weight_map must name a file for each parameter")
        return sorted(set(names))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path}: is no index of safetensors files: {error!r}") from error
