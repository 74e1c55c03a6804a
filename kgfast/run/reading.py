"""Settings as people write them: YAML files and key=value pairs read, wrong keys and values named in plain words."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import PydanticCustomError

from kgfast.core.files import write_whole
from kgfast.errors import ConfigError
from kgfast.run.yaml_files import load_file, shortened


def read_yaml(path: str | os.PathLike, *, of_run: bool = False) -> dict[str, Any]:
    """The settings in a YAML file; ConfigError names the file. of_run: it must be a plain file, as all of a run."""
    values = load_file(path, of_run=of_run)
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: must hold `key: value` lines, got a {type(values).__name__}")
    found: dict[str, Any] = {}
    for key, value in values.items():
        if canonical(str(key)) in found:
            raise ConfigError(f"{path}: the setting {canonical(str(key))} stands twice, once as {key!r}")
        found[canonical(str(key))] = value
    return found


def settings_of_run(out: str | os.PathLike) -> Path | None:
    """The file of settings that a run left in its folder, if it has one; ConfigError where there is no such folder."""
    if not os.path.isdir(out):
        raise ConfigError(f"resume: there is no folder out={os.fspath(out)!r} to go on with")
    path = Path(out) / "config.yaml"
    return path if os.path.lexists(path) else None


def check_text(value: str) -> str:
    """Text that may be a path too: nothing that the system takes for its end, nor half a character."""
    try:
        wrong = b"\0" in os.fsencode(value)
    except UnicodeEncodeError:
        wrong = True
    if wrong:
        raise PydanticCustomError("text", "Input should be text without NUL and without halves of characters")
    return value


def write_yaml(path: str | os.PathLike, values: Mapping[str, Any]) -> None:
    """Write the settings, whole or not at all."""
    write_whole(path, yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True).encode())


def parse_pairs(pairs: Iterable[str]) -> dict[str, Any]:
    """`["dim=100", "minutes=null"]` as a dictionary; values stay text, which validation converts."""
    values: dict[str, Any] = {}
    for pair in pairs:
        key, separator, value = pair.partition("=")
        if not separator or not key:
            raise ConfigError(f"{pair!r} is not a key=value pair, such as dim=200")
        values[canonical(key)] = None if value == "null" else value
    return values


def canonical(key: str) -> str:
    """`--batch-size` and `batch-size` are `batch_size`."""
    return key.strip().lstrip("-").replace("-", "_")


def refuse_unknown(values: Iterable[str], known: Iterable[str], where: str = "") -> None:
    """ConfigError for the first key that is no setting, with the nearest ones; `where` is the section's name."""
    known = list(known)
    for key in values:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=3)
            hint = f"did you mean {' or '.join(near)}?" if near else f"known settings: {', '.join(known)}"
            shown = shortened(f"{where}.{key}" if where else key)
            raise ConfigError(f"unknown setting {shown}; {hint}")


def explain(error: ValidationError, model: type[BaseModel], where: str = "") -> str:
    """All that pydantic found, each as `key=value: what is allowed`."""
    return "; ".join(describe(one, model, where) for one in error.errors())


def describe(error: Mapping[str, Any], model: type[BaseModel], where: str = "") -> str:
    field = str(error["loc"][0]) if error["loc"] else "settings"
    key = ".".join([*([where] if where else []), *(str(part) for part in error["loc"] or ["settings"])])
    told = model.model_fields[field].description if field in model.model_fields else None
    if error["type"] == "missing":
        return f"{key} is missing: {told}"
    if error["type"] == "extra_forbidden":
        return f"{key}={shortened(error['input'])}: there is no such setting"
    if error["type"] == "string_pattern_mismatch":
        return f"{key}={shortened(error['input'])}: must be {told}"
    return f"{key}={shortened(error['input'])}: {error['msg'].replace('Input should be', 'must be')}"


def boolean(value: Any) -> bool:
    return str(value).lower() in ("true", "1", "yes", "on", "y", "t")


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of nested dictionaries; one without entries is a value."""
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
