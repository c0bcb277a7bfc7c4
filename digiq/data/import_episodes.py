"""The ``import`` stage: writes recorded episodes of any known format to the store."""

import sys
import time
from pathlib import Path
from typing import Literal

from digiq import artifacts
from digiq.artifacts import Artifact
from digiq.config import configclass
from digiq.data.importers import IMPORTERS, BadEpisode
from digiq.data.importers.ahead import read_parts
from digiq.data.store import EpisodeWriter
from digiq.errors import DigiQError
from digiq.progress import progress
from digiq.tables import chosen_from

STAGE, VERSION = "import", 2


@configclass
class ImportConfig(chosen_from(IMPORTERS, default="aitw")):
    """What to import, and what to do about bad data."""

    on_bad: Literal["error", "skip"] = "error"
    """Whether a missing or damaged file or a bad episode stops the import (``error``) or is left out and counted
    (``skip``)."""


def run(config: ImportConfig, *, out: Path, overwrite: bool = False) -> Artifact:
    """Imports everything that the chosen importer finds; resumes an interrupted import.

    Counts in the manifest: ``episodes``, ``steps`` (executed actions), ``bad`` (episodes and files left out),
    ``missing`` (files that should be there), ``truncated`` (episodes without a declared end), ``test_episodes``, and,
    if there are any, ``ignored`` (files that do not belong to the format) and the importer's repairs (``clamped``
    coordinates, for example). The first hundred problems are listed under ``extra``.

    Raises:
      DigiQError: there is nothing to import; or, with ``on_bad: error``, a file is missing or a file or an episode is
        bad.
    """
    importer = config.chosen
    found = importer.find()
    if found.missing and config.on_bad == "error":
        raise DigiQError(
            f"{found.missing[0]}: the file is missing ({len(found.missing)} in all); copy it, or set on_bad: skip to import what "
            "is there."
        )
    with artifacts.write(out, stage=STAGE, version=VERSION, config=config, overwrite=overwrite) as w:
        if w.done:
            return w.artifact
        counts = {"episodes": 0, "steps": 0, "bad": 0, "missing": len(found.missing)}
        counts |= {"truncated": 0, "test_episodes": 0}
        if found.ignored:
            counts["ignored"] = found.ignored
        problems = [f"{part}: the file is missing." for part in found.missing]
        origin: dict[str, str] = {}
        started = time.monotonic()

        def leave_out(error: BadEpisode) -> None:
            if config.on_bad == "error":
                raise error
            counts["bad"] += 1
            problems.append(str(error))

        with (
            EpisodeWriter(w.path, extras=True) as writer,
            progress("import", len(found.parts), unit="files") as bar,
        ):
            for part, entries in read_parts(importer, found.parts, frozenset(writer.written), w.path):
                for entry in entries:
                    if isinstance(entry, BadEpisode):
                        leave_out(entry)
                        continue
                    name = entry.episode_id
                    if name in origin:
                        leave_out(
                            BadEpisode(f"{part}: episode {name} is in {origin[name]} too; remove one file.")
                        )
                        continue
                    if name not in writer.written:
                        try:
                            writer.write(entry.make())
                        except BadEpisode as error:
                            leave_out(error)
                            continue
                    origin[name] = str(part)
                    outline = writer.written[name]
                    counts["episodes"] += 1
                    counts["steps"] += outline.num_actions
                    counts["truncated"] += not outline.is_terminated
                    counts["test_episodes"] += outline.split == "test"
                    for what, number in entry.counts.items():
                        counts[what] = counts.get(what, 0) + number
                    bar.advance(0, episodes=counts["episodes"], bad=counts["bad"])
                bar.advance(1, episodes=counts["episodes"], bad=counts["bad"])
        speed = counts["steps"] / max(time.monotonic() - started, 1e-9)
        print(f"import: {counts['steps']} steps, {speed:.0f} a second", file=sys.stderr)
        return w.complete(counts=counts, extra={"problems": problems[:100]})
