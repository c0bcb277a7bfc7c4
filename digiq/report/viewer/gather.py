"""The data that the viewer shows, read from a run's artefacts episode by episode."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from android_env.actions import Action, parse_action
from digiq import artifacts
from digiq.data.rewards import LabelledEpisodes
from digiq.data.schema import Episode
from digiq.drawing.strips import describe
from digiq.errors import ArtifactError, ConfigError
from digiq.evaluation.evaluate import EPISODES, read_results
from digiq.evaluation.records import RECORDS
from digiq.evaluation.summary import arm_title
from digiq.proposals.propose import Proposals, load_proposals, supported
from digiq.report.run_report import RunArtifacts, candidate_scores, gate_of

_EPISODES = ("collect", "import")
_NAMES = {"rewards": "label", "proposals": "propose", "features": "featurize"}
_CACHED = 4
"""Episodes kept with their screens: the one shown, the one beside it, and the next ones."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Found:
    """The artefacts of a run that the viewer can show; incomplete ones are left out."""

    episodes: Path | None = None
    rewards: Path | None = None
    proposals: Path | None = None
    features: Path | None = None
    critics: Mapping[str, Path] = dataclasses.field(default_factory=dict)
    """By their name on the page; all were trained on ``features``."""
    policies: Mapping[str, Path] = dataclasses.field(default_factory=dict)
    evaluations: Mapping[str, Path] = dataclasses.field(default_factory=dict)


def find(run: Path, critics: Sequence[Path] = ()) -> Found:
    """Finds the artefacts in a run's directory, or takes one artefact of episodes or of an evaluation.

    Args:
      run: a directory made by ``digiq run``, or an artefact of ``collect``, ``import`` or ``evaluate``.
      critics: further critics, trained on the run's features.

    Raises:
      ConfigError: there is nothing to show.
      DigiQError: a named critic was trained on other features.
    """
    if not run.is_dir():
        raise ConfigError(f"{run}: no such directory; name the directory of a run, e.g. runs/quickstart.")
    if (run / artifacts.MANIFEST).is_file():
        stage = artifacts.read_manifest(run).stage
        if stage in _EPISODES:
            return Found(episodes=run)
        if stage == "evaluate":
            return Found(evaluations={run.name: run})
        raise ConfigError(
            f"{run}: was made by '{stage}'; name a run's directory, episodes ('collect', 'import') or an evaluation."
        )
    stages = {path: stage for path in _directories(run) if (stage := _complete_stage(path))}
    episodes = run / "episodes" if stages.get(run / "episodes") in _EPISODES else None
    chain = {n: run / n for n, stage in _NAMES.items() if episodes and stages.get(run / n) == stage}
    evaluations = {p.name: p for p in _in_order(stages, run, "evaluation") if stages[p] == "evaluate"}
    policies = {p.name: p for p in _in_order(stages, run, "policy") if stages[p] == "distill"}
    found_critics: dict[str, Path] = {}
    if len(chain) == len(_NAMES):
        digest = artifacts.read_manifest(chain["features"]).digest
        first = sorted(
            (p for p, s in stages.items() if s == "train-q"), key=lambda p: (p.name != "critic", p)
        )
        for path in first:
            if artifacts.read_manifest(path).inputs.get("features") in (None, digest):
                found_critics[path.name] = path
        for path in critics:
            if artifacts.read_manifest(path, "train-q").inputs.get("features") not in (None, digest):
                raise ConfigError(
                    f"{path}: was trained on other features than {chain['features']}; name one of them."
                )
            found_critics[path.name if path.name not in found_critics else str(path)] = path
    elif critics:
        raise ConfigError(f"{run}: has no features, so its candidates cannot be scored by --critics.")
    if not episodes and not evaluations:
        raise ConfigError(
            f"{run}: holds no finished episodes or evaluations yet; 'digiq status {run}' says what is there."
        )
    return Found(
        episodes=episodes, **chain, critics=found_critics, policies=policies, evaluations=evaluations
    )


def _directories(run: Path) -> list[Path]:
    return [
        file.parent for depth in ("*", "*/*") for file in sorted(run.glob(f"{depth}/{artifacts.MANIFEST}"))
    ]


def _complete_stage(path: Path) -> str:
    try:
        return artifacts.read_manifest(path).stage
    except ArtifactError:
        return ""  # unfinished or damaged; 'digiq verify' tells which


def _in_order(stages: Mapping[Path, str], run: Path, folder: str) -> list[Path]:
    """The artefacts of a folder in the order of reports: the behaviour policy first, the ceiling last."""
    order = {"behavior": 0, "ceiling": 2}
    return sorted(
        (p for p in stages if p.parent == run / folder), key=lambda p: (order.get(p.name, 1), p.name)
    )


class RunView:
    """Serves what the page asks for: the index, an episode, a screen. Holds arrays, and the screens of a few episodes.

    Args:
      found: see :func:`find`.
      title: title of the page.
      most: most episodes of each source; None for all.

    Raises:
      DigiQError: the artefacts do not fit together.
    """

    def __init__(self, found: Found, title: str, most: int | None = None):
        self.title = title
        self._found = found
        self._logged = None if found.episodes is None else LabelledEpisodes(found.episodes, found.rewards)
        self._gate = gate_of(found.policies)
        self._scores: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        self._proposals: Proposals | None = None
        if found.proposals is not None:
            self._proposals = load_proposals(found.proposals)
            for name, critic in found.critics.items():
                run = RunArtifacts(proposals=found.proposals, features=found.features, critic=critic)
                self._scores[name] = candidate_scores(run)[1:]
        outlines = [] if self._logged is None else self._logged.outlines
        lengths = [o.num_actions + (not o.is_terminated) for o in outlines]
        self._first_row = np.cumsum([0, *lengths])
        for name, rows in (
            (found.features, [len(q) for q, _ in self._scores.values()]),
            (found.proposals, [] if self._proposals is None else [len(self._proposals)]),
        ):
            if any(count != self._first_row[-1] for count in rows):
                raise ConfigError(
                    f"{name}: {rows[0]} rows, but the episodes have {self._first_row[-1]}; name artefacts of one run."
                )
        self._logged_shown = len(outlines) if most is None else min(most, len(outlines))
        self._usable = self._allowed()
        self._played: list[tuple[str, Path]] = []
        for arm, path in found.evaluations.items():
            files = sorted((path / RECORDS).glob("*/record.json"))
            self._played += [(arm, file.parent) for file in files[:most]]
        self._cached = functools.lru_cache(maxsize=_CACHED)(self._open)

    def __len__(self) -> int:
        """Number of episodes that can be shown; their keys are 0 to this minus one."""
        return self._logged_shown + len(self._played)

    @functools.cached_property
    def index(self) -> dict[str, Any]:
        """The data of every episode that lists and filters need, JSON-able."""
        sources = []
        if self._logged is not None:
            sources.append({"title": "Logged episodes", "critics": list(self._scores), "arm": ""})
        arms = dict.fromkeys(arm for arm, _ in self._played)
        sources += [{"title": arm_title(arm), "critics": ["the agent's scorer"], "arm": arm} for arm in arms]
        gate = None if self._gate is None else dataclasses.asdict(self._gate)
        episodes = [*self._logged_rows(), *self._played_rows(len(sources) - len(arms), list(arms))]
        return {"title": self.title, "sources": sources, "gate": gate, "episodes": episodes}

    def episode(self, key: int) -> dict[str, Any]:
        """An episode with its steps and their candidates, JSON-able; it holds the names of images, not the images.

        Raises:
          IndexError: there is no episode of that number.
        """
        return self._cached(key)[0]

    def screen(self, key: int, step: int) -> bytes:
        """The image file of a step's screen.

        Raises:
          IndexError: there is no such episode or step.
        """
        screens = self._cached(key)[1]
        if not 0 <= step < len(screens):
            raise IndexError(step)
        return screens[step]

    def _open(self, key: int) -> tuple[dict[str, Any], list[bytes]]:
        if not 0 <= key < len(self):
            raise IndexError(key)
        if key >= self._logged_shown:
            return self._open_played(key, *self._played[key - self._logged_shown])
        assert self._logged is not None
        episode = self._logged[key]
        return self._logged_episode(key, episode), [step.screenshot for step in episode.steps]

    def _allowed(self) -> np.ndarray | None:
        """bool[S, N], the candidates that extraction chooses from; None without candidates."""
        if self._proposals is None:
            return None
        valid = self._proposals.valid
        if self._gate is not None and self._gate.support > 0:
            return valid & supported(self._proposals.log_prob, valid, self._gate.support)
        return valid

    def _choices(self) -> list[np.ndarray]:
        """For each critic and row, the number of the action that it ranks first; -1 if there is none to rank."""
        assert self._proposals is not None and self._usable is not None
        ids = _action_ids(self._proposals)
        found = []
        for q, _ in self._scores.values():
            ranked = np.where(self._usable & ~np.isnan(q), q, -np.inf)
            best = ranked.argmax(axis=1)
            rows = np.arange(len(best))
            found.append(np.where(np.isfinite(ranked[rows, best]), ids[rows, best], -1))
        return found

    def _logged_rows(self) -> list[dict[str, Any]]:
        if self._logged is None:
            return []
        choices = self._choices() if self._scores else []
        logged = _action_ids(self._proposals)[:, 0] if choices and self._proposals is not None else None
        rows = []
        for key, outline in enumerate(self._logged.outlines[: self._logged_shown]):
            start, acted = int(self._first_row[key]), outline.num_actions
            here = slice(start, start + acted)
            differs = [int((c[here] != logged[here]).sum()) for c in choices] if logged is not None else []
            apart = (
                int(np.any([c[here] != choices[0][here] for c in choices[1:]], axis=0).sum())
                if len(choices) > 1
                else 0
            )
            rows.append(
                {
                    "source": 0,
                    "id": outline.episode_id,
                    "task": outline.task_id,
                    "goal": outline.goal,
                    "split": outline.split,
                    "outcome": outline.outcome or ("success" if outline.total_reward > 0.5 else "failure"),
                    "steps": acted,
                    "differs": differs,
                    "apart": apart,
                }
            )
        return rows

    def _played_rows(self, first_source: int, arms: list[str]) -> list[dict[str, Any]]:
        rows, tasks = [], {}
        for arm in arms:
            results = read_results(self._found.evaluations[arm] / EPISODES)
            tasks |= {(arm, r.episode_id): r.task_id for r in results}
        for arm, folder in self._played:
            record = _record(folder)
            rows.append(
                {
                    "source": first_source + arms.index(arm),
                    "id": record["episode_id"],
                    "task": tasks.get((arm, record["episode_id"]), ""),
                    "goal": record["goal"],
                    "split": record["split"],
                    "outcome": record["outcome"],
                    "steps": len(record["steps"]),
                    "differs": [],
                    "apart": 0,
                }
            )
        ends: dict[str, set[str]] = {}
        for row in rows:
            ends.setdefault(row["id"], set()).add(row["outcome"])
        for row in rows:
            row["apart"] = int(len(ends[row["id"]]) > 1)
        return rows

    def _logged_episode(self, key: int, episode: Episode) -> dict[str, Any]:
        steps = []
        for number, step in enumerate(episode.steps):
            row = int(self._first_row[key]) + number
            inside = row < self._first_row[key + 1]
            steps.append(
                {
                    "img": _image_name(key, number, step.screenshot),
                    "act": None if step.action is None else _action(step.action, step.ui_elements),
                    "lp": _number(step.behavior_log_prob),
                    "r": _number(step.reward) if step.action is not None else None,
                    "note": step.activity,
                    "v": [_number(v[row]) for _, v in self._scores.values()] if inside else [],
                    "cand": self._candidates(row, step.ui_elements) if inside else [],
                }
            )
        return {"hw": list(episode.screen_hw), "policy": episode.policy, "steps": steps}

    def _candidates(self, row: int, ui_elements: str) -> list[dict[str, Any]]:
        """Distinct candidates of a state, in the order in which they were proposed."""
        proposals = self._proposals
        if proposals is None or self._usable is None:
            return []
        found: dict[Action, dict[str, Any]] = {}
        logged = proposals.action(row, 0) if proposals.valid[row, 0] else None
        for n in np.flatnonzero(proposals.valid[row]):
            action = proposals.action(row, int(n))
            if action in found:
                found[action]["n"] += 1
                continue
            found[action] = {
                **_action(action, ui_elements),
                "n": 1,
                "lp": _number(proposals.log_prob[row, n]),
                "q": [_number(q[row, n]) for q, _ in self._scores.values()],
                "logged": action == logged,
                "ok": bool(self._usable[row, n]),
            }
            if proposals.source_id is not None:
                found[action]["from"] = proposals.sources[proposals.source_id[row, n]]
        return list(found.values())

    def _open_played(self, key: int, arm: str, folder: Path) -> tuple[dict[str, Any], list[bytes]]:
        record = _record(folder)
        screens = [png.read_bytes() for png in sorted(folder.glob("*.png"))]
        steps = []
        for number, screen in enumerate(screens):
            step = record["steps"][number] if number < len(record["steps"]) else None
            steps.append({"img": _image_name(key, number, screen), **_played_step(step)})
        return {"hw": list(record["screen_hw"]), "policy": arm, "steps": steps}, screens


def _played_step(step: Mapping[str, Any] | None) -> dict[str, Any]:
    if step is None:
        return {"act": None, "lp": None, "r": None, "note": "", "v": [], "cand": []}
    done = parse_action(step["action"])
    candidates: dict[Action, dict[str, Any]] = {}
    scores = step["q"] or [None] * len(step["candidates"])
    for text, q in zip(step["candidates"], scores, strict=False):
        action = parse_action(text)
        if not isinstance(action, Action):
            continue
        if action in candidates:
            candidates[action]["n"] += 1
            continue
        candidates[action] = {
            **_action(action, "[]"),
            "n": 1,
            "lp": None,
            "q": [_number(q)],
            "logged": action == done,
            "ok": True,
        }
    if isinstance(done, Action):
        shown = {**_action(done, "[]"), "s": step["caption"]}
    else:
        shown = {"s": step["caption"]}
    return {
        "act": shown,
        "lp": None,
        "r": None,
        "note": step.get("activity", ""),
        "v": [_number(step["v"])],
        "cand": list(candidates.values()),
    }


def _record(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "record.json").read_text(encoding="utf-8"))


def _action(action: Action, ui_elements: str) -> dict[str, Any]:
    """An action in words, with its points if it has any, as (y, x) in [0, 1]."""
    said: dict[str, Any] = {"s": describe(action, ui_elements)}
    if action.is_tap or action.is_swipe:
        said["p"] = [round(v, 4) for v in action.touch_yx]
    if action.is_swipe:
        said["p2"] = [round(v, 4) for v in action.lift_yx]
    return said


def _action_ids(proposals: Proposals) -> np.ndarray:
    """int[S, N]: equal numbers in a row mean equal actions; -1 where there is no candidate."""
    columns = np.concatenate(
        [
            proposals.action_type[..., None].astype(np.float64),
            proposals.touch_yx,
            proposals.lift_yx,
            proposals.text_id[..., None],
        ],
        axis=-1,
    )
    same = (columns[:, :, None] == columns[:, None, :]).all(-1)
    return np.where(proposals.valid, same.argmax(axis=2), -1)


def _image_name(key: int, step: int, data: bytes) -> str:
    return f"screens/{key}/{step}.{image_kind(data)}"


def image_kind(data: bytes) -> str:
    """``png``, ``jpeg`` or ``webp``, by the first bytes."""
    if data.startswith(b"\xff\xd8"):
        return "jpeg"
    return "webp" if data.startswith(b"RIFF") else "png"


def _number(value: Any) -> float | None:
    """A number, or None for NaN and infinity, which JSON lacks."""
    if value is None or not math.isfinite(value):
        return None
    return float(f"{float(value):.5g}")
