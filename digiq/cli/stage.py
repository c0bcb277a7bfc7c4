"""Runs one stage from the command line; options are its config's fields, its artefacts, ``--out`` and ``--overwrite``.

A first argument that ends in ``.yaml`` names a file with the config; options override it.
"""

from __future__ import annotations

import dataclasses
import inspect
import itertools
import json
import re
import sys
import typing
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import docstring_parser
import tyro
from typing_extensions import Doc

from digiq.cli.following import following
from digiq.config import load_yaml
from digiq.errors import DigiQError
from digiq.pipeline.stages import Stage

T = TypeVar("T")
_PLAIN = (tyro.conf.FlagConversionOff,)
"""Switches of a config are written ``--standardize False``, never as a negated flag."""
_NUMBERS = re.compile(r"[-+]?[\d.]+(e[-+]?\d+)?(,[-+]?[\d.]+(e[-+]?\d+)?)+", re.IGNORECASE)


def main(command: str, stage: Stage, arguments: list[str]) -> None:
    """Runs ``digiq COMMAND [CONFIG.yaml]``."""
    module = stage.open()
    config = None
    if arguments and arguments[0].endswith(".yaml"):
        config, arguments = load_yaml(stage.config, arguments[0]), arguments[1:]
    kind = _options(module.run, stage.about, config)
    spelled = list(_spelled(arguments, _switches(kind)))
    options = parse(kind, spelled, program=f"digiq {command}")
    values = {field.name: getattr(options, field.name) for field in dataclasses.fields(options)}
    config = values.pop("config")
    stage.require(config)
    artifact = module.run(config, **values)
    counts = ", ".join(f"{key} {value}" for key, value in artifact.manifest.counts.items())
    if artifact.manifest.state == "complete":
        print(f"{artifact.path}: complete. {counts}\nNext: {following(command, values)}", file=sys.stderr)
    else:
        print(f"{artifact.path}: not complete yet, but this share is done. {counts}", file=sys.stderr)


def schema(stage: Stage, arguments: list[str]) -> str:
    """The JSON Schema of a chosen member's input, for ``--schema``; the other arguments may be missing.

    Raises:
      DigiQError: this stage's members, or the chosen one, have no schema.
    """
    choice = f"--{getattr(stage.config, 'choice_field', '')}"
    name = next((b for a, b in itertools.pairwise(arguments) if a == choice), "")
    name = next((a.partition("=")[2] for a in arguments if a.startswith(f"{choice}=")), name)
    members = getattr(stage.config, "table", {})
    able = [member for member in members if hasattr(members[member], "schema")]
    if name not in able:
        ways = " or ".join(f"{choice} {member} --schema" for member in able)
        raise DigiQError(f"--schema: {f'use {ways}' if able else 'this command has none'}.")
    return json.dumps(members[name].schema(), indent=2)


def with_member(stage: Stage, member: str, arguments: list[str]) -> list[str]:
    """The arguments with a member chosen, whose settings may be given without its name as a prefix."""
    own = {field.name for field in dataclasses.fields(stage.config.table[member])}

    def full(argument: str) -> str:
        option = argument.partition("=")[0].removeprefix("--").replace("-", "_")
        return f"--{member}.{argument[2:]}" if argument.startswith("--") and option in own else argument

    return [*map(full, arguments), f"--{stage.config.choice_field}", member]


def with_source(stage: Stage, arguments: list[str]) -> list[str]:
    """The arguments with a bare one, the place that a member reads from, given as the member's first setting.

    Raises:
      DigiQError: there are several bare arguments, or the member is not one of the table.
    """
    choice = f"--{stage.config.choice_field}"
    member, bare, rest = stage.config().choice, [], []
    for before, argument in zip(["", *arguments], arguments, strict=False):
        value = before.startswith("--") and "=" not in before and before != "--overwrite"
        if argument.startswith("--") or value or argument.endswith(".yaml"):
            rest.append(argument)
            if before == choice or argument.startswith(f"{choice}="):
                member = argument.removeprefix(f"{choice}=")
        else:
            bare.append(argument)
    if not bare:
        return arguments
    if len(bare) > 1 or member not in stage.config.table:
        raise DigiQError(
            f"'{bare[-1]}': give one place to read from, and a format of 'digiq import --help' (--format NAME WHERE)."
        )
    first = dataclasses.fields(stage.config.table[member])[0].name.replace("_", "-")
    return [*rest, f"--{member}.{first}", bare[0]]


def parse(
    cls: type[T], arguments: list[str], *, program: str, default: T | None = None, switches: bool = False
) -> T:
    """Parses arguments into ``cls``.

    Args:
      cls: the class to parse into.
      arguments: the command-line arguments.
      program: name of the command.
      default: default values, which the arguments override.
      switches: whether a bool is written ``--name True`` instead of as a flag.

      Raises:
        ConfigError: a value is outside its field's range.
    """
    parsed = tyro.cli(
        cls,
        args=list(_listed(_spelled(arguments, _switches(cls)) if switches else arguments)),
        prog=program,
        default=default,
        config=(tyro.conf.AvoidSubcommands, tyro.conf.FlagCreatePairsOff, *(_PLAIN if switches else ())),
    )
    return typing.cast(T, parsed)


def _told(run: Any) -> dict[str, str]:
    """The descriptions of parameters in a stage's docstring; if several parameters share a line, each gets it."""
    found: dict[str, str] = {}
    for parameter in docstring_parser.parse(run.__doc__ or "").params:
        about = " ".join((parameter.description or "").split())
        found |= {name.strip(): about[:1].upper() + about[1:] for name in parameter.arg_name.split(",")}
    inputs = [p for p in inspect.signature(run).parameters if p not in ("config", "out", "overwrite")]
    # "The artefact." adds nothing to the name.
    found = {name: about for name, about in found.items() if about != "The artefact."}
    defaults = {name: f"Directory of the {name} artefact." for name in inputs}
    return defaults | {"out": "The directory of the artefact that is written."} | found


def _switches(cls: Any, prefix: str = "--") -> set[str]:
    """Options that are bools, at any depth of the configs."""
    found: set[str] = set()
    for name, hint in typing.get_type_hints(cls).items() if dataclasses.is_dataclass(cls) else ():
        path = prefix if name == "config" and prefix == "--" else f"{prefix}{name.replace('_', '-')}."
        for kind in (hint, *typing.get_args(hint)):
            found |= {path.rstrip(".")} if kind is bool else _switches(kind, path)
    return found


def _spelled(arguments: list[str], switches: set[str]) -> Iterator[str]:
    """Spells out switches without a value, which are on: ``--data-parallel`` is ``--data-parallel True``."""
    for argument, after in itertools.zip_longest(arguments, arguments[1:], fillvalue="--"):
        yield argument
        alone = argument.replace("_", "-") in switches and argument != "--overwrite"
        if alone and after.startswith("--"):
            yield "True"


def _listed(arguments: Iterable[str]) -> Iterator[str]:
    """Splits numbers joined by commas into separate arguments: ``--lr 1e-5,1e-4`` is ``--lr 1e-5 1e-4``."""
    for argument in arguments:
        option, equals, value = argument.partition("=") if argument.startswith("--") else ("", "", argument)
        if not _NUMBERS.fullmatch(value):
            yield argument
            continue
        if equals:
            yield option
        yield from value.split(",")


def _options(run: Any, about: str, config: Any = None) -> type:
    """A dataclass with the parameters of a stage's ``run``, and the fields of ``config`` at the top level."""
    hints = typing.get_type_hints(run)
    told = _told(run)
    fields: list[Any] = []
    for name, parameter in inspect.signature(run).parameters.items():
        kind = typing.Annotated[hints[name], Doc(told.get(name, ""))]
        if name == "config":
            kind = hints[name]
            fields.append(
                (
                    name,
                    typing.Annotated[kind, tyro.conf.arg(name=""), *_PLAIN],
                    dataclasses.field(default_factory=kind if config is None else lambda: config),
                )
            )
        elif name == "overwrite":
            about_it = "Throw away what --out holds, whatever it is, and start anew."
            fields.append((name, typing.Annotated[bool, Doc(about_it)], dataclasses.field(default=False)))
        elif parameter.default is inspect.Parameter.empty:
            fields.append((name, kind))
        else:
            fields.append((name, kind, dataclasses.field(default=parameter.default)))
    required_first = sorted(fields, key=lambda field: len(field) == 3)
    options = dataclasses.make_dataclass("Options", required_first)
    options.__doc__ = f"{about[:1].upper()}{about[1:]}."
    return options
