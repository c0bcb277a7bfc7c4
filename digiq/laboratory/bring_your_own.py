"""The demonstration: from the logs of a simulated foreign agent to a learned Q on top of it, and the gain from it.

    python -m digiq.laboratory.bring_your_own --episodes 100

The agent plays the embedded phone over HTTP and leaves logs in its own dialect. The logs are imported and labelled, the
agent's own server proposes candidates, and critics are trained on their features. Then the agent plays held-out tasks:
unchanged, with every way of choosing among its own answers that needs no learning, and with the learned Q. The
comparison is paired, with equal numbers of calls, the same tasks and the same seeds.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import tyro

from android_env.actions import Action, ParseError, actions_match
from android_env.env import AndroidEnv
from android_env.tasks import load_tasks
from digiq import artifacts
from digiq.agents.agent import EachTurn, Turn, screen_digest
from digiq.agents.learned import LearnedScorer
from digiq.agents.oracle import ExactScorer
from digiq.agents.proposers import EndpointProposer, Proposal, Proposer, Seen
from digiq.agents.reranked import Agent, Guards
from digiq.agents.rollout import EpisodeRun, EpisodeSpec, plan_episodes, rollout
from digiq.config import load
from digiq.critics import train
from digiq.critics.scorer import RandomScorer
from digiq.data import import_episodes, label
from digiq.drawing.figures import sweep
from digiq.endpoint import EndpointConfig
from digiq.errors import ArtifactError, DigiQError
from digiq.features import extract
from digiq.features.engines import Engine, Request
from digiq.features.engines.base import Kind
from digiq.laboratory.foreign import CHARACTERS, Character, Eyes, serving, watched
from digiq.laboratory.truth import TIE
from digiq.policies.base import Candidate
from digiq.proposals import propose
from digiq.statistics import cluster_bootstrap, paired_comparison, wilson
from digiq.vlm import TINY_VLM_PATH

OFF = Guards.off()
GAMMA = 0.95
"""Discount of the critics, and of the values that they are compared with."""


@dataclasses.dataclass(frozen=True)
class Options:
    """How much is played, and where the files go."""

    agents: tuple[Literal["weak", "strong"], ...] = ("weak", "strong")
    """The simulated agents to run."""
    seeds: tuple[int, ...] = (0,)
    """Seeds; each has its own logs, training and evaluation."""
    logs: int = 100
    """Episodes of logs."""
    episodes: int = 100
    """Held-out episodes per arm."""
    tasks: str = "webshop/test"
    """Held-out tasks."""
    candidates: Annotated[int, tyro.conf.arg(name="n")] = 8
    """N, the number of answers per step in every arm but the first two."""
    epochs: int = 6
    """Epochs of each critic's training."""
    sweep: tuple[int, ...] = (1, 2, 4, 16)
    """Further values of N for the arm of Q with guards."""
    compared: int = 24
    """Held-out episodes in whose states the step critics are compared with the simulator's values."""
    judge: float = 0.8
    """How often the stand-in for a judge is right about a step."""
    out: Path = Path("runs/bring_your_own")
    """Folder for logs, features and critics."""
    records: Path | None = None
    """Folder for records, one JSON-lines file per agent and seed; none: ``out``. Interrupted runs continue from it."""

    def file(self, agent: str, seed: int) -> Path:
        """The file of records of an agent and seed."""
        return (self.records or self.out) / f"{agent}-{seed}.jsonl"


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs what is still missing, prints the tables, and writes them and a figure of the sweep beside the records."""
    options = tyro.cli(Options, args=arguments)
    for name in options.agents:
        for seed in options.seeds:
            one(CHARACTERS[name], seed, options, options.out / f"{name}-{seed}")
    text = table(options)
    print(text)
    folder = options.records or options.out
    artifacts.atomic_write_text(folder / "table.md", text)
    picture = sweep_figure(options)
    if picture:
        artifacts.atomic_write_text(folder / "sweep.svg", picture)


def one(character: Character, seed: int, options: Options, folder: Path) -> None:
    """Runs everything that the records of one agent and seed still lack."""
    records = Records(options.file(character.name, seed))
    held_out = load_tasks(options.tasks)
    specs = plan_episodes(held_out, options.episodes, 8000 + seed)
    if records.has_all(arm_names(options), specs):
        return
    eyes = Eyes()
    with serving(character, eyes) as url:
        model = EndpointConfig(url=url, key_env="", cache=None, several=True, log_probs=True)
        asked = Remembered(EndpointProposer.open(model, character.dialect))
        greedy = EndpointProposer.open(dataclasses.replace(model, temperature=0.0), character.dialect)

        def play(
            agent: Agent, specs: Sequence[EpisodeSpec], tasks: Any, record: bool
        ) -> Iterator[EpisodeRun]:
            def make() -> AndroidEnv:
                return AndroidEnv(watched(eyes), tasks)

            asked.said.clear()
            return rollout(agent, specs, make, batch_size=16, record=lambda spec: record)

        if not (folder / "logs" / "episodes.jsonl").is_file():
            train_tasks = load_tasks("webshop/train")
            acted = plan_episodes(train_tasks, options.logs, 7000 + seed)
            logged = list(play(Agent(asked, None, 1, OFF), acted, train_tasks, True))
            write_logs(logged, character, folder / "logs")
        if not records.of("logs"):
            text = (folder / "logs" / "episodes.jsonl").read_text(encoding="utf-8")
            won = [json.loads(line)["outcome"] == "success" for line in text.splitlines()]
            about = {"agent": character.name, "seed": seed, "n": options.candidates}
            records.add(about | {"logs": len(won), "success": float(np.mean(won))})
        scorers = learn(folder, model, character, seed, options)
        n = options.candidates
        judging = JudgeDouble(options.judge, seed)
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
            JUDGE: lambda: Agent(asked, judging, n, OFF),
            TRUTH: lambda: Agent(asked, ExactScorer(), n, OFF),
        }
        for count in options.sweep:
            arms[_swept(count)] = lambda count=count: Agent(asked, scorers["td"], count, Guards())
        assert list(arms) == arm_names(options)
        for arm, make in arms.items():
            missing = records.missing(arm, specs)
            if not missing:
                continue
            agent, started = make(), time.monotonic()
            for run in play(agent, missing, held_out, False):
                about = {"episode": run.spec.episode_id, "task": run.spec.task.task_id, "steps": run.steps}
                records.add({"arm": arm, **about, "outcome": str(run.outcome)})
            told = {
                "sitting": arm,
                "seconds": round(time.monotonic() - started),
                "counts": dict(agent.counts),
            }
            records.add(told | {"latency_ms": agent.latency()})
            print(f"{folder.name}: {arm}: {100 * np.mean(records.won(arm)):.1f} %", file=sys.stderr)
        if not records.of("ranking"):
            critics = {
                "Q": scorers["td"],
                "MC": scorers["mc"],
                JUDGE: judging,
                "own log-probability": OwnLogProb(asked),
                "random": EachTurn(RandomScorer(seed)),
            }
            comparing = Comparing(critics)
            list(play(Agent(asked, comparing, n, OFF), specs[: options.compared], held_out, False))
            for line in comparing.lines():
                records.add(line)


JUDGE, TRUTH = "judge (double)", "best of N by the truth"
STEP_CRITICS = {
    "Q": "Q without guards",
    "MC": "MC",
    JUDGE: JUDGE,
    "own log-probability": "own log-probability",
    "random": "random of N",
}
"""The step critics to compare, and the arm in which each re-ranks."""


def _swept(count: int) -> str:
    return f"Q with guards, N = {count}"


def arm_names(options: Options) -> list[str]:
    """All arms, in the order of play."""
    fixed = [
        "greedy",
        "one sample",
        "random of N",
        "majority of N",
        "own log-probability",
        "guards without Q",
    ]
    fixed += ["shuffled Q", "MC", "Q without guards", "Q with guards", JUDGE, TRUTH]
    return [*fixed, *map(_swept, options.sweep)]


class Records:
    """JSON lines of one agent and seed, appended as episodes end; a torn last line is run again."""

    def __init__(self, file: Path):
        self.file = file
        file.parent.mkdir(parents=True, exist_ok=True)
        text = file.read_text(encoding="utf-8") if file.is_file() else ""
        whole, newline, torn = text.rpartition("\n")
        if torn:
            artifacts.atomic_write_text(file, whole + newline)
        self.lines: list[dict[str, Any]] = [json.loads(line) for line in whole.splitlines()]

    def add(self, line: dict[str, Any]) -> None:
        """Appends a line immediately."""
        self.lines.append(line)
        with self.file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def of(self, kind: str) -> list[dict[str, Any]]:
        """Lines that have this field."""
        return [line for line in self.lines if kind in line]

    def by_episode(self, arm: str) -> dict[str, dict[str, Any]]:
        """An arm's episodes by id."""
        return {line["episode"]: line for line in self.of("arm") if line["arm"] == arm}

    def won(self, arm: str) -> list[bool]:
        """Whether each of an arm's episodes succeeded, in the order of their ids."""
        return [line["outcome"] == "success" for _, line in sorted(self.by_episode(arm).items())]

    def missing(self, arm: str, specs: Sequence[EpisodeSpec]) -> list[EpisodeSpec]:
        """Episodes that an arm has not played."""
        known = self.by_episode(arm)
        return [spec for spec in specs if spec.episode_id not in known]

    def has_all(self, arms: Sequence[str], specs: Sequence[EpisodeSpec]) -> bool:
        """Whether all arms have played all episodes."""
        return bool(self.of("ranking")) and not any(self.missing(arm, specs) for arm in arms)


@dataclasses.dataclass
class Remembered:
    """A proposer that remembers the log-probabilities of its answers, for scorers that rank by them."""

    proposer: EndpointProposer
    said: dict[tuple[bytes, str, Action], float] = dataclasses.field(default_factory=dict)

    def propose(self, observation: Seen, n: int) -> Sequence[Proposal]:
        """See :class:`~digiq.agents.proposers.Proposer`, as for the other methods."""
        return self.propose_all([observation], n)[0]

    def propose_all(self, observations: Sequence[Seen], n: int) -> list[list[Candidate | ParseError]]:
        rows = self.proposer.propose_all(observations, n)
        for seen, row in zip(observations, rows, strict=True):
            for said in row:
                if isinstance(said, Candidate):
                    self.said[seen.screen, seen.goal, said.action] = said.log_prob
        return rows

    def describe(self) -> dict[str, Any]:
        return self.proposer.describe()


@dataclasses.dataclass(frozen=True)
class OwnLogProb:
    """Ranks by the agent's log-probability of its own answers."""

    remembered: Remembered

    def score_turns(
        self, turns: Sequence[Turn], candidates: Sequence[Sequence[Action]]
    ) -> list[tuple[np.ndarray, float]]:
        """See :class:`~digiq.agents.agent.TurnScorer`, as for the other methods."""
        found: list[tuple[np.ndarray, float]] = []
        for turn, actions in zip(turns, candidates, strict=True):
            seen = screen_digest(turn.observation.screenshot), turn.observation.goal
            found.append((np.array([self.remembered.said[(*seen, a)] for a in actions]), 0.0))
        return found


@dataclasses.dataclass
class JudgeDouble:
    """A stand-in for a judge of steps: 1 for an action as good as the best, 0 for others.

    It is wrong at the given rate, always about the same screens and actions. It reads the simulator's values, which no
    real judge can.
    """

    right: float
    seed: int
    exact: ExactScorer = dataclasses.field(default_factory=lambda: ExactScorer(discount=GAMMA))
    reads_device: ClassVar[bool] = True

    def score_turns(
        self, turns: Sequence[Turn], candidates: Sequence[Sequence[Action]]
    ) -> list[tuple[np.ndarray, float]]:
        found: list[tuple[np.ndarray, float]] = []
        for turn, actions, (q, v) in zip(
            turns, candidates, self.exact.score_turns(turns, candidates), strict=True
        ):
            said = [float(x >= v - TIE) for x in q]
            screen = screen_digest(turn.observation.screenshot)
            for k, action in enumerate(actions):
                word = f"{self.seed} {turn.observation.goal} {action}".encode()
                number = hashlib.blake2b(screen + word, digest_size=8).digest()
                if int.from_bytes(number, "little") / 2**64 >= self.right:
                    said[k] = 1 - said[k]
            found.append((np.array(said), 0.5))
        return found


@dataclasses.dataclass
class Comparing:
    """Compares step critics with the simulator's values on the same candidates; the last critic plays."""

    critics: Mapping[str, Any]
    exact: ExactScorer = dataclasses.field(default_factory=lambda: ExactScorer(discount=GAMMA))
    right: dict[str, list[float]] = dataclasses.field(default_factory=dict)
    """By critic, for each pair of candidates of different value: 1 if in the right order, ½ if tied, otherwise 0."""
    lost: dict[str, list[float]] = dataclasses.field(default_factory=dict)
    """By critic, for each state: the best candidate's value minus that of the critic's pick."""
    of_pair: list[str] = dataclasses.field(default_factory=list)
    of_state: list[str] = dataclasses.field(default_factory=list)
    reads_device: ClassVar[bool] = True

    def score_turns(
        self, turns: Sequence[Turn], candidates: Sequence[Sequence[Action]]
    ) -> list[tuple[np.ndarray, float]]:
        truth = [np.asarray(q, float) for q, _ in self.exact.score_turns(turns, candidates)]
        said: list[tuple[np.ndarray, float]] = []
        for name, critic in self.critics.items():
            said = critic.score_turns(turns, candidates)
            for q, (scores, _) in zip(truth, said, strict=True):
                right, lost = order(q, np.asarray(scores, float))
                self.right.setdefault(name, []).extend(right)
                self.lost.setdefault(name, []).append(lost)
        for turn, q in zip(turns, truth, strict=True):
            episode = f"{turn.device.task.task_id}/{turn.device.layout_seed}"
            self.of_state.append(episode)
            self.of_pair += [episode] * len(order(q, q)[0])
        return said

    def lines(self) -> list[dict[str, Any]]:
        """One record per critic."""
        if not self.of_pair:
            raise DigiQError("ranking: no state had candidates of different value; compare more episodes.")
        found: list[dict[str, Any]] = []
        for name in self.critics:
            about = {"ranking": name, "states": len(self.of_state), "pairs": len(self.of_pair)}
            about["accuracy"] = cluster_bootstrap(self.right[name], self.of_pair)._asdict()
            about["regret"] = cluster_bootstrap(self.lost[name], self.of_state)._asdict()
            found.append(about)
        return found


def order(truth: np.ndarray, scores: np.ndarray) -> tuple[list[float], float]:
    """For a state's candidates: whether the scores order each pair of different value correctly (ties ½), and the value
    that the candidate of highest score (the first of them) loses against the best."""
    i, j = np.triu_indices(len(truth), 1)
    apart = np.abs(truth[i] - truth[j]) > TIE
    agree = np.sign(truth[i] - truth[j]) * np.sign(scores[i] - scores[j])
    return ((agree[apart] + 1) / 2).tolist(), float(truth.max() - truth[int(np.argmax(scores))])


def write_logs(runs: Sequence[EpisodeRun], character: Character, folder: Path) -> None:
    """Writes the runs as such an agent would log them: JSON lines with its answers."""
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
    artifacts.atomic_write_text(folder / "episodes.jsonl", "\n".join(lines) + "\n")


def learn(
    folder: Path, model: EndpointConfig, character: Character, seed: int, options: Options
) -> dict[str, LearnedScorer]:
    """Trains critics on the logs, one per objective, and one on shuffled outcomes."""
    dialect = {"dialect": "ui_tars"} if character.name == "weak" else {
        "dialect": "mobile_use",
        "mobile_use": {"coordinates": "pixels"},
    }  # fmt: skip
    reads = {"source": str(folder / "logs"), "say": dialect}
    import_episodes.run(
        load(import_episodes.ImportConfig, {"format": "jsonl", "jsonl": reads}), out=folder / "episodes"
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
        label.run(load(label.LabelConfig, settings), episodes=episodes, out=folder / name)
    asks = {"model": {"url": model.url, "key_env": "", "cache": None, "several": True}, "say": dialect}
    # The server's port is in the config and changes after an interruption, so complete proposals are kept.
    if not _is_complete(folder / "proposals"):
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
        )
        opened = LearnedScorer.open(critic=folder / name, features=folder / "features", vlm=TINY_VLM_PATH)
        engine = scorers["td"].engine if scorers else Remembering(opened.engine)
        scorers[name] = dataclasses.replace(opened, engine=engine)
    return scorers


def _is_complete(path: Path) -> bool:
    try:
        artifacts.open(path)
    except ArtifactError:
        return False
    return True


class Remembering:
    """An engine that computes the features of a pair only once, however many arms ask for them."""

    def __init__(self, engine: Engine):
        self.engine, self._rows = engine, dict[Any, np.ndarray]()
        self.layers = engine.layers

    def dim(self, kind: Kind) -> int:
        """See :class:`~digiq.features.engines.base.Engine`, as for the other methods."""
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
    """Proposes the one of a proposer's N answers that a rule chooses: the same number of calls, one candidate."""

    proposer: Remembered
    rule: Callable[[list[Candidate]], Candidate]

    def propose(self, observation: Seen, n: int) -> Sequence[Proposal]:
        """See :class:`~digiq.agents.proposers.Proposer`, as for the other methods."""
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
    """The answer that most others agree with; taps agree if they are close."""

    def agree(a: Action, b: Action) -> bool:
        if a.is_tap and b.is_tap:
            return bool(np.hypot(*np.subtract(a.touch_yx, b.touch_yx)) <= 0.05)
        return actions_match(a, b) and a.text == b.text

    return max(said, key=lambda c: sum(agree(c.action, other.action) for other in said))


def likeliest(said: list[Candidate]) -> Candidate:
    """The answer with the agent's highest log-probability."""
    return max(said, key=lambda c: c.log_prob)


@dataclasses.dataclass(frozen=True)
class Played:
    """Results of an agent's arms over all available seeds; only episodes that every arm has played."""

    records: Sequence[Records]
    won: Mapping[str, Sequence[bool]]
    """Success by arm, for the same episodes in the same order."""
    seeds: Sequence[int]
    """Seed of each episode."""
    clusters: Sequence[str]
    """Seed and task of each episode."""


def read_played(name: str, options: Options) -> Played | None:
    """Reads an agent's records; None if no episode was played by all arms."""
    files = [(seed, options.file(name, seed)) for seed in options.seeds]
    found = {seed: Records(file) for seed, file in files if file.is_file()}
    played = [arm for arm in arm_names(options) if found and all(r.by_episode(arm) for r in found.values())]
    won: dict[str, list[bool]] = {arm: [] for arm in played}
    seeds: list[int] = []
    clusters: list[str] = []
    for seed, records in found.items():
        rows = {arm: records.by_episode(arm) for arm in played}
        for episode in sorted(set[str].intersection(*map(set, rows.values())) if rows else ()):
            seeds.append(seed)
            clusters.append(f"{seed}/{rows[played[0]][episode]['task']}")
            for arm in played:
                won[arm].append(rows[arm][episode]["outcome"] == "success")
    return Played(list(found.values()), won, seeds, clusters) if clusters else None


def table(options: Options) -> str:
    """Success by arm and agent, the main contrast, and the step critics, over all available seeds.

    Only episodes that every arm has played are counted, so that arms compare in pairs.
    """
    lines: list[str] = []
    for name in options.agents:
        found = read_played(name, options)
        if found is None:
            continue
        won, clusters = found.won, found.clusters
        logs = np.mean([line["success"] for r in found.records for line in r.of("logs")])
        lines += [f"### The {name} agent", "", f"In its logs it succeeds {100 * logs:.1f} % of the time.", ""]
        lines += ["| arm | success, % | 95 % |", "|---|---|---|"]
        lines += [f"| {arm} | {_percent(won[arm])} |" for arm in won]
        learned = [arm for arm in ("Q without guards", "Q with guards") if arm in won]
        others = [arm for arm in won if not arm.startswith("Q with") and arm not in ("MC", JUDGE, TRUTH)]
        rival = max(others, key=lambda arm: np.mean(won[arm]))
        lines.append("")
        for arm in learned:
            gap = paired_comparison(won[arm], won[rival], clusters)
            each = [
                f"{100 * np.mean([won[arm][i] - won[rival][i] for i, s in enumerate(found.seeds) if s == seed]):+.1f}"
                for seed in dict.fromkeys(found.seeds)
            ]
            by_seed = f"; by seed {', '.join(each)}" if len(each) > 1 else ""
            lines.append(
                f"{arm} against the best of the others ({rival}): {100 * gap.difference.value:+.1f} points "
                f"({100 * gap.difference.low:+.1f} to {100 * gap.difference.high:+.1f}), paired, {len(clusters)} episodes{by_seed}."
            )
        lines += ["", *_side_by_side(found.records, won)]
    return "\n".join(lines)


def sweep_figure(options: Options) -> str:
    """Success of Q with guards over N as SVG, one line per agent; empty if no agent has played all N."""
    counts = sorted({*options.sweep, options.candidates})
    arms = ["Q with guards" if count == options.candidates else _swept(count) for count in counts]
    series = {
        f"the {name} agent": [wilson(sum(found.won[arm]), len(found.won[arm])) for arm in arms]
        for name in options.agents
        if (found := read_played(name, options)) and all(arm in found.won for arm in arms)
    }
    if not series:
        return ""
    labels = [f"N = {count}" for count in counts]
    return sweep(labels, series, title="Q with guards over answers a step", ylabel="success, %")


def _percent(won: Sequence[bool]) -> str:
    rate = wilson(sum(won), len(won))
    return f"{100 * rate.value:.1f} | {100 * rate.low:.1f} to {100 * rate.high:.1f}"


def _side_by_side(found: Sequence[Records], won: Mapping[str, Sequence[bool]]) -> list[str]:
    """Rows of the step critics on the same candidates: an interval for a single seed, otherwise mean and range."""
    lines = [
        "| step critic | pairs in the right order, % | 95 % | value lost a pick | success, % | 95 % |",
        "|---|---|---|---|---|---|",
    ]
    for name, arm in STEP_CRITICS.items():
        rows = [line for r in found for line in r.of("ranking") if line["ranking"] == name]
        if not rows or arm not in won:
            continue
        accuracy = [100 * row["accuracy"]["value"] for row in rows]
        spread = (
            f"{100 * rows[0]['accuracy']['low']:.1f} to {100 * rows[0]['accuracy']['high']:.1f}"
            if len(rows) == 1
            else f"{min(accuracy):.1f} to {max(accuracy):.1f} over seeds"
        )
        lost = np.mean([row["regret"]["value"] for row in rows])
        lines.append(f"| {name} | {np.mean(accuracy):.1f} | {spread} | {lost:.3f} | {_percent(won[arm])} |")
    return [*lines, ""] if len(lines) > 2 else []


__all__ = ["Options", "Proposer", "main", "one", "table"]

if __name__ == "__main__":
    main()
