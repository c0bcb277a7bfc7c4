"""The demonstration: a simulated foreign agent's logs in, a learned Q on top of it, and what that gains.

    python -m digiq.laboratory.bring_your_own --episodes 100

The agent plays the embedded phone over HTTP and leaves logs in its own dialect. They are imported, labelled, proposed for by
the agent's own server, featurised, and learned from; then the agent plays held-out tasks as it is, with every way of choosing
among its own answers that needs no learning, and with the learned Q: equal calls, same tasks, same seeds, in pairs.
"""

from __future__ import annotations

import collections
import dataclasses
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro

from android_env.actions import Action, ParseError, actions_match
from android_env.env import AndroidEnv
from android_env.tasks import load_tasks
from digiq import artifacts
from digiq.agents.agent import EachTurn
from digiq.agents.learned import LearnedScorer
from digiq.agents.oracle import ExactScorer
from digiq.agents.proposers import EndpointProposer, Proposal, Proposer, Seen
from digiq.agents.reranked import Agent, Guards
from digiq.agents.rollout import EpisodeRun, EpisodeSpec, plan_episodes, rollout
from digiq.config import load
from digiq.critics import train
from digiq.critics.scorer import RandomScorer
from digiq.data import import_episodes, label
from digiq.endpoint import EndpointConfig
from digiq.features import extract
from digiq.features.engines import Engine, Request
from digiq.features.engines.base import Kind
from digiq.laboratory.foreign import CHARACTERS, Character, Eyes, serving, watched
from digiq.policies.base import Candidate
from digiq.proposals import propose
from digiq.statistics import paired_comparison, wilson
from digiq.vlm import TINY_VLM_PATH

OFF = Guards.off()


@dataclasses.dataclass(frozen=True)
class Options:
    """How much is played, and where it goes."""

    agents: tuple[Literal["weak", "strong"], ...] = ("weak", "strong")
    """Which of the simulated agents."""
    seeds: tuple[int, ...] = (0,)
    """Each seed has logs, training and evaluation of its own."""
    logs: int = 100
    """Episodes of logs."""
    episodes: int = 100
    """Held-out episodes an arm."""
    tasks: str = "webshop/test"
    """Held-out tasks."""
    candidates: Annotated[int, tyro.conf.arg(name="n")] = 8
    """N, answers a step in every arm but the first two."""
    epochs: int = 6
    """Of a critic."""
    out: Path = Path("runs/bring_your_own")


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs what is not there yet, and prints the table."""
    options = tyro.cli(Options, args=arguments)
    for name in options.agents:
        for seed in options.seeds:
            folder = options.out / f"{name}-{seed}"
            if not (folder / "results.json").is_file():
                started = time.monotonic()
                found = one(CHARACTERS[name], seed, options, folder)
                found["seconds"] = round(time.monotonic() - started)
                artifacts.atomic_write_json(folder / "results.json", found)
    print(table(options))


def one(character: Character, seed: int, options: Options, folder: Path) -> dict[str, Any]:
    """Everything of one agent under one seed: by arm, which held-out episodes succeed."""
    folder.mkdir(parents=True, exist_ok=True)
    eyes = Eyes()
    with serving(character, eyes) as url:
        model = EndpointConfig(url=url, key_env="", cache=None, several=True, log_probs=True)
        asked = EndpointProposer.open(model, character.dialect)
        greedy = EndpointProposer.open(dataclasses.replace(model, temperature=0.0), character.dialect)

        def play(agent: Agent, specs: Sequence[EpisodeSpec], tasks: Any, record: bool) -> list[EpisodeRun]:
            def make() -> AndroidEnv:
                return AndroidEnv(watched(eyes), tasks)

            return list(rollout(agent, specs, make, batch_size=16, record=lambda spec: record))

        train_tasks = load_tasks("webshop/train")
        specs = plan_episodes(train_tasks, options.logs, 7000 + seed)
        logged = play(Agent(asked, None, 1, OFF), specs, train_tasks, True)
        write_logs(logged, character, folder / "logs")
        scorers = learn(folder, model, character, seed, options)
        held_out = load_tasks(options.tasks)
        specs = plan_episodes(held_out, options.episodes, 8000 + seed)
        n = options.candidates
        arms: dict[str, Callable[[], Agent]] = {
            "greedy": lambda: Agent(greedy, None, 1, OFF),
            "one sample": lambda: Agent(asked, None, 1, OFF),
            "random of N": lambda: Agent(asked, EachTurn(RandomScorer(seed)), n, OFF),
            "majority of N": lambda: Agent(Winner(asked, most_common), None, n, OFF),
            "own log-probability": lambda: Agent(Winner(asked, likeliest), None, n, OFF),
            "guards without Q": lambda: Agent(asked, None, n, Guards()),
            "shuffled Q": lambda: Agent(asked, scorers["shuffled"], n, OFF),
            "MC": lambda: Agent(asked, scorers["mc"], n, OFF),
            "Q without guards": lambda: Agent(asked, scorers["td"], n, OFF),
            "Q with guards": lambda: Agent(asked, scorers["td"], n, Guards()),
            "best of N by the truth": lambda: Agent(asked, ExactScorer(), n, OFF),
        }
        results: dict[str, Any] = {}
        for arm, make in arms.items():
            agent = make()
            runs = play(agent, specs, held_out, False)
            won = [run.outcome == "success" for run in runs]
            results[arm] = {
                "won": won,
                "outcomes": dict(collections.Counter(run.outcome for run in runs)),
                "counts": dict(agent.counts),
                "latency_ms": agent.latency(),
            }
            print(f"{folder.name}: {arm}: {100 * np.mean(won):.1f} %", file=sys.stderr)
    return {
        "agent": character.name,
        "seed": seed,
        "logs": {
            "episodes": len(logged),
            "success": float(np.mean([r.outcome == "success" for r in logged])),
        },
        "tasks": [spec.task.task_id for spec in specs],
        "arms": results,
    }


def write_logs(runs: Sequence[EpisodeRun], character: Character, folder: Path) -> None:
    """The runs as such an agent would leave them: JSON lines, with what it said."""
    import io

    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for number, run in enumerate(runs):
        assert run.episode is not None
        steps: list[dict[str, Any]] = []
        for t, step in enumerate(run.episode.steps):
            name = f"{number}/{t}.png"
            (folder / str(number)).mkdir(exist_ok=True)
            (folder / name).write_bytes(step.screenshot)
            with Image.open(io.BytesIO(step.screenshot)) as image:
                screen = (image.height, image.width)
            said = None if step.action is None else character.dialect.write(step.action, screen)
            steps.append({"screenshot": name} | ({} if said is None else {"action": said}))
            if step.action is not None:
                steps[-1]["log_prob"] = step.behavior_log_prob
        if len(steps) > 1:
            outcome = run.outcome if run.outcome in ("success", "truncated") else "failure"
            about = {"episode_id": str(number), "goal": run.spec.task.goal, "policy": character.name}
            lines.append(json.dumps(about | {"outcome": outcome, "steps": steps}))
    (folder / "episodes.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def learn(
    folder: Path, model: EndpointConfig, character: Character, seed: int, options: Options
) -> dict[str, LearnedScorer]:
    """Critics of the logs, by objective, and one of shuffled outcomes."""
    dialect = {"dialect": "ui_tars"} if character.name == "weak" else {
        "dialect": "mobile_use",
        "mobile_use": {"coordinates": "pixels"},
    }  # fmt: skip
    reads = {"source": str(folder / "logs"), "say": dialect}
    import_episodes.run(
        load(import_episodes.ImportConfig, {"format": "jsonl", "jsonl": reads}),
        out=folder / "episodes",
        overwrite=True,
    )
    episodes = folder / "episodes"
    sources = {
        "rewards": {"source": "outcome"},
        "shuffled_rewards": {
            "source": "digiq.laboratory.controls:ShuffledOutcomes",
            "own": {"seed": seed},
        },
    }
    for name, settings in sources.items():
        label.run(load(label.LabelConfig, settings), episodes=episodes, out=folder / name, overwrite=True)
    asks = {"model": {"url": model.url, "key_env": "", "cache": None, "several": True}, "say": dialect}
    propose.run(
        load(
            propose.ProposeConfig,
            {
                "source": "endpoint",
                "endpoint": asks,
                "num_candidates": options.candidates,
                "seed": seed,
            },
        ),
        episodes=episodes,
        rewards=folder / "rewards",
        out=folder / "proposals",
        overwrite=True,
    )
    extract.run(
        extract.FeaturizeConfig(),
        episodes=episodes,
        rewards=folder / "rewards",
        proposals=folder / "proposals",
        vlm=TINY_VLM_PATH,
        out=folder / "features",
        overwrite=True,
    )
    scorers: dict[str, LearnedScorer] = {}
    for name, objective in (("td", "td"), ("mc", "mc"), ("shuffled", "td")):
        config = load(
            train.TrainQConfig,
            {"critic": {"objective": objective, "epochs": options.epochs}, "seed": seed},
        )
        rewards = folder / ("shuffled_rewards" if name == "shuffled" else "rewards")
        train.run(
            config,
            features=folder / "features",
            episodes=episodes,
            rewards=rewards,
            out=folder / name,
            overwrite=True,
        )
        opened = LearnedScorer.open(critic=folder / name, features=folder / "features", vlm=TINY_VLM_PATH)
        engine = scorers["td"].engine if scorers else Remembering(opened.engine)
        scorers[name] = dataclasses.replace(opened, engine=engine)
    return scorers


class Remembering:
    """An engine that computes a pair's features once, however many arms ask for them."""

    def __init__(self, engine: Engine):
        self.engine, self._rows = engine, dict[Any, np.ndarray]()
        self.layers = engine.layers

    def dim(self, kind: Kind) -> int:
        """See :class:`~digiq.features.engines.base.Engine`, as the others."""
        return self.engine.dim(kind)

    def identity(self, kind: Kind) -> dict[str, Any]:
        return self.engine.identity(kind)

    def rows(self, requests: Sequence[Request]) -> Any:
        keys = [(hash(np.asarray(r.image).tobytes()), r.goal, r.action) for r in requests]
        missing = list({key: i for i, key in enumerate(keys) if key not in self._rows}.values())
        if missing:
            for positions, block in self.engine.rows([requests[i] for i in missing]):
                for position, row in zip(positions.tolist(), block, strict=True):
                    self._rows[keys[missing[position]]] = row
        yield np.arange(len(keys)), np.stack([self._rows[key] for key in keys])


@dataclasses.dataclass(frozen=True)
class Winner:
    """Of a proposer's N answers the one that a rule chooses: as many calls, one candidate."""

    proposer: EndpointProposer
    rule: Callable[[list[Candidate]], Candidate]

    def propose(self, observation: Seen, n: int) -> Sequence[Proposal]:
        """See :class:`~digiq.agents.proposers.Proposer`, as the others."""
        return self.propose_all([observation], n)[0]

    def propose_all(self, observations: Sequence[Seen], n: int) -> list[list[Candidate | ParseError]]:
        found: list[list[Candidate | ParseError]] = []
        for row in self.proposer.propose_all(observations, n):
            said = [c for c in row if isinstance(c, Candidate)]
            found.append([self.rule(said)] if said else row[:1])
        return found

    def describe(self) -> dict[str, Any]:
        return self.proposer.describe() | {"rule": self.rule.__name__}


def most_common(said: list[Candidate]) -> Candidate:
    """The answer that most others agree with; taps agree where they are near."""

    def agree(a: Action, b: Action) -> bool:
        if a.is_tap and b.is_tap:
            return bool(np.hypot(*np.subtract(a.touch_yx, b.touch_yx)) <= 0.05)
        return actions_match(a, b) and a.text == b.text

    return max(said, key=lambda c: sum(agree(c.action, other.action) for other in said))


def likeliest(said: list[Candidate]) -> Candidate:
    """The answer that the agent itself gives the highest log-probability."""
    return max(said, key=lambda c: c.log_prob)


def table(options: Options) -> str:
    """Success by arm and agent, and the contrast that counts, over all seeds that are there."""
    lines: list[str] = []
    for name in options.agents:
        files = [options.out / f"{name}-{seed}" / "results.json" for seed in options.seeds]
        found = [json.loads(file.read_text(encoding="utf-8")) for file in files if file.is_file()]
        if not found:
            continue
        clusters = [f"{r['seed']}/{task}" for r in found for task in r["tasks"]]
        won = {arm: [w for r in found for w in r["arms"][arm]["won"]] for arm in found[0]["arms"]}
        logs = np.mean([r["logs"]["success"] for r in found])
        lines += [f"### The {name} agent", "", f"In its logs it succeeds {100 * logs:.1f} % of the time.", ""]
        lines += ["| arm | success, % | 95 % |", "|---|---|---|"]
        for arm, results in won.items():
            rate = wilson(sum(results), len(results))
            lines.append(
                f"| {arm} | {100 * rate.value:.1f} | {100 * rate.low:.1f} to {100 * rate.high:.1f} |"
            )
        learned = ("Q without guards", "Q with guards")
        others = [arm for arm in won if arm not in (*learned, "MC", "best of N by the truth")]
        rival = max(others, key=lambda arm: np.mean(won[arm]))
        lines.append("")
        for arm in learned:
            gap = paired_comparison(won[arm], won[rival], clusters)
            lines.append(
                f"{arm} against the best of the others ({rival}): {100 * gap.difference.value:+.1f} points "
                f"({100 * gap.difference.low:+.1f} to {100 * gap.difference.high:+.1f}), paired, {len(clusters)} episodes."
            )
        lines.append("")
    return "\n".join(lines)


__all__ = ["Options", "Proposer", "main", "one", "table"]

if __name__ == "__main__":
    main()
