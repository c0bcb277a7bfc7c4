"""``digiq train-q``: runs the learner's epochs, logs them, saves checkpoints and chooses one."""

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import numpy as np
from pydantic import Field

from digiq import artifacts
from digiq.config import configclass
from digiq.critics.checkpoints import Checkpoints, contents
from digiq.critics.critic import Critic, critic_of, describe, flat
from digiq.critics.learner import CriticConfig, Epoch, Learner, LearnerState, train
from digiq.critics.measures import Monitor
from digiq.critics.metrics_log import MetricsLog, metric_of
from digiq.critics.placement import agree, connect, leads, local, mesh_of_all_devices, replicate
from digiq.critics.population import PopulationConfig, train_best_member
from digiq.critics.streaming import StoredRows, Streaming, fits_in_memory
from digiq.critics.training_data import CriticData, choose_layers, place, prepare
from digiq.errors import DigiQError
from digiq.memory import return_freed_memory
from digiq.progress import progress

STAGE, VERSION = "train-q", 1


@configclass
class TrainQConfig:
    """Training of one critic from stored features."""

    critic: CriticConfig = CriticConfig()
    """Architecture and training of the critic."""
    splits: tuple[str, ...] = ("train",)
    """Train only on episodes of these splits; features may hold others, for reports."""
    heldout_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of episodes kept out of training, for diagnostics."""
    checkpoint_every: Annotated[int, Field(ge=1)] = 5
    """Epochs between checkpoints; the last epoch always has one."""
    keep: Annotated[int, Field(ge=1)] | None = None
    """Number of newest checkpoints to keep; ``choose: heldout`` also keeps the best so far. None keeps all, so that one
    can be chosen later."""
    choose: Literal["last", "heldout"] = "last"
    """Which checkpoint scores: the last, or the one with the lowest ``choose_by``."""
    choose_by: str = "heldout_return_error"
    """A held-out metric; lower is better."""
    patience: Annotated[int, Field(ge=1)] | None = None
    """Stop after this many epochs without a lower ``choose_by``; none trains all epochs."""
    memory: Literal["auto", "device", "stream"] = "auto"
    """Hold features on the ``device``, or ``stream`` them batch by batch. ``auto`` streams features that do not fit
    into half of the free memory (with ``data_parallel``, of all devices)."""
    data_parallel: bool = False
    """Split each batch, and the rows of features, over all devices; ``batch_size`` must be a multiple of their number.
    Not for a population."""
    population: PopulationConfig = PopulationConfig()
    """Train several critics at once and keep the one with the lowest ``choose_by``."""
    seed: int = 0
    """Seed of the split, the initial parameters and the sampler."""

    @property
    def reads(self) -> tuple[str, ...]:
        """The artefacts that the objective needs besides features, episodes and rewards."""
        return getattr(self.critic.chosen, "reads", ())

    def __post_init__(self) -> None:
        if self.data_parallel and self.population.size > 1:
            raise ValueError(
                "data_parallel splits the batches of one critic; a population trains on one device"
            )
        compares = self.choose == "heldout" or self.patience is not None or self.population.size > 1
        if compares and (self.heldout_fraction == 0 or not self.choose_by.startswith("heldout_")):
            raise ValueError(
                f"choosing by '{self.choose_by}' needs a heldout_ metric and heldout_fraction above 0"
            )
        if self.population.size > 1 and (self.choose != "last" or self.patience or self.keep):
            raise ValueError(
                "a population trains all its members for all epochs and keeps the best one's last state; leave choose, "
                "patience and keep as they are"
            )


def fit_critic(
    transitions: Any,
    features: Any,
    config: CriticConfig | None = None,
    *,
    seed: int = 0,
    heldout_fraction: float = 0.0,
    on_epoch: Callable[[int, dict[str, float]], None] | None = None,
) -> Critic:
    """Trains a critic on plain arrays, in memory.

    Args:
      transitions: an object or mapping of arrays [T], see :func:`digiq.critics.training_data.prepare`.
      features: ``observation`` [S, Do], ``pair`` [M, Dp], ``candidate_row`` int[S, N] (column 0 is the logged action).
      config: what to train; the defaults if None.
      seed: seed of everything random.
      heldout_fraction: share of episodes for the ``heldout_*`` metrics.
      on_epoch: called with the number of epochs done and their metrics.

    Raises:
      DigiQError: a negative seed, or arrays that do not fit together, see :func:`digiq.critics.training_data.prepare`.
    """
    if seed < 0:
        raise DigiQError(f"fit_critic: seed is {seed}; use 0 or more.")
    config = config or CriticConfig()
    data = place(_prepare(transitions, features, config, heldout_fraction, seed))
    config = config.for_transitions(len(data.train_rows))
    learner = Learner(config)
    if learner.objective.needs.known and (data.known_q is None or data.known_v is None):
        raise DigiQError(
            f"features: objective '{config.objective}' regresses on true values; give known_q [S, N] and known_v [S]."
        )
    state, rows = learner.init(jax.random.PRNGKey(seed), data), []
    for epoch in train(learner, state, learner.hyper(), data):
        state = epoch.state
        rows.append(epoch.metrics)
        if on_epoch is not None:
            on_epoch(epoch.number, epoch.metrics)
    return critic_of(config, state.params, data, features, tuple(rows))


def run(
    config: TrainQConfig,
    *,
    features: Path,
    episodes: Path,
    rewards: Path | None = None,
    exact: Path | None = None,
    out: Path,
    overwrite: bool = False,
) -> artifacts.Artifact:
    """The stage: reads features and labelled episodes, writes a critic; resumes bit for bit.

    ``exact`` holds true values that ``digiq value`` wrote; only the objective of that name reads it.

    With ``data_parallel`` it may run in one process on each of several hosts that see the same files; see
    :func:`digiq.critics.placement.connect`. The first process writes.

    Raises:
      DigiQError: features of other episodes, or any of :func:`digiq.critics.training_data.prepare`'s.
    """
    inputs = {"features": features, "episodes": episodes, "rewards": rewards}
    if config.reads:
        if exact is None:
            raise DigiQError(
                f"train-q: the objective '{config.critic.objective}' regresses on true values; name an artefact of "
                "'digiq value' with --exact."
            )
        inputs["exact"] = exact
    known = exact if config.reads else None
    if config.data_parallel:
        connect()
        if not leads():
            return _follow(config, features, episodes, rewards, known, out)
    with artifacts.write(
        out, stage=STAGE, version=VERSION, config=config, inputs=inputs, overwrite=overwrite
    ) as writer:
        if _agree_to_stop(writer.done):
            return writer.artifact
        data, stored = load_training_data(
            config, features=features, episodes=episodes, rewards=rewards, exact=known
        )
        config = _for_transitions(config, data)
        counts = {
            "transitions": len(data.table.obs),
            "observations": len(data.observation),
            "pairs": len(data.pair),
            "heldout_transitions": len(data.heldout_rows),
        }
        monitor = monitor_of(config, data)  # before the features leave the host
        data = _place(config, data)  # rebinding the name frees the host's copy
        train_all = _train_resumably if config.population.size == 1 else train_best_member
        chosen, rows = train_all(config, data, monitor, stored, writer.path)
        counts["epochs"] = int(rows[-1]["epoch"])
        artifact = writer.complete(
            counts=counts, extra={"chosen": chosen, "metrics": rows[-1]}, content=contents(writer.path)
        )
    _agree_to_stop(True)
    return artifact


def _follow(
    config: TrainQConfig,
    features: Path,
    episodes: Path,
    rewards: Path | None,
    exact: Path | None,
    out: Path,
) -> artifacts.Artifact:
    """What all processes but the first do: run its epochs as long as it goes on, and write no files."""
    if not _agree_to_stop(False):
        data, _ = load_training_data(
            config, features=features, episodes=episodes, rewards=rewards, exact=exact
        )
        config = _for_transitions(config, data)
        data = _place(config, data)
        epochs = _epochs(config, data, 0, None)
        while not _agree_to_stop(False):
            next(epochs)
        _agree_to_stop(False)  # waits until the first has written
    return artifacts.open(out, stage=STAGE)


def _for_transitions(config: TrainQConfig, data: CriticData) -> TrainQConfig:
    return dataclasses.replace(config, critic=config.critic.for_transitions(len(data.train_rows)))


def _agree_to_stop(stop: bool) -> bool:
    """Whether the first process says so; the others wait for it."""
    return bool(agree(np.int32(stop)))


def load_training_data(
    config: TrainQConfig,
    *,
    features: Path,
    episodes: Path,
    rewards: Path | None,
    exact: Path | None = None,
) -> tuple[CriticData, Any]:
    """The stage's training data, split into training and held-out episodes; and the stored features.

    True values are included if ``exact`` is given; inspecting a critic does not need them.

    Features that do not fit, or are to be streamed, stay in the store (:class:`digiq.critics.streaming.StoredRows`).
    """
    from digiq.data.rewards import LabelledEpisodes
    from digiq.data.transitions import build_transitions
    from digiq.features.extract import open_features

    labelled = LabelledEpisodes(episodes, rewards)
    splits = [episode.split for episode in labelled.outlines]
    transitions = build_transitions(labelled, timeout=config.critic.timeout)
    wanted = np.array([split in config.splits for split in splits])
    if not wanted.any():
        found = ", ".join(sorted(set(splits)))
        raise DigiQError(f"{episodes}: no episode of split {', '.join(config.splits)}; there are {found}.")
    keep = wanted[transitions.episode]
    columns = {f.name: getattr(transitions, f.name)[keep] for f in dataclasses.fields(transitions)}
    if config.memory == "stream":
        return_freed_memory()  # before reader threads start
    stored = open_features(features)
    observation = StoredRows(choose_layers(stored.observation, config.critic.observation_layers))
    pair = StoredRows(choose_layers(stored.pair, config.critic.pair_layers))
    joined: dict[str, Any] = {"observation": observation, "pair": pair}
    # Hosts may differ in memory, so all follow the first one.
    devices = jax.device_count() if config.data_parallel else 1
    fits = config.memory == "auto" and fits_in_memory((observation, pair), devices=devices)
    fits = bool(agree(np.int32(fits)))
    if config.memory == "device" or fits:
        joined = {name: rows.load() for name, rows in joined.items()}
    else:
        return_freed_memory()
    joined["candidate_row"] = stored.candidate_row
    if exact is not None:
        joined |= _known_values(config, exact)
    # Copies of an episode under other goals share its screens, so they stay on the same side of the split.
    groups = [episode.source_id for episode in labelled.outlines]
    return _prepare(columns, joined, config.critic, config.heldout_fraction, config.seed, groups), stored


def _known_values(config: TrainQConfig, exact: Path) -> dict[str, np.ndarray]:
    """The true values that the objective regresses on.

    Raises:
      DigiQError: the values are under another discount than the critic's.
    """
    from digiq.proposals.values import load_exact

    discount = artifacts.read_manifest(exact).config["discount"]
    if discount != config.critic.gamma:
        raise DigiQError(
            f"{exact}: holds values under discount {discount:g}, but the critic's gamma is {config.critic.gamma:g}; "
            "run 'digiq value' again with --discount, or change critic.gamma."
        )
    known, whose = load_exact(exact), getattr(config.critic.chosen, "values", "best")
    return {"known_q": known[f"{whose}_q"], "known_v": known[f"{whose}_v"]}


def _streams(config: TrainQConfig, data: CriticData) -> bool:
    """Whether batches are read on demand."""
    return config.memory == "stream" or isinstance(data.pair, StoredRows)


def _place(config: TrainQConfig, data: CriticData) -> CriticData:
    """``data`` on the device, or split over the devices of the mesh; streamed data stay where they are.

    Raises:
      DigiQError: a population's features do not fit, or batches do not split over the devices.
    """
    if config.data_parallel:
        _refuse_uneven_batches(config.critic, len(data.train_rows), jax.device_count())
    if _streams(config, data):
        if config.population.size > 1:
            raise DigiQError(
                "train-q: a population needs its features on the device, but here they are streamed; train its members "
                "one by one (--seed, --critic.learning-rate)."
            )
        return data
    return place(data, mesh_of_all_devices() if config.data_parallel else None)


def _refuse_uneven_batches(config: CriticConfig, transitions: int, devices: int) -> None:
    whole = config.batch_size >= transitions and config.micro_batches == 1  # see Learner.draw
    size = transitions if whole else config.batch_size
    if size % devices:
        raise DigiQError(
            f"train-q: data_parallel: batches of {size} transitions do not split over {devices} devices; take a "
            f"batch_size that is a multiple of {devices} and below the {transitions} transitions."
        )


def _train_resumably(
    config: TrainQConfig, data: CriticData, monitor: Monitor, features: Any, path: Path
) -> tuple[int, list[dict[str, float]]]:
    """Trains from the latest checkpoint under ``path``; returns the chosen epoch and the metrics of all epochs."""
    with Checkpoints(path / "checkpoints", config.keep) as checkpoints, MetricsLog(path) as log:
        checkpoints.drop_unfinished()
        first = max(checkpoints.epochs, default=0)
        like = jax.eval_shape(Learner(config.critic).init, jax.random.PRNGKey(config.seed), data)
        epochs = _epochs(config, data, first, checkpoints.restore(first, like) if first else None)
        log.rewind(first)
        with progress("train-q", config.critic.epochs, unit="epoch", done=first) as bar:
            for epoch in _until_stale(config, epochs, log.rows):
                state = local(epoch.state)
                rows = [*log.rows, {"epoch": epoch.number, **epoch.metrics}]
                if config.choose == "heldout":
                    metric_of(
                        config.choose_by, rows[-1]
                    )  # a name that is not logged fails now, not after all epochs
                last = epoch.number == config.critic.epochs or _stale(config, rows)
                if last or epoch.number % config.checkpoint_every == 0:
                    # The row is written first: a kill in between leaves a row that resuming drops, not a gap.
                    critic = critic_of(config.critic, state.params, data, features, ())
                    log.write(epoch.number, epoch.metrics, monitor.look(flat(critic), rows))
                    best = _choose(config, log.rows, [*checkpoints.epochs, epoch.number])
                    checkpoints.save(epoch.number, state, stays=best)
                else:
                    log.write(epoch.number, epoch.metrics)
                bar.advance(1, td_error=epoch.metrics["td_error"], q=epoch.metrics["q_mean"])
        chosen = _choose(config, log.rows, checkpoints.epochs)
        params = checkpoints.restore_params(chosen, like.params)
        describe(path, critic_of(config.critic, params, data, features, ()), chosen)
        return chosen, log.rows


def _epochs(
    config: TrainQConfig, data: CriticData, first: int, state: LearnerState | None
) -> Iterator[Epoch]:
    """The epochs after ``first``, from ``state`` or fresh parameters; several processes follow the first one."""
    mesh = mesh_of_all_devices() if config.data_parallel else None
    learner = Learner(config.critic, mesh)
    runner, hyper = Streaming(learner) if _streams(config, data) else learner, learner.hyper()
    start = learner.init(jax.random.PRNGKey(config.seed), data) if state is None else state
    if mesh is not None:
        first, start = int(agree(np.int32(first))), replicate(agree(jax.device_get(start)), mesh)
        hyper = replicate(jax.device_get(hyper), mesh)
    return train(runner, start, hyper, data, first=first)


def monitor_of(config: TrainQConfig, data: CriticData) -> Monitor:
    """A monitor of ``data``, which is on the host or on disk, over 64 to 2,048 observations.

    Their forward passes are about a twentieth of the work between checkpoints. An update of one transition counts as
    four forward passes: one forward, two for the backward pass, and one through the target.
    """
    c = config.critic
    work = 4 * c.steps_per_epoch * c.batch_size * config.checkpoint_every
    return Monitor.of(data, min(max(work // (20 * data.candidate_row.shape[1]), 64), 2048))


def _until_stale(
    config: TrainQConfig, epochs: Iterator[Epoch], rows: Sequence[dict[str, float]]
) -> Iterator[Epoch]:
    """Passes epochs on until ``rows``, which the consumer extends, have not improved for ``patience`` epochs."""
    while not _agree_to_stop(_finished(config, rows)):
        yield next(epochs)


def _finished(config: TrainQConfig, rows: Sequence[dict[str, float]]) -> bool:
    return bool(rows) and (rows[-1]["epoch"] >= config.critic.epochs or _stale(config, rows))


def _stale(config: TrainQConfig, rows: Sequence[dict[str, float]]) -> bool:
    if config.patience is None:
        return False
    values = [metric_of(config.choose_by, row) for row in rows]
    return len(values) > config.patience and min(values[-config.patience :]) >= min(
        values[: -config.patience]
    )


def _choose(config: TrainQConfig, rows: Sequence[dict[str, float]], saved: Sequence[int]) -> int:
    if config.choose == "last":
        return max(saved)
    value = {int(row["epoch"]): metric_of(config.choose_by, row) for row in rows}
    return min(saved, key=lambda epoch: value.get(epoch, math.inf))


def _prepare(
    transitions: Any,
    features: Any,
    config: CriticConfig,
    heldout_fraction: float,
    seed: int,
    groups: Sequence[Any] | None = None,
) -> CriticData:
    data = prepare(
        transitions,
        features,
        gamma=config.gamma,
        timeout=config.timeout,
        observation_layers=config.observation_layers,
        pair_layers=config.pair_layers,
        standardize=config.standardize,
        heldout_fraction=heldout_fraction,
        groups=groups,
        seed=seed,
    )
    objective: Any = Learner(config).objective
    if objective.needs.candidates and (data.candidate_row >= 0).sum(axis=1).max() < 2:
        logged = (
            dataclasses.replace(objective, backup="logged") if hasattr(objective, "backup") else objective
        )
        other = "another objective" if logged.needs.candidates else f"{config.objective}.backup: logged"
        raise DigiQError(
            f"objective '{config.objective}' compares stored candidates, but the features hold N = 1 (the logged "
            f"action); propose more candidates, or use {other}."
        )
    readout = config.heads.readout
    low, high = (readout.low, readout.high) if readout.kind == "hl_gauss" else (0.0, 1.0)
    returns = data.table.returns
    if readout.kind != "scalar" and not low <= returns.min() <= returns.max() <= high:
        raise DigiQError(
            f"heads.readout: '{readout.kind}' represents values in [{low:g}, {high:g}], but returns go from "
            f"{returns.min():.3g} to {returns.max():.3g}; change readout.low and readout.high, or scale the rewards."
        )
    return data
