"""Settings as people write them: YAML files and key=value pairs read, wrong keys and values named in plain words."""

from __future__ import annotations

import difflib
import os
from collections.abc import Hashable, Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from kgfast.errors import ConfigError


def read_yaml(path: str | os.PathLike) -> dict[str, Any]:
    """The settings in a YAML file; ConfigError names the file."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    try:
        values = yaml.load(text, OnceLoader)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not YAML: {' '.join(str(error).split())}") from error
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


class OnceLoader(yaml.SafeLoader):
    """SafeLoader, where YAML's last of two equal keys would win: an error names the key and both lines."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        lines: dict[Any, int] = {}
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue  # what << brings may be overridden
            key = self.construct_object(key_node, deep=True)
            line = key_node.start_mark.line + 1
            if isinstance(key, Hashable):
                if key in lines:
                    problem = f"the key {key!r} stands twice, in lines {lines[key]} and {line}"
                    raise yaml.constructor.ConstructorError(None, None, problem)
                lines[key] = line
        return super().construct_mapping(node, deep)


def write_yaml(path: str | os.PathLike, values: Mapping[str, Any]) -> None:
    """Write to a temporary name, then rename."""
    temporary = Path(f"{path}.tmp")
    temporary.write_text(yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True), encoding="utf-8")
    os.replace(temporary, path)


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
            raise ConfigError(f"unknown setting {f'{where}.{key}' if where else key!r}; {hint}")


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
        return f"{key}={error['input']!r}: there is no such setting"
    if error["type"] == "string_pattern_mismatch":
        return f"{key}={error['input']!r}: must be {told}"
    return f"{key}={error['input']!r}: {error['msg'].replace('Input should be', 'must be')}"


def boolean(value: Any) -> bool:
    return str(value).lower() in ("true", "1", "yes", "on", "y", "t")
