"""Configs from a preset, a file and ``key=value`` overrides, checked against the types of a frozen dataclass."""

from __future__ import annotations

import dataclasses
import json
import tomllib
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar, Union, get_args, get_origin, get_type_hints

from eoforge.errors import UsageError

MAX_CONFIG_BYTES = 1 << 20


class Presets(Protocol):
    """A frozen dataclass with a class method per preset; its ``__post_init__`` checks ranges."""

    @classmethod
    def tiny(cls) -> Any:
        """Small settings that train on a CPU in minutes."""

    @classmethod
    def paper(cls) -> Any:
        """The published settings, or a reconstruction of them."""


PRESETS: tuple[str, ...] = ("tiny", "paper")
ConfigT = TypeVar("ConfigT", bound=Presets)


def build_config(
    config_type: type[ConfigT], preset: str, overrides: Mapping[str, str], file: str | None = None
) -> ConfigT:
    """The preset, changed by the values of ``file`` (TOML, JSON or YAML) and then by ``overrides``.

    ``epochs`` bounds every stage of a run: a setting that the class names in ``phases`` is at most ``epochs`` if it is
    not given itself.

    Args:
        config_type: The method's config class.
        preset: "tiny" or "paper".
        overrides: Field name -> text; sequences are comma-separated.
        file: Path of a file with field names and values at its top level.

    Raises:
        UsageError: The preset or a field is unknown, or a value has the wrong type or is out of range.
    """
    if preset not in PRESETS:
        raise UsageError(f"preset must be one of {', '.join(PRESETS)}; got {preset!r}")
    start = config_type.tiny() if preset == "tiny" else config_type.paper()
    hints = get_type_hints(config_type)
    values: dict[str, Any] = {}
    for key, value in (_read_file(file) if file else {}).items():
        values[key] = convert(_require_field(config_type, hints, key), value, f"{key} in {file}")
    for key, text in overrides.items():
        values[key] = parse(_require_field(config_type, hints, key), text, key)
    if "epochs" in values:
        for phase in getattr(config_type, "phases", ()):
            values.setdefault(phase, min(getattr(start, phase), values["epochs"]))
    changed: ConfigT = dataclasses.replace(start, **values)
    return changed


def parse(kind: Any, text: str, where: str) -> Any:
    """The value of type ``kind`` of the text of a ``key=value`` override.

    Raises:
        UsageError: The text is not a value of that type.
    """
    kind, optional = _strip_optional(kind)
    if optional and text.strip().lower() in ("none", "null", ""):
        return None
    if get_origin(kind) is tuple:
        return tuple(parse(get_args(kind)[0], part.strip(), where) for part in text.split(",") if part.strip())
    if kind is bool:
        words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
        if text.strip().lower() not in words:
            raise UsageError(f"{where} must be true or false; got {text!r}")
        return words[text.strip().lower()]
    if kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            raise UsageError(f"{where} must be {_describe(kind)}; got {text!r}") from None
    return convert(kind, text, where)


def convert(kind: Any, value: Any, where: str) -> Any:
    """A value from a file or a bundle, checked to be of type ``kind`` (lists become tuples, integers floats).

    Raises:
        UsageError: The value is of another type.
    """
    kind, optional = _strip_optional(kind)
    if value is None and optional:
        return None
    if get_origin(kind) is tuple and isinstance(value, list | tuple):
        return tuple(convert(get_args(kind)[0], part, where) for part in value)
    if get_origin(kind) is Literal:
        if value in get_args(kind):
            return value
    elif kind is float and type(value) in (int, float):
        return float(value)
    elif type(value) is kind:  # not isinstance: True is an int in Python
        return value
    raise UsageError(f"{where} must be {_describe(kind)}; got {value!r}")


def from_dict(config_type: type[ConfigT], values: Mapping[str, Any]) -> ConfigT:
    """The config of a dict from ``dataclasses.asdict``, the form in bundles.

    Raises:
        UsageError: A field is unknown, missing, or of the wrong type.
    """
    hints = get_type_hints(config_type)
    fields = {k: convert(_require_field(config_type, hints, k), v, k) for k, v in values.items()}
    try:
        return config_type(**fields)
    except TypeError as error:
        raise UsageError(
            f"expected all settings of {config_type.__name__}; got {', '.join(sorted(values))}: {error}"
        ) from error


def _require_field(config_type: type[Any], hints: Mapping[str, Any], key: str) -> Any:
    names = [f.name for f in dataclasses.fields(config_type)]
    if key not in names:
        raise UsageError(f"unknown setting {key!r}; the settings are {', '.join(names)}")
    return hints[key]


def _strip_optional(kind: Any) -> tuple[Any, bool]:
    if get_origin(kind) in (Union, types.UnionType):
        rest = [a for a in get_args(kind) if a is not type(None)]
        return rest[0], len(rest) < len(get_args(kind))
    return kind, False


def _describe(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(map(str, get_args(kind)))
    if get_origin(kind) is tuple:
        return f"a list of values, each {_describe(get_args(kind)[0])}"
    return {int: "a whole number", float: "a number", bool: "true or false", str: "text"}.get(kind, str(kind))


def _read_file(file: str) -> dict[str, Any]:
    path = Path(file)
    if not path.is_file():
        raise UsageError(f"no config file {file}")
    if path.stat().st_size > MAX_CONFIG_BYTES:
        raise UsageError(f"config file {file} has {path.stat().st_size} bytes; at most {MAX_CONFIG_BYTES} are read")
    text = path.read_text(encoding="utf-8")
    try:
        if path.suffix == ".toml":
            values: Any = tomllib.loads(text)
        elif path.suffix == ".json":
            values = json.loads(text)
        elif path.suffix in (".yaml", ".yml"):
            import yaml  # part of every extra that trains, not of the base

            try:
                values = yaml.safe_load(text)
            except yaml.YAMLError as error:
                raise ValueError(str(error)) from error
        else:
            raise UsageError(f"a config file ends in .toml, .json, .yaml or .yml; got {file}")
    except ValueError as error:
        raise UsageError(f"config file {file} cannot be read: {error}") from error
    if not isinstance(values, dict):
        raise UsageError(f"config file {file} must have settings by name; got {type(values).__name__}")
    return {str(k): v for k, v in values.items()}
