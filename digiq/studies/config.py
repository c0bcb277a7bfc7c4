"""What a study is: arms, sweeps, seeds, tuning budgets and hypotheses, written down before the seeds are run.

A study's file is its registration. ``registration`` holds the digest of the simulator's kernel (its source and its
rates) and of the grid (everything that decides what is run); seeds below :data:`FIRST_TUNING_SEED` only run while both
still are what the file says. Tuning uses the other seeds, and tasks of its own.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import Field

from digiq.config import configclass
from digiq.errors import ConfigError

FIRST_TUNING_SEED = 100
"""Seeds from here on are for tuning and trying out; those below are reported, and need a registration."""

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
"""Files of ``android_env`` that decide what happens on the simulated phone and how it looks, and what its collector does."""

Role = Literal["reference", "baseline", "method", "ceiling", "representation", "control"]


@configclass
class ArmConfig:
    """One arm: how the study's recipe differs for it, and who acts in the end."""

    title: str
    """How it is called in tables."""
    role: Role
    """What it is compared as."""
    acts: Literal["policy", "behavior", "ceiling", "critic", "oracle", "random"] = "policy"
    """The policy distilled under the name ``policy``, the behaviour policy, the behaviour policy re-ranked on the device
    by the best values there are or by the critic, or a script that needs no training."""
    recipe: dict[str, Any] = Field(default_factory=dict)
    """Laid over the study's recipe; null takes a section away."""
    seeds: Annotated[int, Field(ge=1)] | None = None
    """Only the first so many seeds; none: all."""


@configclass
class SweepConfig:
    """Arms run again at other points of one setting."""

    title: str
    """How it is called in tables and figures."""
    arms: Annotated[tuple[str, ...], Field(min_length=1)]
    """Which arms."""
    points: dict[str, dict[str, Any]]
    """By label, what is laid over the arms' recipes."""
    base: str
    """Label of the arms as they are, which need no run of their own."""
    order: tuple[str, ...]
    """All labels, from left to right."""
    seeds: Annotated[int, Field(ge=1)] | None = None
    """Only the first so many seeds; none: all."""

    def __post_init__(self) -> None:
        if set(self.order) != {*self.points, self.base} or self.base in self.points:
            raise ValueError(f"order must name the points and '{self.base}' once each, and no point the base")


@configclass
class TuningConfig:
    """The search that every arm gets: as many trials, as many updates, on seeds and tasks that are not reported."""

    seeds: Annotated[tuple[int, ...], Field(min_length=1)]
    """At least :data:`FIRST_TUNING_SEED` each."""
    tasks: str = "webshop/tune"
    """Where trials are evaluated."""
    episodes: Annotated[int, Field(ge=1)] = 120
    """Roll-outs a trial."""
    trials: dict[str, tuple[dict[str, Any], ...]] = Field(default_factory=dict)
    """By arm, what each trial lays over the arm's recipe; the same number for every arm."""

    def __post_init__(self) -> None:
        low = [seed for seed in self.seeds if seed < FIRST_TUNING_SEED]
        if low:
            raise ValueError(f"seed {low[0]} is no tuning seed; take {FIRST_TUNING_SEED} or above")
        counts = {arm: len(trials) for arm, trials in self.trials.items()}
        if len(set(counts.values())) > 1:
            said = ", ".join(f"{arm} {count}" for arm, count in counts.items())
            raise ValueError(f"every arm gets the same number of trials, not {said}")


@configclass
class HypothesisConfig:
    """A statement about success rates that a study can refute."""

    text: str
    """In words."""
    arm: str
    """The arm it is about."""
    over: Annotated[tuple[str, ...], Field(min_length=1)]
    """What it is compared with: the best of these."""
    measure: Literal["ratio", "difference"] = "ratio"
    """Of the mean success rates."""
    at_least: float | None = None
    """It holds where the measure is at least this."""
    at_most: float | None = None
    """It holds where the measure is at most this."""

    def __post_init__(self) -> None:
        if (self.at_least is None) == (self.at_most is None):
            raise ValueError("give either at_least or at_most")


@configclass
class LossConfig:
    """A part of the method, and what it loses: two arms that differ in it alone, or in it and in parts named earlier."""

    part: str
    """What stands between the two arms."""
    upper: str
    """The arm with a perfect part."""
    lower: str
    """The arm with the real one."""


@configclass
class RegistrationConfig:
    """What was true when the study was registered; ``digiq study FILE --register`` writes it."""

    kernel: str = ""
    """:func:`kernel_digest`."""
    grid: str = ""
    """Digest of the grid."""


@configclass
class StudyConfig:
    """A whole study."""

    name: Annotated[str, Field(pattern=r"^[\w.-]+$")]
    """Of its page and of its directories."""
    title: str
    """Of its page."""
    seeds: Annotated[tuple[int, ...], Field(min_length=1)]
    """The reported seeds; each has its own data, training and evaluation."""
    recipe: dict[str, Any]
    """The recipe (``digiq run``) that arms differ from."""
    arms: dict[str, ArmConfig]
    """By name."""
    sweeps: dict[str, SweepConfig] = Field(default_factory=dict)
    """By name."""
    tuning: TuningConfig | None = None
    """How settings are chosen."""
    hypotheses: dict[str, HypothesisConfig] = Field(default_factory=dict)
    """By name, the main one first."""
    losses: tuple[LossConfig, ...] = ()
    """From the ceiling down, which part loses what."""
    registration: RegistrationConfig = RegistrationConfig()
    """Digests that the reported seeds need."""
    output: Path = Path("runs/study")
    """Where artefacts go; they can be thrown away once the records are written."""
    results: Path = Path("docs/results")
    """Where the page and, in a folder of the study's name, records and figures go."""
    minutes: Annotated[float, Field(gt=0)] = 100
    """The study's budget, wall minutes on ``jobs`` cores; a plan that needs more is said to."""
    jobs: Annotated[int, Field(ge=1)] = 2
    """Stages that run side by side, each on a core of its own."""

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
    """SHA-256 of the simulator's kernel: the source of what happens on the phone and how it looks, and all rates in force."""
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
    renamed: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Refuses reported seeds of a study that is not the registered one.

    Args:
      config: the study.
      seeds: those that are to run.
      kernel: :func:`kernel_digest` now.
      grid: digest of the grid now.
      renamed: digests as registered to what the same grid has now (:func:`digiq.studies.records.read_renamed`).

    Raises:
      ConfigError: says what changed, and what to do.
    """
    reported = [seed for seed in seeds if seed < FIRST_TUNING_SEED]
    if not reported:
        return
    strange = [seed for seed in reported if seed not in config.seeds]
    if strange:
        raise ConfigError(
            f"{config.name}: seed {strange[0]} is not one of the reported seeds {list(config.seeds)}; to try things "
            f"out take a seed of at least {FIRST_TUNING_SEED}."
        )
    found = config.registration
    if not found.kernel or not found.grid:
        raise ConfigError(
            f"{config.name}: not registered, so seed {reported[0]} does not run; write its digests into the file with "
            f"--register and commit it, or take a seed of at least {FIRST_TUNING_SEED}."
        )
    changed = [
        name
        for name, was, now in (
            ("the simulator's kernel", found.kernel, kernel),
            ("the grid", renamed.get(found.grid, found.grid), grid),
        )
        if was != now
    ]
    if changed:
        raise ConfigError(
            f"{config.name}: {' and '.join(changed)} changed since the study was registered, so seed {reported[0]} does "
            "not run; undo the change, or register again with fresh seeds."
        )


def overlay(base: Mapping[str, Any], *over: Mapping[str, Any]) -> dict[str, Any]:
    """Nested mappings laid over one another, the last on top; whatever is no mapping replaces what was there."""
    result = dict(base)
    for mapping in over:
        for key, value in mapping.items():
            old = result.get(key)
            if isinstance(value, Mapping) and isinstance(old, Mapping):
                value = overlay(old, value)
            result[key] = value
    return result
