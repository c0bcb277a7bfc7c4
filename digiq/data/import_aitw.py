"""The ``import-aitw`` stage: Android in the Wild TFRecords to episodes."""

import itertools
import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from digiq import artifacts
from digiq.artifacts import Artifact
from digiq.config import configclass
from digiq.data.aitw import BadEpisode, read_episodes, to_episode
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
    """A missing shard, a damaged file or a bad episode stops the import (``error``) or is left out and counted
    (``skip``)."""
    held_out_apps: Annotated[int, Field(ge=0)] = 1
    """So many of the last ``general`` shards present, by name, become split ``test``; an app is one shard there."""
    max_side: Annotated[int, Field(ge=32)] = 640
    """Longest side of the stored screenshots, in pixels."""
    limit: Annotated[int, Field(ge=1)] | None = None
    """Import at most so many good episodes a file; none: all."""


def run(config: ImportAitwConfig, *, out: Path, overwrite: bool = False) -> Artifact:
    """Imports every shard under ``config.source``; an interrupted import goes on.

    Counts in the manifest: ``episodes``, ``steps`` (executed actions), ``bad`` (episodes and files left out),
    ``missing_shards``, ``dropped_last`` (episodes that lost their last transition), ``test_episodes``; the first
    hundred problems stand under ``extra``.

    Raises:
      DigiQError: the source is missing or holds no shards; with ``on_bad: error``, the first missing shard, bad file
        or bad episode.
    """
    shards = find_shards(config.source)
    missing = _missing_shards(shards) if config.source.is_dir() else []
    if missing and config.on_bad == "error":
        raise DigiQError(
            f"{missing[0]}: the shard is missing ({len(missing)} in all); copy it, or set on_bad: skip to import "
            "what is there."
        )
    held_out = _held_out(shards, config.held_out_apps)
    with artifacts.write(out, stage=STAGE, version=VERSION, config=config, overwrite=overwrite) as w:
        if w.done:
            return w.artifact
        counts = {"episodes": 0, "steps": 0, "bad": 0, "missing_shards": len(missing)}
        counts |= {"dropped_last": 0, "test_episodes": 0}
        problems = [f"{shard}: the shard is missing." for shard in missing]
        origin: dict[str, Path] = {}

        def on_bad(error: BadEpisode) -> None:
            if config.on_bad == "error":
                raise error
            counts["bad"] += 1
            problems.append(str(error))

        with EpisodeWriter(w.path) as writer, progress("import-aitw", len(shards), unit="files") as bar:
            for shard in shards:
                split = "test" if shard in held_out else "train"
                for raw in itertools.islice(read_episodes(shard, on_bad=on_bad), config.limit):
                    name = raw.episode_id
                    if name in origin:
                        on_bad(
                            BadEpisode(f"{shard}: episode {name} is in {origin[name]} too; remove one file.")
                        )
                        continue
                    origin[name] = shard
                    if name not in writer.written:
                        writer.write(
                            to_episode(raw, split=split, task_id=shard.name, max_side=config.max_side)
                        )
                    counts["episodes"] += 1
                    counts["steps"] += raw.num_actions
                    counts["dropped_last"] += not raw.terminated
                    counts["test_episodes"] += split == "test"
                    bar.advance(0, episodes=counts["episodes"], bad=counts["bad"])
                bar.advance(1, episodes=counts["episodes"], bad=counts["bad"])
        return w.complete(counts=counts, extra={"problems": problems[:100]})


def find_shards(source: Path) -> list[Path]:
    """The TFRecord files under ``source``, sorted by path.

    Raises:
      DigiQError: the directory is missing or holds none.
    """
    if not source.exists():
        raise DigiQError(f"{source}: no such directory; set episodes.source to the folder of AitW TFRecords.")
    shards = [source] if source.is_file() else sorted(source.rglob("*-of-*"))
    if not shards:
        raise DigiQError(f"{source}: holds no TFRecord shards (files named like general-00000-of-00321).")
    return shards


def _missing_shards(shards: list[Path]) -> list[Path]:
    """The shards that the names of the others (``<name>-<number>-of-<total>``) promise and that are not there."""
    promised: set[Path] = set()
    for shard in shards:
        if match := re.fullmatch(r"(.+)-\d+-of-(\d+)", shard.name):
            name, total = match[1], match[2]
            width = len(total)
            promised |= {shard.with_name(f"{name}-{i:0{width}d}-of-{total}") for i in range(int(total))}
    return sorted(promised - set(shards))


def _held_out(shards: list[Path], count: int) -> set[Path]:
    general = [shard for shard in shards if shard.name.startswith("general-")]
    if count and len(general) <= count:
        raise DigiQError(
            f"holding out {count} of {len(general)} general shards leaves none to train on; "
            "set held_out_apps lower."
        )
    return set(general[len(general) - count :]) if count else set()
