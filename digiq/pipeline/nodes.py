"""A planned stage of a run: what it reads, where it writes, and the file that describes it to its process."""

from __future__ import annotations

import dataclasses
import importlib
import json
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from digiq import artifacts
from digiq.config import load, to_dict
from digiq.tables import named, trust


@dataclasses.dataclass(frozen=True)
class Node:
    """One stage, with what it reads and where it writes."""

    name: str
    """Name, unique in the run, e.g. ``evaluation/digiq``."""
    module: str
    """Module with ``STAGE``, ``VERSION`` and ``run``."""
    config: Any
    inputs: Mapping[str, Path]
    """Artefacts by keyword argument of ``run``."""
    out: Path
    one_core: bool = False
    """Whether it can use only one core, so that another such stage may run at the same time."""

    @property
    def is_complete(self) -> bool:
        stage = importlib.import_module(self.module)
        return artifacts.is_complete(
            self.out, stage=stage.STAGE, version=stage.VERSION, config=self.config, inputs=self.inputs
        )

    def execute(self, overwrite: bool = False) -> artifacts.Artifact:
        """Runs the stage in this process."""
        stage = importlib.import_module(self.module)
        return stage.run(self.config, **self.inputs, out=self.out, overwrite=overwrite)


def write_node(node: Node, file: Path) -> None:
    """Describes a node in a file."""
    about = {
        "name": node.name,
        "module": node.module,
        "config": to_dict(node.config),
        "inputs": {name: str(path) for name, path in node.inputs.items()},
        "out": str(node.out),
        # A stage may read from artefacts a member that the recipe named for another stage.
        "code": named(),
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    artifacts.atomic_write_json(file, about)


def read_node(file: Path) -> Node:
    """The node that a file describes; imports only its stage."""
    about = json.loads(file.read_text(encoding="utf-8"))
    trust(about["code"])
    run = importlib.import_module(about["module"]).run
    config = load(typing.get_type_hints(run)["config"], about["config"], where=str(file))
    inputs = {name: Path(path) for name, path in about["inputs"].items()}
    return Node(about["name"], about["module"], config, inputs, Path(about["out"]))
