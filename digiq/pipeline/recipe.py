"""Recipes: one YAML file with a section per stage. A stage without a section does not run."""

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field
from typing_extensions import Doc

from digiq.agents.build import AgentConfig
from digiq.agents.collect import CollectConfig
from digiq.config import configclass
from digiq.critics.train import TrainQConfig
from digiq.data.import_episodes import ImportConfig
from digiq.data.label import LabelConfig
from digiq.evaluation.evaluate import EvaluateConfig
from digiq.extraction.distill import DistillConfig
from digiq.features.extract import FeaturizeConfig
from digiq.laboratory.q_metrics import QMetricsConfig
from digiq.pipeline.stages import STAGES
from digiq.policies.fit import FitPolicyConfig
from digiq.proposals.propose import ProposeConfig
from digiq.vlm.tune import TuneVlmConfig


def sections() -> Any:
    """A config class with a section for each stage that has one, which is null unless the recipe sets it."""
    asked = {stage.section: (name, stage) for name, stage in STAGES.items() if stage.section}
    body: dict[str, Any] = dict.fromkeys(asked)
    body["__annotations__"] = {
        section: Annotated[stage.config | None, Doc(f"``{name}``: {stage.about}.")]
        for section, (name, stage) in asked.items()
    }
    return configclass(type("Sections", (), body | {"__module__": __name__}))


@configclass
class Recipe(sections()):
    """One run of the method, with either ``episodes`` (import) or ``demonstrations`` and ``collect`` (a device).

    Stages outside the method itself have sections too, which :data:`digiq.pipeline.stages.STAGES` names.
    """

    name: Annotated[str, Field(pattern=r"^[\w.-]+$")] = "run"
    """Name of the run's directory under ``output``."""
    output: Path = Path("runs")
    """Folder of runs."""
    seed: int = 0
    """Seed of the run, from which every stage's seed is derived."""
    vlm: Path | None = None
    """A Hugging Face image-text-to-text directory; none: the embedded tiny LLaVA."""
    episodes: ImportConfig | None = None
    """``import``: episodes recorded elsewhere."""
    demonstrations: CollectConfig | None = None
    """``collect``: episodes that the behaviour policy is fitted to."""
    fit_policy: FitPolicyConfig = FitPolicyConfig()
    """``fit-policy``: the behaviour policy."""
    collect: CollectConfig | None = None
    """``collect``: rollouts of the behaviour policy, which are the offline data."""
    label: LabelConfig = LabelConfig()
    """``label``: rewards."""
    propose: ProposeConfig = ProposeConfig()
    """``propose``: N candidates per state."""
    tune_vlm: TuneVlmConfig | None = TuneVlmConfig()
    """``tune-vlm``: tunes the VLM for actionability; none: the VLM stays as it is."""
    featurize: FeaturizeConfig = FeaturizeConfig()
    """``featurize``: hidden states of every observation and candidate."""
    train_q: TrainQConfig = TrainQConfig()
    """``train-q``: the critic."""
    distill: dict[str, DistillConfig] = Field(default_factory=dict)
    """``distill``: the policies extracted from the data, by arm."""
    rounds: Annotated[int, Field(ge=1)] = 1
    """Rounds of extraction for every arm that ranks candidates by the critic. From the second round on, candidates are
    drawn at the same logged states from the policy of the previous round (``propose.source`` must ask a policy) and
    ranked by the same critic; the arm of round k is called ``ARM_round_k``."""
    q_metrics: QMetricsConfig | None = None
    """``q-metrics``: quality of Q where the policy goes, for every arm that ranks by the critic; needs ``exact``."""
    evaluate: EvaluateConfig | None = None
    """``evaluate``: the behaviour policy and every distilled arm, on the same episodes."""
    agents: dict[str, AgentConfig] = Field(default_factory=dict)
    """How the policy of an arm of ``distill`` acts, by arm, if not as ``evaluate.agent`` says."""
    ceiling: bool = True
    """``evaluate`` also the behaviour policy with the best of ``evaluate.agent.num_candidates`` samples by the
    simulator's best values, if there is a simulator: the upper bound for any critic."""
    critic_on_device: bool = False
    """``evaluate`` also the best of the same number of samples by the critic, with the VLM reading each at every step:
    the worth of the critic before any distillation. Takes minutes, where a policy takes seconds."""

    @property
    def directory(self) -> Path:
        return self.output / self.name
