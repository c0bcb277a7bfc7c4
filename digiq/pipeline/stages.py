"""The table of stages: the commands of ``digiq``, the sections of recipes, and data for plans and estimates.

A stage is a module with ``STAGE``, ``VERSION`` and ``run(config, *, inputs..., out, overwrite=False) -> Artifact``.
"""

from __future__ import annotations

import dataclasses
import importlib
import typing
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

from digiq.extras import require

STEPS = 15.6
"""Observations per episode, for estimates."""


@dataclasses.dataclass(frozen=True)
class Load:
    """The data about a planned stage that an estimate uses."""

    config: Any
    inputs: frozenset[str]
    """Names of the artefacts that it reads."""
    episodes: float
    """Number of episodes in its inputs."""
    candidates: int
    """Number of candidates per state in its inputs."""
    first: bool = True
    """Whether no earlier stage computes the same rows of features."""


def _never(config: Any) -> bool:
    return False


def _always(config: Any) -> bool:
    return True


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stage:
    """One entry of :data:`STAGES`."""

    module: str
    about: str
    """Description in a few words, for ``--help``."""
    reads: tuple[str, ...] = ()
    """Artefacts that its ``run`` takes, by their names in recipes; those in its config's own ``reads`` are added."""
    writes: str = ""
    """Name of its artefact in recipes, which is also its directory in a run."""
    section: str = ""
    """Section of a recipe that requests it, if it is not part of the method itself; the section is null unless the
    recipe has it. The stage is planned after everything that it reads."""
    seed_of: str = ""
    """Stage whose seed it shares in a run, so that both play the same episodes and can be compared in pairs."""
    one_core: Callable[[Any], bool] = _never
    """Whether it can use only one core with this config, so that another such stage may run at the same time."""
    packages: Callable[[Any], tuple[str, ...]] = lambda config: ()
    """Packages of :data:`digiq.extras.EXTRAS` that it imports with this config."""
    seconds: Callable[[Load], float] = lambda load: 2.0
    """Seconds on one core, from measurements of quickstart-sized stages; only for plans and ETAs."""

    def open(self) -> ModuleType:
        """Imports its module."""
        return importlib.import_module(self.module)

    def require(self, config: Any) -> None:
        """Raises DigiQError, which names the extra, if a package that it imports with this config is not installed."""
        require(self.packages(config), f"'{self.open().STAGE}'")

    @property
    def config(self) -> Any:
        """The class of its config."""
        return typing.get_type_hints(self.open().run)["config"]


_VLM = ("torch", "transformers")


def _of_member(config: Any) -> tuple[str, ...]:
    """The packages that the chosen member says it imports."""
    return getattr(config.chosen, "packages", ())


def _acting(config: Any) -> tuple[str, ...]:
    return (*_of_member(config.device), *(_VLM if config.agent.scorer == "critic" else ()))


def _collecting(load: Load) -> float:
    return 4 + load.config.num_episodes * (0.05 if "policy" in load.inputs else 0.01)


def _featurizing(load: Load) -> float:
    n = load.candidates
    # Repeated screens and candidates share one row.
    rows = STEPS * load.episodes * (1.95 + 0.05 * n if load.config.support else 1.45 + 0.16 * n)
    return 4 + rows * (getattr(load.config.chosen, "seconds_a_row", 0.0092) if load.first else 0.0)


def _training(load: Load) -> float:
    critic = load.config.critic.for_transitions(round(STEPS * load.episodes))
    return 7 + 0.02 * critic.epochs * critic.steps_per_epoch


def _distilling(load: Load) -> float:
    # About half of the states are kept.
    return 5 + 0.055 * load.config.fit.for_rows(round(STEPS * load.episodes / 2)).updates


def _evaluating(load: Load) -> float:
    return 3 + (0.85 if "critic" in load.inputs else 0.02) * load.config.episodes


_LABELLED = ("episodes", "rewards")

STAGES: Mapping[str, Stage] = {
    "import": Stage(
        module="digiq.data.import_episodes",
        about="recorded episodes of a known format, or of any agent's own (JSON lines), to episodes: --format NAME WHERE",
        writes="episodes",
    ),
    "collect": Stage(
        module="digiq.agents.collect",
        about="roll an agent out on a device, into episodes",
        writes="episodes",
        # A script spends its time on drawing screens, in as many processes as there are cores.
        one_core=lambda config: config.agent.kind == "policy",
        packages=_acting,
        seconds=_collecting,
    ),
    "fit-policy": Stage(
        module="digiq.policies.fit",
        about="fit a policy to demonstrations",
        writes="behavior",
        reads=("episodes",),
        seconds=lambda load: 10 + 0.064 * load.config.fit.updates,
    ),
    "label": Stage(
        module="digiq.data.label",
        about="rewards for episodes",
        writes="rewards",
        reads=("episodes",),
        one_core=_always,
    ),
    "propose": Stage(
        module="digiq.proposals.propose",
        about="N candidate actions for every observation",
        writes="proposals",
        reads=_LABELLED,
        packages=_of_member,
        seconds=lambda load: 4 + 0.002 * STEPS * load.episodes,
    ),
    "tune-vlm": Stage(
        module="digiq.vlm.tune",
        about="tune a VLM to predict whether an action changes the screen",
        writes="vlm",
        reads=("episodes", "vlm"),
        packages=lambda config: (*_VLM, "peft", "accelerate"),
        seconds=lambda load: 66.0,
    ),
    "featurize": Stage(
        module="digiq.features.extract",
        about="hidden states of the frozen VLM, once",
        writes="features",
        reads=(*_LABELLED, "proposals", "vlm"),
        packages=_of_member,
        seconds=_featurizing,
    ),
    "import-features": Stage(
        module="digiq.features.given",
        about="upstream's precomputed features (.pt), with their episodes and candidates",
        packages=lambda config: ("torch",),
    ),
    "train-q": Stage(
        module="digiq.critics.train",
        about="Q- and V-heads by temporal difference",
        writes="critic",
        reads=(*_LABELLED, "features"),
        seconds=_training,
    ),
    "diagnose": Stage(module="digiq.critics.diagnose", about="what a critic's held-out numbers say about it"),
    "select": Stage(module="digiq.critics.select", about="choose among critics and epochs without a device"),
    "distill": Stage(
        module="digiq.extraction.distill",
        about="a policy from ranked candidates",
        writes="policy",
        reads=(*_LABELLED, "behavior"),
        seconds=_distilling,
    ),
    "export": Stage(
        module="digiq.extraction.export",
        about="what a critic prefers, as training data for TRL and LLaMA-Factory",
        writes="export",
        reads=(*_LABELLED, "proposals", "features", "critic"),
        section="export",
    ),
    "evaluate": Stage(
        module="digiq.evaluation.evaluate",
        about="success of a policy on a device",
        writes="evaluation",
        one_core=_always,
        packages=_acting,
        seconds=_evaluating,
    ),
    "evaluate-agent": Stage(
        module="digiq.evaluation.evaluate_agent",
        about="success of anyone's agent with a learned Q and guards on top; also 'evaluate --proposer NAME'",
        writes="agent_evaluation",
        section="evaluate_agent",
        seed_of="evaluate",
        packages=lambda config: (
            *_of_member(config),
            *_of_member(config.device),
            *(_VLM if config.rerank else ()),
        ),
        seconds=lambda load: 3 + 0.85 * load.config.episodes,
    ),
    "offline": Stage(
        module="digiq.evaluation.offline",
        about="how often a policy does what was logged (matching, not success), and what it would be worth",
        writes="offline",
        reads=("episodes", "policy"),
        section="offline",
    ),
    "card": Stage(
        module="digiq.laboratory.card",
        about="what the offline data of the simulated phone is like",
        writes="card",
        reads=("episodes", "policy"),
        section="card",
        seconds=lambda load: 3 + 0.14 * load.config.valued,
    ),
    "value": Stage(
        module="digiq.laboratory.exact_values",
        about="the simulator's own Q of every candidate",
        writes="exact",
        reads=(*_LABELLED, "proposals", "policy"),
        section="exact",
        seconds=lambda load: 5 + 0.08 * load.episodes + 3 * load.config.policy_episodes,
    ),
    "q-metrics": Stage(
        module="digiq.laboratory.q_metrics",
        about="how good a learned Q is where its policy goes",
        writes="q_metrics",
        reads=(*_LABELLED, "proposals", "features", "critic", "exact", "policy"),
        seconds=lambda load: 4 + 0.02 * load.config.rollouts,
    ),
    "rank": Stage(
        module="digiq.report.ranking",
        about="where logged actions of held-out episodes rank",
        writes="ranking",
        reads=(*_LABELLED, "proposals", "features", "critic", "vlm", "behavior"),
        section="rank",
    ),
    "probe": Stage(
        module="digiq.report.probe",
        about="which layers and poolings hold actionability and return",
        reads=(*_LABELLED, "features"),
    ),
    "make-tiny-vlm": Stage(
        module="digiq.vlm.tiny.make", about="pre-train the embedded tiny LLaVA", packages=lambda config: _VLM
    ),
}
"""The stages by command, in the order of ``digiq --help``."""
