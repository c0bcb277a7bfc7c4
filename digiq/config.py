"""Typed configuration: frozen dataclasses, read from YAML and validated by pydantic; errors suggest the nearest name.

A configuration is declared next to what it configures::

    @configclass
    class CriticConfig:
        gamma: Annotated[float, Field(ge=0, lt=1)] = 0.95
        \"\"\"Discount per executed action.\"\"\"

The string under a field is its documentation; ``--help`` shows it with the default.
"""

from __future__ import annotations

import contextvars
import dataclasses
import difflib
import functools
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, dataclass_transform

import pydantic
import yaml
from pydantic.dataclasses import dataclass as _pydantic_dataclass

from digiq.errors import ConfigError

T = TypeVar("T")
_recorded = contextvars.ContextVar("recorded", default=False)


@dataclass_transform(kw_only_default=True, frozen_default=True)
def configclass(cls: type[T]) -> type[T]:
    """A frozen, keyword-only dataclass; pydantic checks its values, and unknown keys are errors."""
    config = pydantic.ConfigDict(extra="forbid", validate_default=True, use_attribute_docstrings=True)
    made = _pydantic_dataclass(frozen=True, kw_only=True, config=config)(cls)
    construct = made.__init__

    @functools.wraps(construct)
    def checked(self: Any, **fields: Any) -> None:
        # An invalid value gives the same one-line error whether it comes from YAML, the command line or code.
        try:
            construct(self, **fields)
        except pydantic.ValidationError as error:
            raise ConfigError(describe_validation_error(error, cls.__name__)) from None

    made.__init__ = checked  # type: ignore[method-assign]
    return typing.cast(type[T], made)


def load(
    cls: type[T], mapping: Mapping[str, Any] | None, where: str = "config", *, recorded: bool = False
) -> T:
    """Builds ``cls`` from a nested mapping.

    Args:
      cls: a :func:`configclass`.
      mapping: keys and values as YAML gives them; ``None`` means no keys.
      where: what to call the source in errors, usually a file name.
      recorded: the mapping was read back from an artefact, so names of code in it are not trusted
        (:mod:`digiq.tables`).

    Raises:
      ConfigError: an unknown key (the nearest known one is named) or a value that does not fit its field.
    """
    mapping = {} if mapping is None else mapping
    if not isinstance(mapping, Mapping):
        raise ConfigError(
            f"{where}: expected a mapping of {cls.__name__} fields, got {type(mapping).__name__}."
        )
    _refuse_unknown(cls, mapping, where, prefix="")
    before = _recorded.set(recorded)
    try:
        return pydantic.TypeAdapter(cls).validate_python(dict(mapping))
    except pydantic.ValidationError as error:
        raise ConfigError(describe_validation_error(error, where)) from None
    finally:
        _recorded.reset(before)


def is_recorded() -> bool:
    """Whether the config being validated was read back from an artefact; see :func:`load`."""
    return _recorded.get()


def load_yaml(cls: type[T], path: str | Path) -> T:
    """Reads one YAML file into ``cls``; see :func:`load`."""
    path = Path(path)
    if not path.is_file():
        near = difflib.get_close_matches(path.name, [p.name for p in path.parent.glob("*.yaml")], n=1)
        hint = f" Did you mean {path.parent / near[0]}?" if near else ""
        raise ConfigError(f"{path}: no such config file.{hint}")
    try:
        # Some editors write a byte-order mark, which is not part of the text.
        mapping = yaml.load(path.read_bytes().decode("utf-8-sig"), _OnceEach)
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text (byte {error.start}); save it as UTF-8.") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if mapping is None:
        raise ConfigError(f"{path}: is empty; write at least one field, such as '{_first_field(cls)}: ...'.")
    return load(cls, mapping, where=str(path))


class _OnceEach(yaml.SafeLoader):
    """YAML that refuses a repeated key in a mapping; plain PyYAML would silently take the last one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)  # type: ignore[no-untyped-call]
            if isinstance(key, str) and key in seen:
                line = key_node.start_mark.line + 1
                raise yaml.YAMLError(f"line {line}: the key '{key}' is repeated")
            if isinstance(key, str):
                seen.add(key)
        return super().construct_mapping(node, deep)


def _first_field(cls: Any) -> str:
    return dataclasses.fields(cls)[0].name


def to_dict(config: Any) -> dict[str, Any]:
    """The configuration as JSON-able nested dicts, including every default that matters.

    Settings of members that were not chosen (:mod:`digiq.tables`) do not matter, so they are left out.
    """
    return _without_unchosen(config, pydantic.TypeAdapter(type(config)).dump_python(config, mode="json"))


def _without_unchosen(value: Any, dumped: Any) -> Any:
    if dataclasses.is_dataclass(value):
        unchosen = getattr(value, "unchosen", ())
        return {k: _without_unchosen(getattr(value, k), v) for k, v in dumped.items() if k not in unchosen}
    if isinstance(value, dict):
        return {k: _without_unchosen(value[k], v) for k, v in dumped.items()} if dumped else dumped
    return dumped


def describe_validation_error(error: pydantic.ValidationError, where: str) -> str:
    """One line per wrong field: its place, what it holds and what it must be."""
    lines = []
    for item in error.errors():
        message = _lower_first(item["msg"].removeprefix("Value error, ")).rstrip(".")
        key = ".".join(str(part) for part in item["loc"])
        # A check of the whole object has no place of its own, and its input is the object.
        whole = item["type"] == "value_error"
        place = f"{where}: {key}" if key else where
        lines.append(f"{place}: {message}." if whole else f"{place} = {item['input']!r}: {message}.")
    return "\n".join(lines)


def _lower_first(text: str) -> str:
    return text[:1].lower() + text[1:]


def _refuse_unknown(cls: type, mapping: Mapping[str, Any], where: str, prefix: str) -> None:
    hints = typing.get_type_hints(cls)
    names = [field.name for field in dataclasses.fields(cls)]
    for key, value in mapping.items():
        if key not in names:
            near = difflib.get_close_matches(str(key), names, n=1, cutoff=0.5)
            hint = f"did you mean '{prefix}{near[0]}'?" if near else f"known keys: {', '.join(names)}."
            raise ConfigError(f"{where}: unknown key '{prefix}{key}'; {hint}")
        if not isinstance(value, Mapping):
            continue
        hint = hints[key]
        if typing.get_origin(hint) is dict:  # of configs, by name
            nested, items = _config_type(typing.get_args(hint)[1]), value.items()
            children = [(f"{prefix}{key}.{name}.", item) for name, item in items if isinstance(item, Mapping)]
        else:
            nested, children = _config_type(hint), [(f"{prefix}{key}.", value)]
        for inner_prefix, inner in children:
            if nested is not None:
                _refuse_unknown(nested, inner, where, prefix=inner_prefix)


def _config_type(hint: Any) -> type | None:
    """The config dataclass in ``X`` or ``X | None``; None if there is none."""
    if typing.get_origin(hint) is typing.Annotated:
        return _config_type(typing.get_args(hint)[0])
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        found = [t for t in map(_config_type, typing.get_args(hint)) if t is not None]
        return found[0] if len(found) == 1 else None
    return hint if dataclasses.is_dataclass(hint) and isinstance(hint, type) else None
