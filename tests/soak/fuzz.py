"""Mutated strings and files from outside: every one is read, or refused in a sentence of ours."""

from __future__ import annotations

import contextlib
import random
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from android_env.actions import Action, ParseError, format_action, parse_action
from android_env.errors import AndroidEnvError
from digiq.errors import DigiQError
from tests.soak.base import ROOT, Table

_OURS = (DigiQError, AndroidEnvError)
_WORDS = (
    b"\x00",
    b"\xff\xfe",
    b'"',
    b"}",
    b"[",
    b"null",
    b"1e999",
    b"-1",
    b": ",
    b"\xed\xa0\x80",
    b"\n",
    b"&a",
    b"NaN",
)


def mutate(data: bytes, rng: random.Random) -> bytes:
    """One to four changes: a bit, a cut, a span twice or elsewhere, or a word that readers stumble over."""
    changed = bytearray(data)
    for _ in range(rng.randrange(1, 5)):
        at = rng.randrange(len(changed) + 1)
        how = rng.randrange(5)
        if how == 0 and changed:
            changed[at % len(changed)] ^= 1 << rng.randrange(8)
        elif how == 1:
            del changed[at : at + rng.randrange(1, 64)]
        elif how == 2:
            changed[at:at] = changed[at : at + rng.randrange(1, 64)]
        elif how == 3:
            changed[at:at] = rng.choice(_WORDS)
        elif rng.random() < 0.2:
            del changed[at:]
    return bytes(changed)


def _tried(kind: str, read: Callable[[], Any], table: Table, about: str) -> None:
    problem = ""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            read()
    except _OURS as error:
        problem = "" if str(error) else f"{about}: an error without a word"
    except Exception as error:
        problem = f"{about}: {type(error).__name__}: {str(error)[:160]}"
    table.add(kind, problem)


def strings(count: int, table: Table, rng: random.Random) -> None:
    """Action strings: an action that survives its own text, or a reason."""
    seeds = [
        *(
            format_action(a)
            for a in (Action.tap(0.25, 0.5), Action.swipe("up"), Action.type_text('a "b", c'), Action.back())
        ),
        'Action Plan: [x] ; Action Decision: "action_type": "TYPE", "touch_point": "[-1.0, -1.0]", "typed_text": "é"',
    ]
    for _ in range(count):
        text = mutate(rng.choice(seeds).encode(), rng).decode("utf-8", errors="replace")

        def read(text: str = text) -> None:
            found = parse_action(text)
            if isinstance(found, ParseError):
                assert found.reason
            else:
                assert parse_action(format_action(found)) == found

        _tried("fuzz: action strings", read, table, repr(text[:80]))


def configs(count: int, scratch: Path, table: Table, rng: random.Random) -> None:
    """Recipes of ``configs/``."""
    from digiq.config import load_yaml
    from digiq.pipeline.recipe import Recipe

    seeds = [
        path.read_bytes() for path in sorted((ROOT / "configs").glob("*.yaml")) if "evaluate" not in path.name
    ]
    file = scratch / "fuzzed.yaml"
    for _ in range(count):
        data = mutate(rng.choice(seeds), rng)
        file.write_bytes(data)
        _tried("fuzz: configs", lambda: load_yaml(Recipe, file), table, repr(data[:60]))


def task_files(count: int, scratch: Path, table: Table, rng: random.Random) -> None:
    """Task files as ``save_tasks`` writes them."""
    from android_env.tasks.sets import load_tasks, save_tasks

    file = scratch / "tasks.json"
    save_tasks(list(load_tasks("webshop/test"))[:4], file)
    seed = file.read_bytes()
    for _ in range(count):
        data = mutate(seed, rng)
        file.write_bytes(data)
        _tried("fuzz: task files", lambda: load_tasks(file), table, repr(data[:60]))


def records(count: int, shards: Path, scratch: Path, table: Table, rng: random.Random) -> None:
    """TFRecords of Android in the Wild, the first ones of a real shard."""
    from digiq.data.importers.aitw import AitW

    shard = min(
        (p for p in shards.rglob("*") if p.is_file() and "-of-" in p.name), key=lambda p: p.stat().st_size
    )
    data = shard.read_bytes()
    folder = scratch / "aitw" / shard.parent.name
    folder.mkdir(parents=True, exist_ok=True)
    for _ in range(count):
        (folder / shard.name).write_bytes(mutate(data[: rng.randrange(1, min(len(data), 1 << 20))], rng))

        def read() -> None:
            source = AitW(source=folder.parent, limit=2)
            for part in source.find().parts:
                for entry in source.read(part):
                    with contextlib.suppress(*_OURS):  # a bad episode is counted, and the others read
                        getattr(entry, "make", lambda: None)()

        _tried("fuzz: TFRecords", read, table, shard.name)


def models(count: int, scratch: Path, table: Table, rng: random.Random) -> None:
    """Model directories, one file of each mutated."""
    from digiq.vlm import TINY_VLM_PATH
    from digiq.vlm.backbone import load_backbone

    copy = scratch / "model"
    for _ in range(count):
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(TINY_VLM_PATH, copy)
        file = rng.choice(
            [path for path in sorted(copy.iterdir()) if path.suffix in (".json", ".jinja", ".safetensors")]
        )
        data = file.read_bytes()
        file.write_bytes(mutate(data, rng))
        _tried("fuzz: model directories", lambda: load_backbone(copy, dtype="float32"), table, file.name)
