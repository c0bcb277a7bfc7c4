"""Trajectories of DigiRL and Digi-Q: ``.pt`` files, lists of trajectories of step dictionaries, read without running code.

Source: DigiRL-agent/digirl, ``digirl/environment/env_utils.py`` (the fields collected) and ``autoui_utils.py`` (the
format of prompts and actions). Only tensors, arrays, texts and numbers are unpickled (torch's ``weights_only``).
"""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from android_env.actions import Action, ParseError, format_action, parse_action
from digiq.config import configclass
from digiq.data.importers.base import BadEpisode, Entry, Sources
from digiq.data.importers.build import MEND, Frame, episode_of
from digiq.data.importers.files import files_under, other_format, source_folder
from digiq.data.schema import Episode, encode_png
from digiq.errors import DigiQError

_GOAL = re.compile(r"Goal:\s*(.*?)\s*(?:</s>)?\s*$", re.DOTALL)
_SPLIT = "<split>"


@configclass
class DigiRL:
    """Upstream's ``.pt`` trajectories of DigiRL and Digi-Q."""

    source: Path = Path("trajectories.pt")
    """A file, or a folder of them."""
    images: Path | None = None
    """Folder of the screenshots, which are looked up by the file name in ``image_path``; none: next to the file."""
    blank: bool = False
    """Whether to give a step without a screenshot a grey screen, and count it, instead of leaving its episode out. That
    is enough to train on stored features, but of no use to a VLM."""
    max_side: Annotated[int, Field(ge=32)] = 640
    """Longest side of the stored screenshots, in pixels."""

    def find(self) -> Sources:
        """See :class:`digiq.data.importers.base.Importer`."""
        source = source_folder(self.source, "digirl")
        files = [source] if source.is_file() else files_under(source)
        files = [file for file in files if file.suffix in (".pt", ".pth")]
        if not files:
            raise DigiQError(f"{source}: holds no .pt file{other_format(source, 'digirl')}.")
        return Sources(files)

    def read(self, part: Path) -> Iterator[Entry | BadEpisode]:
        """See :class:`digiq.data.importers.base.Importer`."""
        for found in self.trajectories(part):
            if isinstance(found, BadEpisode):
                yield found
                continue
            name, where, steps = found
            blank = sum(self._picture(part, step) is None for step in steps) if self.blank else 0
            counts = {"blank": blank} if blank else {}
            yield Entry(name, functools.partial(self._make, where, part, name, steps), counts)

    def trajectories(self, part: Path) -> Iterator[tuple[str, str, list[dict[str, Any]]] | BadEpisode]:
        """A file's raw trajectories: the episode's id, its place in the file, and its steps."""
        try:
            trajectories = load_trajectories(part)
        except BadEpisode as error:
            yield error
            return
        for number, steps in enumerate(trajectories):
            first = steps[0] if steps and isinstance(steps[0], dict) else {}
            known = first.get("traj_id")
            name = f"{part.stem}/{number}" if known is None else str(known)
            where = f"{part}, trajectory {number}"
            if not first or not all(isinstance(step, dict) for step in steps):
                yield BadEpisode(f"{where}: not a list of step dictionaries; {MEND}")
                continue
            yield name, where, steps

    def _picture(self, part: Path, step: dict[str, Any]) -> Path | None:
        name = Path(str(step.get("image_path") or "")).name
        if not name:
            return None
        file = (self.images or part.parent) / name
        return file if file.is_file() else None

    def _image(self, part: Path, step: dict[str, Any], t: int) -> bytes:
        file = self._picture(part, step)
        if file is not None:
            return file.read_bytes()
        if self.blank:
            return _grey()
        raise ValueError(
            f"step {t}: screenshot {step.get('image_path')!r} is missing; set digirl.images, or digirl.blank"
        )

    def _make(self, where: str, part: Path, name: str, steps: Sequence[dict[str, Any]]) -> Episode:
        try:
            frames = []
            for t, step in enumerate(steps):
                action = logged_action(step, t)
                extras: dict[str, Any] = {"observation": str(step.get("observation", ""))}
                if read := offered_actions(step):
                    extras["candidates"] = [
                        {"action": format_action(found), "log_prob": None}
                        for found in read
                        if found is not None
                    ]
                    extras["unparsable"] = sum(found is None for found in read)
                image = self._image(part, step, t)
                frames.append(
                    Frame(image=image, action=action, reward=float(step.get("reward", 0.0)), extras=extras)
                )
            last = steps[-1]
            won = sum(frame.reward for frame in frames) > 0
            return episode_of(
                frames,
                episode_id=name,
                goal=_goal(steps[0]),
                max_side=self.max_side,
                outcome="success" if won else "failure",
                task_id=str(steps[0].get("task") or ""),
                policy="logged",
                extras={} if bool(last.get("done", True)) else {"done": False},
            )
        except KeyError as error:
            raise BadEpisode(f"{where}: a step lacks {error}; {MEND}") from None
        except (ValueError, TypeError, OSError) as error:
            raise BadEpisode(f"{where}: {str(error).rstrip('.')}; {MEND}") from None


def load_trajectories(file: Path) -> list[list[dict[str, Any]]]:
    """The trajectories of a ``.pt`` file. No code in it is run.

    Raises:
      BadEpisode: it cannot be read, holds objects other than arrays, texts and numbers, or is not a list of lists.
    """
    import pickle

    import torch

    try:
        with _numpy_allowed():
            found = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        what = re.search(r"GLOBAL ([\w.]+)|global (?:`|'|\")?([\w.]+)", str(error))
        named = f" ({(what[1] or what[2])})" if what else ""
        raise BadEpisode(
            f"{file}: holds more than arrays, texts and numbers{named}, so it is not opened, as a pickle can run code; save it "
            "again as plain lists, or set on_bad: skip."
        ) from None
    except Exception as error:  # a damaged archive can raise anything
        raise BadEpisode(
            f"{file}: cannot be read ({' '.join(str(error).split())[:120]}); copy it again, or set on_bad: skip."
        ) from None
    if not isinstance(found, list) or not all(isinstance(steps, list) for steps in found):
        raise BadEpisode(
            f"{file}: does not hold a list of trajectories; use upstream's file, or set on_bad: skip."
        )
    return found


@contextlib.contextmanager
def _numpy_allowed() -> Generator[None, None, None]:
    """Lets torch unpickle NumPy arrays and numbers, under their names in NumPy 1 and 2, and nothing else."""
    import torch
    from numpy._core import multiarray

    names: list[Any] = [
        np.ndarray,
        np.dtype,
        *(getattr(np.dtypes, n) for n in dir(np.dtypes) if n.endswith("DType")),
    ]
    for package in ("numpy.core.multiarray", "numpy._core.multiarray"):
        names += [
            (multiarray._reconstruct, f"{package}._reconstruct"),
            (multiarray.scalar, f"{package}.scalar"),
        ]  # type: ignore[attr-defined]
    with torch.serialization.safe_globals(names):
        yield


def logged_action(step: dict[str, Any], t: int) -> Action:
    """The action executed at step ``t``.

    Raises:
      KeyError: the step has no ``action``.
      ValueError: the action does not parse.
    """
    text = str(step["action"])
    found = parse_action(text)
    if isinstance(found, ParseError):
        raise ValueError(f"step {t}: action {text[:80]!r}: {found.reason}")
    return found


def offered_actions(step: dict[str, Any]) -> list[Action | None]:
    """The candidates in ``action_list``, in order; None for one that does not parse."""
    offered = step.get("action_list")
    if not offered:
        return []
    texts = str(offered).split(_SPLIT) if isinstance(offered, str) else list(offered)
    read = [parse_action(str(text)) for text in texts]
    return [found if isinstance(found, Action) else None for found in read]


def _goal(step: dict[str, Any]) -> str:
    if step.get("task"):
        return str(step["task"])
    match = _GOAL.search(str(step.get("observation", "")))
    if match is None or not match[1]:
        raise ValueError("neither 'task' nor a 'Goal:' in 'observation' says what the task is")
    return match[1]


@functools.cache
def _grey() -> bytes:
    return encode_png(np.full((64, 32, 3), 128, np.uint8))
