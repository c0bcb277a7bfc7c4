"""The ``card`` stage: a data card of the offline data, from the simulator's point of view.

The card says how often the behaviour policy succeeds, which mistakes it makes, how likely it is to take a best action,
and so how often N candidates drawn from it contain one. An action is best if its discounted Q* equals the highest,
within a tolerance. (Undiscounted, a wasted step costs nothing while enough steps are left.) As the probabilities are
exact, so is coverage: 1 - (1 - p)^N in a state where best actions have probability p.
"""

from __future__ import annotations

import collections
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field
from rich import box
from rich.console import Console
from rich.table import Table

from android_env.actions import Action
from digiq import artifacts
from digiq.agents.build import DeviceConfig, device_tasks
from digiq.artifacts import Artifact
from digiq.config import configclass, load
from digiq.data.rewards import LabelledEpisodes
from digiq.data.schema import Episode, decode_png
from digiq.data.transitions import observation_index
from digiq.errors import DigiQError
from digiq.laboratory.truth import best_actions, is_simulated, replay
from digiq.policies.base import Policy, PolicyInput, load_policy, with_support
from digiq.statistics import wilson

STAGE, VERSION = "card", 2
CARD = "card.json"
QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)


@configclass
class CardConfig:
    """How thoroughly the data are examined."""

    valued: Annotated[int, Field(ge=1)] = 64
    """Number of episodes, from the first, whose states are valued exactly."""
    support: Annotated[int, Field(ge=1)] = 64
    """Number of the policy's likeliest actions that are considered in each state."""
    candidates: Annotated[tuple[int, ...], Field(min_length=1)] = (1, 4, 16, 64)
    """Values of N for which coverage is reported."""
    discount: Annotated[float, Field(gt=0, le=1)] = 0.95
    """Discount per executed action, as for the critics; it decides the cost of a wasted step."""


def coverage(best_probability: np.ndarray, draws: int) -> float:
    """Mean probability that ``draws`` independent candidates contain a best action.

    Args:
      best_probability: float[S], the policy's probability of a best action in each state.
      draws: N, the number of candidates.
    """
    return float(np.mean(1 - (1 - np.clip(best_probability, 0, 1)) ** draws))


def run(config: CardConfig, *, episodes: Path, policy: Path, out: Path, overwrite: bool = False) -> Artifact:
    """Writes ``card.json``, in which rates are fractions.

    Args:
      config: see :class:`CardConfig`.
      episodes: rollouts of the behaviour policy on the simulated phone.
      policy: the behaviour policy.
      out: the artefact.
      overwrite: start afresh.

    Raises:
      DigiQError: the episodes were not collected on the simulated phone.
    """
    inputs = {"episodes": episodes, "policy": policy}
    with artifacts.write(
        out, stage=STAGE, version=VERSION, config=config, inputs=inputs, overwrite=overwrite
    ) as writer:
        if writer.done:
            return writer.artifact
        if not is_simulated(episodes):
            raise DigiQError(f"{episodes}: a data card needs episodes collected on the simulated phone.")
        store = LabelledEpisodes(episodes)
        outcomes = collections.Counter(episode.outcome for episode in store.outlines)
        success = wilson(outcomes["success"], len(store))
        some = [store[n] for n in range(min(config.valued, len(store)))]
        screens, p = best_probability(load_policy(policy), episodes, some, config.support, config.discount)
        kinds = sorted(set(screens))
        card: dict[str, Any] = {
            "episodes": len(store),
            "actions": sum(episode.num_actions for episode in store.outlines),
            "success": success.value,
            "success_low": success.low,
            "success_high": success.high,
            "outcomes": dict(sorted(outcomes.items())),
            "mistakes": mistake_mix(episodes, some),
            "states": len(p),
            "best_probability": dict(
                zip(map(str, QUANTILES), np.quantile(p, QUANTILES).round(4).tolist(), strict=True)
            ),
            "coverage": {str(n): round(coverage(p, n), 4) for n in config.candidates},
            "by_screen": {
                kind: {
                    "states": sum(s == kind for s in screens),
                    "best_probability": round(float(np.mean(p[[s == kind for s in screens]])), 4),
                }
                for kind in kinds
            },
        }
        artifacts.atomic_write_json(writer.path / CARD, card)
        return writer.complete(counts={"episodes": len(store), "states": len(p)})


def best_probability(
    policy: Policy, path: Path, episodes: Sequence[Episode], support: int, discount: float
) -> tuple[list[str], np.ndarray]:
    """For every logged state: its kind of screen, and the policy's probability of an action as good as the best.

    Args:
      policy: the behaviour policy.
      path: the ``collect`` artefact that ``episodes`` come from.
      episodes: the episodes to replay.
      support: number of likeliest actions to consider; the others count as not best.
      discount: discount per executed action.
    """
    index = observation_index(episodes)
    inputs = [
        PolicyInput(decode_png(step.screenshot), step.goal)
        for episode in episodes
        for step in episode.steps
        if not step.is_terminal
    ]
    found = with_support(policy, "data cards").support(inputs, support)

    def candidates(row: int) -> list[Action | None]:
        actions: list[Action | None] = [action for action, _ in found[row]]
        return actions + [None] * (support - len(actions))

    truth = replay(path, episodes, index, candidates, discount=discount)
    p = np.zeros((len(index), support))
    for row, choices in enumerate(found):
        p[row, : len(choices)] = [probability for _, probability in choices]
    best = best_actions(truth.q, truth.v)
    return list(truth.screens), np.where(best, p[truth.rows], 0.0).sum(axis=1)


def mistake_mix(path: Path, episodes: Sequence[Episode]) -> dict[str, float]:
    """Share of the logged actions by kind: ``right``, ``fine`` (equally good), or a kind of mistake."""
    from android_env.devices.simulated import collector, kernel

    config = artifacts.read_manifest(path, stage="collect").config
    device = load(DeviceConfig, config["device"], where=str(path), recorded=True).chosen
    tasks = {task.task_id: task for task in device_tasks(config["tasks"])}
    phone = device.phone(render=False)
    counts: collections.Counter[str] = collections.Counter()
    for episode in episodes:
        phone.reset(tasks[episode.task_id], seed=episode.seed)
        for step in episode.steps:
            if step.action is None:
                continue
            action = phone.display.resolve(step.action)
            kinds = collector.mistakes(phone.display)
            kind = next((name for name, actions in kinds.items() if action in actions), "fine")
            right = action == kernel.oracle(phone.state, phone.task)
            wrong_text = kind == "fine" and not right and action[0] == "type"
            counts["right" if right else "wrong_text" if wrong_text else kind] += 1
            phone.execute(step.action)
    total = sum(counts.values())
    return {name: round(count / total, 4) for name, count in counts.most_common()}


def print_card(card: dict[str, Any], console: Console | None = None) -> None:
    """Prints the content of ``card.json``."""
    console = console or Console()
    table = Table(title="Data card", title_justify="left", box=box.SIMPLE_HEAD, show_header=False)
    low, high = 100 * card["success_low"], 100 * card["success_high"]
    table.add_row(
        "behaviour policy's success",
        f"{100 * card['success']:.1f} % ({low:.1f}–{high:.1f}), {card['episodes']} episodes",
    )
    table.add_row(
        "its actions", ", ".join(f"{name} {100 * share:.0f} %" for name, share in card["mistakes"].items())
    )
    table.add_row(
        "probability of a best action",
        ", ".join(f"{100 * float(q):.0f} %: {v:.2f}" for q, v in card["best_probability"].items()),
    )
    table.add_row(
        "N candidates hold a best action", ", ".join(f"{n}: {v:.2f}" for n, v in card["coverage"].items())
    )
    table.add_row(
        "by kind of screen",
        ", ".join(
            f"{kind} {row['best_probability']:.2f} ({row['states']})"
            for kind, row in card["by_screen"].items()
        ),
    )
    console.print(table)


def read_card(path: Path) -> dict[str, Any]:
    """The card of a finished ``card`` artefact.

    Raises:
      ArtifactError: it is not finished, or was made by another stage.
    """
    return json.loads((artifacts.open(path, stage=STAGE).path / CARD).read_text(encoding="utf-8"))
