"""Many critics at once: ``vmap`` of the epoch over seeds × learning rates, the features shared.

A member's initial parameters, batches and numbers are those of the same seed trained alone. This pays off on GPUs,
where one learner leaves the device idle. On two CPU cores, eight members take about as long as eight runs.
"""

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from pydantic import Field

from digiq import artifacts
from digiq.config import configclass
from digiq.critics.checkpoints import Checkpoints
from digiq.critics.critic import critic_of, describe, flat
from digiq.critics.learner import Hyper, Learner, LearnerState, heldout_sample
from digiq.critics.measures import Monitor
from digiq.critics.metrics_log import MetricsLog, metric_of
from digiq.progress import progress

if TYPE_CHECKING:
    from digiq.critics.train import TrainQConfig
from digiq.critics.training_data import Array, CriticData


@configclass
class PopulationConfig:
    """Members are the product of seeds and learning rates."""

    seeds: Annotated[int, Field(ge=1)] = 1
    """Number of consecutive seeds, starting at the stage's seed."""
    lr: tuple[Annotated[float, Field(gt=0)], ...] = ()
    """Peak learning rates; none takes the critic's."""

    @property
    def size(self) -> int:
        """Number of members."""
        return self.seeds * max(1, len(self.lr))


class Member(NamedTuple):
    """The settings in which members differ."""

    seed: int
    learning_rate: float


class PopulationEpoch(NamedTuple):
    """One epoch of all members; every leaf of ``state`` has a leading member axis. Copy the state to keep it."""

    number: int
    state: LearnerState
    metrics: list[dict[str, float]]
    """One per member."""


@dataclasses.dataclass(frozen=True)
class Population:
    """The learner's functions over a leading member axis; hashable."""

    learner: Learner
    members: tuple[Member, ...]

    @classmethod
    def of(cls, learner: Learner, config: PopulationConfig, seed: int) -> "Population":
        """Every seed, from ``seed`` on, with every learning rate."""
        rates = config.lr or (learner.config.learning_rate,)
        return cls(learner, tuple(Member(seed + k, rate) for k in range(config.seeds) for rate in rates))

    def hyper(self) -> Hyper:
        """Arrays [P]."""
        single = self.learner.hyper()
        size = len(self.members)
        shared = Hyper(*(jnp.full(size, x) for x in single))
        return shared._replace(learning_rate=jnp.array([m.learning_rate for m in self.members], jnp.float32))

    def init(self, data: CriticData) -> LearnerState:
        """Fresh states, each from its member's seed."""
        keys = jnp.stack([jax.random.PRNGKey(m.seed) for m in self.members])
        return jax.vmap(lambda key: self.learner.init(key, data))(keys)

    @functools.partial(jax.jit, static_argnums=0, donate_argnums=1)
    def epoch(
        self, state: LearnerState, hyper: Hyper, data: CriticData
    ) -> tuple[LearnerState, dict[str, Array]]:
        """One epoch of all members; ``state`` is donated."""
        return jax.vmap(self.learner.scan_epoch, in_axes=(0, 0, None))(state, hyper, data)

    @functools.partial(jax.jit, static_argnums=0)
    def evaluate(self, state: LearnerState, data: CriticData, rows: Array) -> dict[str, Array]:
        """:meth:`Learner.evaluate` of all members."""
        one = functools.partial(self.learner.evaluate, data=data, rows=rows)
        return jax.vmap(lambda params, target: one(params, target))(state.params, state.target)


def train_population(
    population: Population, state: LearnerState, data: CriticData, *, first: int = 0
) -> Iterator[PopulationEpoch]:
    """Yields the remaining epochs of all members; ``state`` is consumed."""
    hyper, rows = population.hyper(), heldout_sample(data)
    for number in range(first + 1, population.learner.config.epochs + 1):
        state, means = population.epoch(state, hyper, data)
        columns = jax.device_get(means)
        if len(rows):
            checked = jax.device_get(population.evaluate(state, data, rows))
            columns = columns | {f"heldout_{k}": v for k, v in checked.items()}
        metrics = [{k: float(v[m]) for k, v in columns.items()} for m in range(len(population.members))]
        yield PopulationEpoch(number, state, metrics)


def take_member(state: LearnerState, index: int) -> LearnerState:
    """One member's state, copied to the host."""
    return jax.tree.map(lambda x: np.array(x[index]), state)


def population_table(final: Sequence[dict[str, float]], metric: str, best: int) -> str:
    """The members' last epoch as text, the best one marked."""
    columns = ["seed", "learning_rate", metric, "td_error", "q_mean"]
    lines = ["  ".join(f"{name:>22}" for name in columns)]
    for k, row in enumerate(final):
        lines.append("  ".join(f"{row[name]:>22.6g}" for name in columns) + ("  best" if k == best else ""))
    return "\n".join(lines)


def plot_population(rows: Sequence[dict[str, float]], metric: str, path: Path) -> None:
    """Draws the metric of every member over the epochs, one colour per learning rate."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    rates = sorted({row["learning_rate"] for row in rows})
    for k, rate in enumerate(rates):
        seeds = sorted({row["seed"] for row in rows if row["learning_rate"] == rate})
        for j, seed in enumerate(seeds):
            curve = [(r["epoch"], r[metric]) for r in rows if (r["learning_rate"], r["seed"]) == (rate, seed)]
            axes.plot(
                *zip(*curve, strict=True), color=f"C{k}", alpha=0.7, label=f"lr {rate:g}" if j == 0 else None
            )
    axes.set(xlabel="epoch", ylabel=metric)
    axes.legend()
    with artifacts.atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)


def train_best_member(
    config: "TrainQConfig", data: CriticData, monitor: Monitor, features: Any, path: Path
) -> tuple[int, list[dict[str, float]]]:
    """Trains all members, resumably; writes a table, a plot, and the best member as the critic."""
    learner = Learner(config.critic)
    population = Population.of(learner, config.population, config.seed)
    with (
        Checkpoints(path / "population", keep=1) as checkpoints,
        MetricsLog(path, "population.jsonl", events=False) as log,
    ):
        checkpoints.drop_unfinished()
        first = max(checkpoints.epochs, default=0)
        state = (
            checkpoints.restore(first, jax.eval_shape(population.init, data))
            if first
            else population.init(data)
        )
        log.rewind(first)
        epochs = train_population(population, state, data, first=first)
        with progress("train-q", config.critic.epochs, unit="epoch", done=first) as bar:
            for epoch in epochs:
                for member, metrics in zip(population.members, epoch.metrics, strict=True):
                    metric_of(config.choose_by, metrics)
                    log.write(epoch.number, {**member._asdict(), **metrics})
                state = epoch.state
                if epoch.number == config.critic.epochs or epoch.number % config.checkpoint_every == 0:
                    checkpoints.save(epoch.number, state)
                bar.advance(1, members=len(population.members))
        final = [row for row in log.rows if row["epoch"] == config.critic.epochs]
        best = min(range(len(final)), key=lambda k: metric_of(config.choose_by, final[k]))
        artifacts.atomic_write_json(path / "population.json", {"best": best, "members": final})
        plot_population(log.rows, config.choose_by, path / "population.png")
        print(population_table(final, config.choose_by, best))
        params = take_member(state, best).params
    rows = [r for r in log.rows if Member(int(r["seed"]), r["learning_rate"]) == population.members[best]]
    with Checkpoints(path / "checkpoints") as chosen, MetricsLog(path) as chosen_log:
        chosen.drop_unfinished()
        chosen_log.rewind(0)  # a run killed here has already written rows
        chosen.save_params(config.critic.epochs, params)
        critic = critic_of(config.critic, params, data, features, ())
        for row in rows:
            metrics = {k: v for k, v in row.items() if k != "epoch"}
            found = monitor.look(flat(critic), rows) if row is rows[-1] else None
            chosen_log.write(int(row["epoch"]), metrics, found)
    describe(path, critic, config.critic.epochs)
    return config.critic.epochs, rows
