"""Tables of members: the choices that a config offers by name, one line each.

A *member* is a config class whose methods do the work (an objective's ``loss``, an importer's ``read``) and whose
fields are its settings. A table lists members and where they live. :func:`chosen_from` turns it into the base class of
a config that chooses one::

    OBJECTIVES = Table("objective", __name__, td="TD", iql="IQL")         # td.py holds TD

    @configclass
    class CriticConfig(chosen_from(OBJECTIVES, default="td")):
        gamma: float = 0.95

    CriticConfig(objective="iql", iql=IQL(expectile=0.8)).chosen                 # the IQL

A user-defined member is named ``package.module:Class``, and its settings stand under ``own``. It is imported if a
recipe, the command line or code names it. A name that is read back from an artefact (:func:`digiq.config.load` with
``recorded``) imports nothing that is not in the tables, unless ``--trust-code`` is given.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import hashlib
import importlib
import inspect
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, cast

import tyro
from pydantic import AfterValidator, model_validator
from typing_extensions import Doc

from digiq.config import configclass, is_recorded, load
from digiq.errors import ConfigError
from digiq.switches import TRUST_CODE

_OWN = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
_OURS = ("digiq.", "android_env.")
"""Code in these packages is trusted, and versions of stages tell when it changes, so it is not hashed."""
_trusted: set[str] = set()


class Table(Mapping[str, type]):
    """Members by name; a look-up imports the member."""

    def __init__(self, what: str, package: str, **members: str):
        """
        Args:
          what: what a member is called in configs and errors.
          package: the package with the members' files.
          members: by name, which is that of the file, its class; or ``package.module:Class`` for one elsewhere.
        """
        self.what, self._package, self._members = what, package, members

    def __getitem__(self, name: str) -> type:
        where = self._members[name]
        module, _, attribute = where.rpartition(":")
        return getattr(importlib.import_module(module or f"{self._package}.{name}"), attribute)

    def __iter__(self) -> Iterator[str]:
        return iter(self._members)

    def __len__(self) -> int:
        return len(self._members)

    def check(self, name: str) -> str:
        """Returns the name if it is valid.

        Raises:
          ValueError: it is not in the table, and is not of the form ``package.module:Class``.
        """
        if name in self._members:
            return name
        if _OWN.fullmatch(name):
            if not is_recorded():
                _trusted.add(name)
            return name
        near = difflib.get_close_matches(name, self._members, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(self._members)}"
        raise ValueError(f"unknown {self.what} '{name}'; {hint}")

    def name_of(self, cls: type) -> str:
        """The name of a member in configs and artefacts; ``package.module:Class`` for a user-defined one."""
        where = f"{cls.__module__}:{cls.__qualname__}"
        for name, member in self._members.items():
            if where == (member if ":" in member else f"{self._package}.{name}:{member}"):
                return name
        return where

    def recorded(self, name: str, settings: Mapping[str, Any], where: str) -> Any:
        """The member that an artefact names, with its settings.

        Args:
          name: as :meth:`name_of` returns it.
          settings: settings of the member.
          where: the artefact, for errors.

        Raises:
          ConfigError: there is no such member, its settings do not fit, or only an artefact names its code.
        """
        if name in self._members:
            return load(cast(Any, self[name]), settings, where=where, recorded=True)
        if not _OWN.fullmatch(name):
            raise ConfigError(f"{where}: unknown {self.what} '{name}'; known: {', '.join(self._members)}.")
        return self.own(name, settings)

    def own(self, name: str, settings: Mapping[str, Any]) -> Any:
        """The member that ``package.module:Class`` names, with its settings.

        Raises:
          ConfigError: it does not import, is not a config class, its settings do not fit, or only an artefact names it.
        """
        return _own(self.what, name, json.dumps(settings, sort_keys=True))


@functools.lru_cache(maxsize=256)
def _own(what: str, name: str, settings: str) -> Any:
    cls: Any = _import(what, name)
    if not (isinstance(cls, type) and dataclasses.is_dataclass(cls)):
        raise ConfigError(f"{what} '{name}': not a config class; decorate it with digiq.config.configclass.")
    _trusted.add(
        f"{cls.__module__}:{cls.__qualname__}"
    )  # by the name in artefacts, whatever module re-exports it
    return load(cast(Any, cls), json.loads(settings), where=f"{what} '{name}'")


def _import(what: str, name: str) -> Any:
    if name not in _trusted and not name.startswith(_OURS) and os.environ.get(TRUST_CODE) != "1":
        raise ConfigError(
            f"{what} '{name}': only an artefact names this code, so it is not imported; add --trust-code if you know "
            "where it comes from."
        )
    module, _, attribute = name.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"{what} '{name}': does not import: {error}.") from None


def own_name(name: str) -> str:
    """Validator of fields that name a function or class: notes that a config names user-defined code, if it does.

    The config's property ``code`` then lists such fields, so that their sources become part of an artefact's identity;
    :func:`own_code` imports them.
    """
    if is_own(name) and not is_recorded():
        _trusted.add(name)
    return name


def is_own(name: str) -> bool:
    """Whether a name has the form ``package.module:Name``."""
    return _OWN.fullmatch(name) is not None


def own_code(what: str, name: str) -> Any:
    """The function or class that ``package.module:Name`` names.

    Raises:
      ConfigError: it does not import, is neither a function nor a class, or only an artefact names it.
    """
    found = _import(what, name)
    if not (inspect.isfunction(found) or inspect.isclass(found)):
        raise ConfigError(f"{what} '{name}': that is neither a function nor a class.")
    return found


def named() -> list[str]:
    """The user-defined members that recipes, the command line or code have named in this process."""
    return sorted(_trusted)


def trust(names: Iterable[str]) -> None:
    """Takes over the names that were :func:`named` in the parent process."""
    _trusted.update(names)


def chosen_from(table: Table, default: str | None, field: str = "") -> Any:
    """A config class to inherit from, which chooses one member.

    Its fields are the choice (named ``field``, or by default after what the table holds), a section of settings for
    each member, and ``own``. Its property ``chosen`` is the chosen member, or None if ``default`` is None and nothing
    is chosen. :func:`digiq.config.to_dict`, and so the identity of artefacts, holds only the settings of the chosen
    member: a new member changes no digest.
    """
    members = {name: table[name] for name in table}
    about = f"One of {', '.join(members)}; or one of your own, as package.module:Class."
    choice: Any = Annotated[str, AfterValidator(table.check)]
    choice = Annotated[choice if default is not None else choice | None, Doc(about)]
    field = field or table.what
    annotations = {field: choice, **members, "own": _Own}
    defaults: dict[str, Any] = {field: default, **{name: cls() for name, cls in members.items()}}
    # Equal configs have equal ``own``, so the hash may leave it out; a dict has no hash.
    defaults["own"] = dataclasses.field(default_factory=dict, hash=False)
    check = model_validator(mode="after")(_check_own)
    body = {
        "__annotations__": annotations,
        "__module__": __name__,
        "_check_own": check,
        "table": table,
        "choice_field": field,
        **defaults,
    }
    return configclass(type(f"{table.what.title()}Choice", (_Choice,), body))


json_argument = tyro.constructors.PrimitiveConstructorSpec(
    nargs=1,
    metavar="JSON",
    instance_from_str=lambda text: json.loads(text[0]),
    is_instance=lambda value: isinstance(value, dict | int) or dataclasses.is_dataclass(value),
    str_from_instance=lambda value: [
        json.dumps(dataclasses.asdict(value) if dataclasses.is_dataclass(value) else value)  # type: ignore[arg-type]
    ],
)
_Own = Annotated[dict[str, Any], json_argument, Doc("Settings of a member of your own.")]


class _Choice:
    """The properties that :func:`chosen_from` adds to the fields."""

    table: ClassVar[Table]
    choice_field: ClassVar[str]
    own: dict[str, Any]

    @property
    def choice(self) -> str | None:
        """Name of the chosen member."""
        return getattr(self, self.choice_field)

    @property
    def chosen(self) -> Any:
        """The chosen member, with its settings."""
        name = self.choice
        if name is None:
            return None
        return getattr(self, name) if name in self.table else self.table.own(name, self.own)

    @property
    def unchosen(self) -> frozenset[str]:
        """Fields that do not matter, because they are settings of other members."""
        name = self.choice
        matters = {name} if name is None or name in self.table else {"own"}
        return frozenset({*self.table, "own"} - matters)


def _check_own(self: _Choice) -> _Choice:
    name = self.choice
    if self.own and (name is None or name in self.table):
        raise ValueError(
            f"own: settings of '{name}' stand under '{name}'" if name else "own: nothing is chosen"
        )
    if name is not None and name not in self.table and not is_recorded():
        try:
            self.table.own(name, self.own)
        except ConfigError as error:
            raise ValueError(str(error).rstrip(".")) from None
    return self


def own_sources(config: Any) -> dict[str, str]:
    """SHA-256 of the source files of the user-defined members that a config chooses, by ``code package.module:Class``.

    Members in the library itself are not included; as for the rest of its code, a stage's ``VERSION`` stands for them.
    """
    found: dict[str, str] = {}
    if isinstance(config, _Choice):
        name = config.choice
        if name is not None and name not in config.table and not name.startswith(_OURS):
            found |= _source(config.table.what, name)
    for what, name in getattr(config, "code", ()):
        if not name.startswith(_OURS):
            found |= _source(what, name)
    if dataclasses.is_dataclass(config):
        for field in dataclasses.fields(config):
            value = getattr(config, field.name)
            items = cast(dict[str, Any], value).values() if isinstance(value, dict) else (value,)
            for item in items:
                found |= own_sources(item)
    return found


def _source(what: str, name: str) -> dict[str, str]:
    source = inspect.getsourcefile(own_code(what, name))
    assert source is not None
    return {f"code {name}": hashlib.sha256(Path(source).read_bytes()).hexdigest()}
