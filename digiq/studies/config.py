"""The config of a study: arms, sweeps, seeds, tuning budgets and hypotheses, written down before the seeds are run.

A study's file is its registration. ``registration`` holds the digest of the simulator's kernel (its source and its
rates) and of the grid (everything that decides what is run). Seeds below :data:`FIRST_TUNING_SEED` run only if both are
still as the file says. Tuning uses the other seeds, and its own tasks.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from digiq.config import configclass
from digiq.errors import ConfigError

FIRST_TUNING_SEED = 100
"""Seeds from this one on are for tuning and experiments; those below are reported, and need a registration."""

_KERNEL = (
    "devices/simulated/state.py",
    "devices/simulated/kernel.py",
    "devices/simulated/webshop.py",
    "devices/simulated/pages.py",
    "devices/simulated/screen.py",
    "devices/simulated/layout.py",
    "devices/simulated/phone.py",
    "devices/simulated/display.py",
    "devices/simulated/collector.py",
    "devices/simulated/renderer.py",
    "devices/simulated/themes.py",
    "devices/simulated/icons.py",
    "devices/simulated/widgets.py",
    "tasks/webshop.py",
)
"""Files of ``android_env`` that decide what the simulated phone does and looks like, and what its collector does."""

Role = Literal["reference", "baseline", "method", "ceiling", "representation", "control"]


@configclass
class ArmConfig:
    """One arm: how the study's recipe differs for it, and what acts in its evaluation."""

    title: str
    """Its name in tables."""
    role: Role
    """Its role in comparisons."""
    acts: Literal["policy", "behavior", "ceiling", "critic", "oracle", "random"] = "policy"
    """What acts in the evaluation. ``policy``: the policy distilled under that name. ``behavior``: the behaviour
    policy. ``ceiling`` and ``critic``: the behaviour policy, re-ranked on the device by the best known values or by the
    critic. ``oracle`` and ``random``: a script that needs no training."""
    recipe: dict[str, Any] = Field(default_factory=dict)
    """Laid over the study's recipe; null removes a section."""
    seeds: Annotated[int, Field(ge=1)] | None = None
    """Run only this many of the first seeds; none runs all."""


@configclass
class SweepConfig:
    """Arms run again at other values of one setting."""

    title: str
    """Its name in tables and figures."""
    arms: Annotated[tuple[str, ...], Field(min_length=1)]
    """The arms to run."""
    points: dict[str, dict[str, Any]]
    """By label, the settings laid over the arms' recipes."""
    base: str
    """Label of the unchanged arms, which need no extra run."""
    order: tuple[str, ...]
    """All labels, from left to right."""
    seeds: Annotated[int, Field(ge=1)] | None = None
    """Run only this many of the first seeds; none runs all."""

    def __post_init__(self) -> None:
        if set(self.order) != {*self.points, self.base} or self.base in self.points:
            raise ValueError(
                f"order must name all points and '{self.base}', and no point may be called '{self.base}'"
            )


@configclass
class TuningConfig:
    """The search for settings: the same budget for every arm, on seeds and tasks that are not reported."""

    seeds: Annotated[tuple[int, ...], Field(min_length=1)]
    """Tuning seeds, each at least 100 (:data:`FIRST_TUNING_SEED`)."""
    tasks: str = "webshop/tune"
    """Task set on which trials are evaluated."""
    episodes: Annotated[int, Field(ge=1)] = 120
    """Roll-outs per trial."""
    trials: dict[str, tuple[dict[str, Any], ...]] = Field(default_factory=dict)
    """By arm, the settings that each trial lays over the arm's recipe; every arm has the same number of trials."""

    def __post_init__(self) -> None:
        low = [seed for seed in self.seeds if seed < FIRST_TUNING_SEED]
        if low:
            raise ValueError(f"seed {low[0]} is not a tuning seed; use {FIRST_TUNING_SEED} or above")
        counts = {arm: len(trials) for arm, trials in self.trials.items()}
        if len(set(counts.values())) > 1:
            said = ", ".join(f"{arm} {count}" for arm, count in counts.items())
            raise ValueError(f"every arm must have the same number of trials, not {said}")


@configclass
class HypothesisConfig:
    """A statement about success rates that a study can refute."""

    text: str
    """The statement in words."""
    arm: str
    """The arm that it is about."""
    over: Annotated[tuple[str, ...], Field(min_length=1)]
    """The arm is compared with the best of these. A difference to one arm is tested over seeds; so where there are several
    baselines, choose the best one on the tuning seeds, and name it alone."""
    measure: Literal["ratio", "difference"] = "ratio"
    """Whether the mean success rates are compared by their ratio or their difference."""
    alone: bool = False
    """Test it as it is; all others are corrected for their number, by Holm's method. For what a study is about, no more
    than one or two."""
    at_least: float | None = None
    """The hypothesis holds if the measure is at least this."""
    at_most: float | None = None
    """The hypothesis holds if the measure is at most this."""

    def __post_init__(self) -> None:
        if (self.at_least is None) == (self.at_most is None):
            raise ValueError("give either at_least or at_most")
        if self.alone and not self.tested:
            raise ValueError("only a difference to one arm can stand alone; the others have no test")

    @property
    def bound(self) -> float:
        """What the measure is held against."""
        bound = self.at_least if self.at_least is not None else self.at_most
        assert bound is not None  # a hypothesis has one of the two
        return bound

    @property
    def tested(self) -> bool:
        """Whether there is a test over seeds: for a difference to one arm."""
        return self.measure == "difference" and len(self.over) == 1


@configclass
class LossConfig:
    """A part of the method and its loss: two arms that differ only in that part, or also in parts named earlier."""

    part: str
    """The part in which the two arms differ."""
    upper: str
    """The arm with a perfect part."""
    lower: str
    """The arm with the real one."""


@configclass
class RegistrationConfig:
    """Digests at the time of registration; ``digiq study FILE --register`` writes them."""

    kernel: str = ""
    """Digest of the simulator's kernel (:func:`kernel_digest`)."""
    grid: str = ""
    """Digest of the grid."""
    analysis: str = ""
    """Digest of the code that makes the page's numbers (:func:`digiq.studies.analysis.analysis_digest`). A page says if it
    was made by other code. Empty in studies older than this field."""
    closed: str = ""
    """Why the study is history, as a clause. Its reported seeds run no more, and its page stays as it was written."""


@configclass
class StudyConfig:
    """A whole study."""

    name: Annotated[str, Field(pattern=r"^[\w.-]+$")]
    """Name of its page and directories."""
    title: str
    """Title of its page."""
    seeds: Annotated[tuple[int, ...], Field(min_length=1)]
    """The reported seeds; each has its own data, training and evaluation."""
    recipe: dict[str, Any]
    """The recipe (``digiq run``) that arms modify."""
    arms: dict[str, ArmConfig]
    """The arms by name."""
    sweeps: dict[str, SweepConfig] = Field(default_factory=dict)
    """The sweeps by name."""
    tuning: TuningConfig | None = None
    """How settings are chosen."""
    hypotheses: dict[str, HypothesisConfig] = Field(default_factory=dict)
    """The hypotheses by name, the main one first."""
    losses: tuple[LossConfig, ...] = ()
    """The loss of each part, from the ceiling down."""
    registration: RegistrationConfig = RegistrationConfig()
    """Digests that the reported seeds need."""
    output: Path = Path("runs/study")
    """Folder of the artefacts; they can be deleted once the records are written."""
    results: Path = Path("docs/results")
    """Folder of the page; records and figures go into a subfolder of the study's name."""
    minutes: Annotated[float, Field(gt=0)] = 100
    """Budget of the study in wall minutes on ``jobs`` cores; the plan says if it needs more."""
    jobs: Annotated[int, Field(ge=1)] = 2
    """Number of stages that run side by side, each on its own core."""

    def __post_init__(self) -> None:
        known = set(self.arms)
        uses = [(f"sweeps.{name}.arms", sweep.arms) for name, sweep in self.sweeps.items()]
        uses += [(f"hypotheses.{name}", (h.arm, *h.over)) for name, h in self.hypotheses.items()]
        uses += [(f"losses[{i}]", (loss.upper, loss.lower)) for i, loss in enumerate(self.losses)]
        uses += [("tuning.trials", tuple(self.tuning.trials))] if self.tuning else []
        for where, names in uses:
            strangers = sorted(set(names) - known)
            if strangers:
                raise ValueError(f"{where}: there is no arm '{strangers[0]}'; arms: {', '.join(self.arms)}")


def kernel_digest() -> str:
    """SHA-256 of the simulator's kernel: the source that decides its behaviour and looks, and all rates in force."""
    import android_env
    from android_env.devices.simulated import collector, webshop
    from android_env.devices.simulated.state import NOISE

    root = Path(android_env.__file__).parent
    rates = {
        "noise": dataclasses.asdict(NOISE),
        "cookie_wall": webshop.COOKIE_WALL,
        "mistakes": collector.MISTAKES,
        "sureness": collector.SURENESS,
        "elsewhere": collector.ELSEWHERE,
        "complete": collector.COMPLETE,
        "favourite": collector.FAVOURITE,
        "habit": collector.HABIT,
        "mistyping": collector.MISTYPING,
    }
    digest = hashlib.sha256(json.dumps(rates, sort_keys=True).encode())
    for name in _KERNEL:
        digest.update(f"\0{name}\0".encode() + (root / name).read_bytes())
    return digest.hexdigest()


def check_registration(
    config: StudyConfig,
    *,
    seeds: tuple[int, ...],
    kernel: str,
    grid: str,
) -> None:
    """Refuses reported seeds if the study is not as registered.

    Args:
      config: the study.
      seeds: seeds to run.
      kernel: the current :func:`kernel_digest`.
      grid: the current digest of the grid.

    Raises:
      ConfigError: the message says what changed, and what to do.
    """
    reported = [seed for seed in seeds if seed < FIRST_TUNING_SEED]
    if not reported:
        return
    strange = [seed for seed in reported if seed not in config.seeds]
    if strange:
        raise ConfigError(
            f"{config.name}: seed {strange[0]} is not one of the reported seeds {list(config.seeds)}; for experiments "
            f"use a seed of at least {FIRST_TUNING_SEED}."
        )
    found = config.registration
    if found.closed:
        raise ConfigError(
            f"{config.name}: the study is history, as {found.closed}, so seed {reported[0]} does not run; take its "
            f"records, or a seed of at least {FIRST_TUNING_SEED}."
        )
    if not found.kernel or not found.grid:
        raise ConfigError(
            f"{config.name}: not registered, so seed {reported[0]} does not run; write its digests into the file with "
            f"--register and commit it, or use a seed of at least {FIRST_TUNING_SEED}."
        )
    changed = [
        name
        for name, was, now in (
            ("the simulator's kernel", found.kernel, kernel),
            ("the grid", found.grid, grid),
        )
        if was != now
    ]
    if changed:
        raise ConfigError(
            f"{config.name}: {' and '.join(changed)} changed since the study was registered, so seed {reported[0]} does "
            "not run; undo the change, or register again with fresh seeds."
        )


def overlay(base: Mapping[str, Any], *over: Mapping[str, Any]) -> dict[str, Any]:
    """Nested mappings merged in order; a value that is not a mapping replaces the earlier one."""
    result = dict(base)
    for mapping in over:
        for key, value in mapping.items():
            old = result.get(key)
            if isinstance(value, Mapping) and isinstance(old, Mapping):
                value = overlay(old, value)
            result[key] = value
    return result
