"""The ``import-aitw`` stage: Android in the Wild TFRecords to episodes."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from digiq import artifacts
from digiq.artifacts import Artifact
from digiq.config import configclass
from digiq.data.aitw import read_episodes
from digiq.data.store import EpisodeWriter
from digiq.errors import DigiQError
from digiq.progress import progress

STAGE, VERSION = "import-aitw", 1


@configclass
class ImportAitwConfig:
    """What to import, and what to do with bad records."""

    source: Path = Path("android_in_the_wild")
    """Directory with one folder a subset (general, google_apps, web_shopping, ...) of TFRecord shards."""
    on_bad: Literal["error", "skip"] = "error"
    """A damaged file or a bad episode stops the import (``error``) or is left out and counted (``skip``)."""
    held_out_apps: Annotated[int, Field(ge=0)] = 1
    """So many of the last ``general`` shards, by name, become split ``test``; an app is one shard there."""
    max_side: Annotated[int, Field(ge=32)] = 640
    """Longest side of the stored screenshots, in pixels."""
    limit: Annotated[int, Field(ge=1)] | None = None
    """Import at most so many episodes a file; none: all."""


def run(config: ImportAitwConfig, *, out: Path, overwrite: bool = False) -> Artifact:
    """Imports every shard under ``config.source``; an interrupted import goes on.

    Raises:
      DigiQError: the source is missing or holds no shards; with ``on_bad: error``, the first bad file or episode.
    """
    shards = find_shards(config.source)
    held_out = _held_out(shards, config.held_out_apps)
    with artifacts.write(out, stage=STAGE, version=VERSION, config=config, overwrite=overwrite) as w:
        if w.done:
            return w.artifact
        counts = {"episodes": 0, "steps": 0, "bad": 0, "dropped_last": 0, "test_episodes": 0}
        problems: list[str] = []

        def on_bad(error: DigiQError) -> None:
            if config.on_bad == "error":
                raise error
            counts["bad"] += 1
            problems.append(str(error))

        with EpisodeWriter(w.path) as writer, progress("import-aitw", None, unit="episodes") as bar:
            for shard in shards:
                split = "test" if shard in held_out else "train"
                found = read_episodes(
                    shard, split=split, task_id=shard.name, max_side=config.max_side, on_bad=on_bad
                )
                for number, (episode, dropped) in enumerate(found):
                    if config.limit is not None and number >= config.limit:
                        break
                    if episode.episode_id not in writer.written:
                        writer.write(episode)
                    counts["episodes"] += 1
                    counts["steps"] += episode.num_actions
                    counts["dropped_last"] += dropped
                    counts["test_episodes"] += split == "test"
                    bar.advance(1, file=shard.name)
        return w.complete(counts=counts, extra={"problems": problems[:100]})


def find_shards(source: Path) -> list[Path]:
    """The TFRecord files under ``source``, sorted.

    Raises:
      DigiQError: the directory is missing, or holds none, or a shard of a numbered set is missing.
    """
    if not source.exists():
        raise DigiQError(
            f"{source}: no such directory; set --episodes.source to the folder of AitW TFRecords."
        )
    shards = [source] if source.is_file() else sorted(source.rglob("*-of-*"))
    if not shards:
        raise DigiQError(f"{source}: holds no TFRecord shards (files named like general-00000-of-00321).")
    sets: dict[tuple[Path, str, str], set[str]] = {}
    for shard in shards:
        stem, _, total = shard.name.rpartition("-of-")
        name, _, number = stem.rpartition("-")
        sets.setdefault((shard.parent, name, total), set()).add(number)
    # AitW is often copied in part: a missing tail is a choice, a hole in the middle is a failed copy.
    for (folder, name, total), numbers in sets.items():
        if source.is_dir() and total.isdigit():
            expected = [f"{i:0{len(total)}d}" for i in range(int(max(numbers)) + 1)]
            missing = [number for number in expected if number not in numbers]
            if missing:
                raise DigiQError(f"{folder}: shard {name}-{missing[0]}-of-{total} is missing; copy it again.")
    return shards


def _held_out(shards: list[Path], count: int) -> set[Path]:
    general = [shard for shard in shards if shard.name.startswith("general-")]
    if count and len(general) <= count:
        raise DigiQError(
            f"holding out {count} of {len(general)} general shards leaves none to train on; "
            "set --episodes.held-out-apps lower."
        )
    return set(general[len(general) - count :]) if count else set()
