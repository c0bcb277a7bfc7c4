"""Recipes: one YAML file with a section a stage. A stage whose section is missing does not run."""

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
    """A config class with a section for each stage that has one: null unless the recipe asks for it."""
    asked = {stage.section: (name, stage) for name, stage in STAGES.items() if stage.section}
    body: dict[str, Any] = dict.fromkeys(asked)
    body["__annotations__"] = {
        section: Annotated[stage.config | None, Doc(f"``{name}``: {stage.about}.")]
        for section, (name, stage) in asked.items()
    }
    return configclass(type("Sections", (), body | {"__module__": __name__}))


@configclass
class Recipe(sections()):
    """One run of the method. Either ``episodes`` (import) or ``demonstrations`` and ``collect`` (a device).

    Stages beside the method itself have sections too, those that :data:`digiq.pipeline.stages.STAGES` names.
    """

    name: Annotated[str, Field(pattern=r"^[\w.-]+$")] = "run"
    """The run's directory under ``output``."""
    output: Path = Path("runs")
    """Where runs go."""
    seed: int = 0
    """Every stage's seed is derived from this one."""
    vlm: Path | None = None
    """A Hugging Face image-text-to-text directory; none: the embedded tiny LLaVA."""
    episodes: ImportConfig | None = None
    """``import``: episodes that were recorded elsewhere."""
    demonstrations: CollectConfig | None = None
    """``collect``: episodes that the behaviour policy is fitted to."""
    fit_policy: FitPolicyConfig = FitPolicyConfig()
    """``fit-policy``: the behaviour policy."""
    collect: CollectConfig | None = None
    """``collect``: the behaviour policy's roll-outs, the offline data."""
    label: LabelConfig = LabelConfig()
    """``label``: rewards."""
    propose: ProposeConfig = ProposeConfig()
    """``propose``: N candidates a state."""
    tune_vlm: TuneVlmConfig | None = TuneVlmConfig()
    """``tune-vlm``: actionability; none: the VLM as it is."""
    featurize: FeaturizeConfig = FeaturizeConfig()
    """``featurize``: hidden states of every observation and candidate."""
    train_q: TrainQConfig = TrainQConfig()
    """``train-q``: the critic."""
    distill: dict[str, DistillConfig] = Field(default_factory=dict)
    """``distill``: by arm, the policies extracted from the data."""
    rounds: Annotated[int, Field(ge=1)] = 1
    """Rounds of extraction of every arm that ranks candidates by the critic. From the second on, candidates are drawn at the
    same logged states from the policy of the round before (``propose.source`` must ask a policy) and ranked by the same
    critic; the arm of round k is called ``ARM_round_k``."""
    q_metrics: QMetricsConfig | None = None
    """``q-metrics``: of every arm that ranks candidates by the critic, how good its Q is where its policy goes; needs ``exact``."""
    evaluate: EvaluateConfig | None = None
    """``evaluate``: the behaviour policy and every distilled arm, on the same episodes."""
    agents: dict[str, AgentConfig] = Field(default_factory=dict)
    """By arm of ``distill``: how its policy acts, where that is not as ``evaluate.agent`` says."""
    ceiling: bool = True
    """``evaluate`` also the best of ``evaluate.agent.num_candidates`` of the behaviour policy by the simulator's best
    values, where there is a simulator: what no critic can pass."""
    critic_on_device: bool = False
    """``evaluate`` also the best of as many by the critic, which has the VLM read each of them at every step: what the critic
    is worth before anything is distilled. Minutes, where a policy takes seconds."""

    @property
    def directory(self) -> Path:
        return self.output / self.name
