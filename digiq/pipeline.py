"""The stages as a graph, and ``digiq run``: one recipe, one process a stage, resuming.

A recipe is a YAML file with a section a stage; a stage whose section is missing does not run. The graph below is the
whole order of things; ``digiq run`` skips what is complete and has :mod:`digiq.nodes` run the rest.
"""

import contextlib
import dataclasses
import itertools
import json
import sys
import time
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from digiq import artifacts
from digiq.agents.build import AgentConfig
from digiq.agents.collect import CollectConfig
from digiq.config import configclass, to_dict
from digiq.critics.train import TrainQConfig
from digiq.data.import_aitw import ImportAitwConfig
from digiq.data.label import LabelConfig
from digiq.errors import ConfigError, DigiQError
from digiq.evaluation.card import CardConfig
from digiq.evaluation.evaluate import EvaluateConfig
from digiq.evaluation.exact_values import ExactValuesConfig
from digiq.evaluation.q_metrics import QMetricsConfig
from digiq.evaluation.ranking import RankingConfig
from digiq.extraction.distill import DistillConfig
from digiq.features.extract import FeaturizeConfig
from digiq.nodes import Node, run_nodes
from digiq.policies.fit import FitPolicyConfig
from digiq.proposals.propose import ProposeConfig
from digiq.vlm.tune import TuneVlmConfig

RECIPE = "recipe.json"
EMBEDDED_VLM = Path(__file__).parent / "vlm" / "tiny" / "weights"


@configclass
class Recipe:
    """One run of the method. Either ``episodes`` (import) or ``demonstrations`` and ``collect`` (a device)."""

    name: Annotated[str, Field(pattern=r"^[\w.-]+$")] = "run"
    """The run's directory under ``output``."""
    output: Path = Path("runs")
    """Where runs go."""
    seed: int = 0
    """Every stage's seed is derived from this one."""
    vlm: Path | None = None
    """A Hugging Face image-text-to-text directory; none: the embedded tiny LLaVA."""
    episodes: ImportAitwConfig | None = None
    """``import-aitw``: episodes from Android in the Wild TFRecords."""
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
    card: CardConfig | None = None
    """``card``: a data card of the behaviour policy's roll-outs; needs the simulated phone."""
    exact: ExactValuesConfig | None = None
    """``value``: the simulator's own Q of every stored candidate, for arms and numbers that need the truth."""
    q_metrics: QMetricsConfig | None = None
    """``q-metrics``: of every arm that reads the critic, how good its Q is where its policy goes; needs ``exact``."""
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
    rank: RankingConfig | None = None
    """``rank``: where the logged action of held-out episodes ranks among its candidates."""

    @property
    def directory(self) -> Path:
        return self.output / self.name


def plan(recipe: Recipe) -> list[Node]:
    """The recipe's stages in the order they run.

    Raises:
      ConfigError: the recipe has no source of episodes, or two.
    """
    root = recipe.directory
    if (recipe.episodes is None) == (recipe.collect is None):
        raise ConfigError(
            "recipe: give either 'episodes' (import) or 'collect' (a device), not both or neither."
        )
    if recipe.episodes is None and recipe.demonstrations is None:
        raise ConfigError("recipe: 'collect' needs 'demonstrations' to fit the behaviour policy to.")
    nodes: list[Node] = []

    def add(name: str, module: str, config: Any, **inputs: Path) -> Path:
        out = root / name
        nodes.append(Node(name, f"digiq.{module}", _seeded(config, recipe.seed, name), inputs, out))
        return out

    if recipe.episodes is not None:
        episodes = add("episodes", "data.import_aitw", recipe.episodes)
        behavior = add("behavior", "policies.fit", recipe.fit_policy, episodes=episodes)
    else:
        assert recipe.collect is not None
        demonstrations = add("demonstrations", "agents.collect", recipe.demonstrations)
        behavior = add("behavior", "policies.fit", recipe.fit_policy, episodes=demonstrations)
        drawn_from = {"policy": behavior} if recipe.collect.agent.kind == "policy" else {}
        episodes = add("episodes", "agents.collect", recipe.collect, **drawn_from)
    rewards = add("rewards", "data.label", recipe.label, episodes=episodes)
    labelled = {"episodes": episodes, "rewards": rewards}
    if recipe.card is not None:
        add("card", "evaluation.card", recipe.card, episodes=episodes, policy=behavior)
    proposals = add("proposals", "proposals.propose", recipe.propose, **labelled, policy=behavior)
    vlm = recipe.vlm or EMBEDDED_VLM
    if recipe.tune_vlm is not None:
        vlm = add("vlm", "vlm.tune", recipe.tune_vlm, episodes=episodes, vlm=vlm)
    features = add("features", "features.extract", recipe.featurize, **labelled, proposals=proposals, vlm=vlm)
    critic = add("critic", "critics.train", recipe.train_q, **labelled, features=features)
    exact: dict[str, Path] = {}
    if recipe.exact is not None:
        data = {**labelled, "proposals": proposals, "policy": behavior}
        exact = {"exact": add("exact", "evaluation.exact_values", recipe.exact, **data)}
    available = {"proposals": proposals, "features": features, "critic": critic, **exact}
    policies = {"behavior": behavior}
    stranger = next((arm for arm in recipe.agents if arm not in recipe.distill), None)
    if stranger is not None:
        raise ConfigError(
            f"recipe: agents.{stranger} is no arm of distill ({', '.join(recipe.distill) or 'which has none'})."
        )
    default = recipe.evaluate.agent if recipe.evaluate else AgentConfig()
    for arm, config in recipe.distill.items():
        missing = [name for name in config.reads if name not in available]
        if missing:
            raise ConfigError(f"recipe: distill.{arm} reads exact values; give the recipe a section 'exact'.")
        if "features" in config.reads and config.arm == "digiq":
            _check_support(arm, recipe.featurize.support, config.best_of_n.support)
        data = {name: available[name] for name in config.reads}
        policies[arm] = add(
            f"policy/{arm}", "extraction.distill", config, **labelled, behavior=behavior, **data
        )
        if recipe.q_metrics is not None and config.arm == "digiq" and "critic" in config.reads:
            if not exact:
                raise ConfigError(
                    "recipe: 'q_metrics' compares with exact values; give it a section 'exact'."
                )
            q_metrics = dataclasses.replace(recipe.q_metrics, agent=recipe.agents.get(arm, default))
            add(
                f"q_metrics/{arm}", "evaluation.q_metrics", q_metrics,
                **labelled, **available, policy=policies[arm],
            )  # fmt: skip
    if recipe.evaluate is not None:
        agents = {
            arm: ({"policy": policy}, recipe.agents.get(arm, default)) for arm, policy in policies.items()
        }
        if recipe.ceiling and recipe.evaluate.device.name == "simulated":
            agents["ceiling"] = ({"policy": behavior}, dataclasses.replace(default, scorer="best_values"))
        if recipe.critic_on_device:
            reads = {"policy": behavior, "critic": critic, "features": features, "vlm": vlm}
            agents["critic"] = (reads, dataclasses.replace(default, scorer="critic"))
        for arm, (reads, agent) in agents.items():
            config = dataclasses.replace(recipe.evaluate, arm=arm, agent=agent)
            # All arms run the same tasks, layouts and noise, so that they can be compared in pairs.
            config = _seeded(config, recipe.seed, "evaluate")
            nodes.append(
                Node(
                    f"evaluation/{arm}",
                    "digiq.evaluation.evaluate",
                    config,
                    reads,
                    root / "evaluation" / arm,
                )
            )
    if recipe.rank is not None:
        add(
            "ranking", "evaluation.ranking", recipe.rank,
            **labelled, proposals=proposals, features=features, critic=critic, vlm=vlm, behavior=behavior,
        )  # fmt: skip
    return nodes


def run(recipe: Recipe, *, overwrite: bool = False) -> dict[str, float]:
    """Runs what is not complete, one process a stage, and writes the summary and the report.

    Args:
      recipe: the run.
      overwrite: throw away artefacts that another configuration left in the run's directory.

    Returns:
      Seconds by stage, over all attempts.

    Raises:
      DigiQError: the recipe cannot run (said before anything starts), or a stage failed; what is done stays.
    """
    nodes = plan(recipe)
    preflight(recipe)
    recipe.directory.mkdir(parents=True, exist_ok=True)
    artifacts.atomic_write_json(recipe.directory / RECIPE, to_dict(recipe))
    waiting = [node for node in nodes if not node.is_complete] if not overwrite else nodes
    if not waiting:
        print(f"{recipe.directory}: everything is complete, nothing to do.", file=sys.stderr)

    started = itertools.count(len(nodes) - len(waiting) + 1)

    def announce(node: Node) -> None:
        print(f"[{next(started)}/{len(nodes)}] {node.name}", file=sys.stderr, flush=True)

    running = run_nodes(waiting, folder=recipe.directory / "nodes", overwrite=overwrite, on_start=announce)
    with contextlib.closing(running):
        for node, failure in running:
            if failure:
                raise DigiQError(
                    f"stage '{node.name}' failed ({failure}). What is finished stays; the same command goes on from there."
                )
    seconds = {node.name: _seconds(node) for node in nodes}
    _conclude(recipe, nodes, seconds, changed=bool(waiting))
    return seconds


def preflight(recipe: Recipe) -> None:
    """Refuses what would fail later: a missing source, a VLM that does not open, task sets that do not load.

    Raises:
      DigiQError: names the field and the mend.
    """
    if recipe.episodes is not None:
        from digiq.data.import_aitw import find_shards

        find_shards(recipe.episodes.source)
    if recipe.vlm is not None:
        from digiq.vlm.backbone import check_model_directory

        check_model_directory(recipe.vlm)
    from digiq.agents.build import device_tasks

    for config in (recipe.demonstrations, recipe.collect, recipe.evaluate):
        if config is not None:
            device_tasks(config.tasks)


def _check_support(arm: str, read: float, taken: float) -> None:
    if read > taken:
        raise ConfigError(
            f"recipe: featurize.support {read:g} leaves out candidates that distill.{arm}.best_of_n.support {taken:g} "
            "would take; give featurize.support at most that."
        )


def _seeded(config: Any, seed: int, name: str) -> Any:
    """The config with its seeds, nested ones too, derived from the run's: stages must not share random numbers."""
    changes: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.name == "seed":
            changes["seed"] = zlib.crc32(f"{seed}/{name}".encode()) & 0x7FFFFFFF
        elif dataclasses.is_dataclass(value):
            changes[field.name] = _seeded(value, seed, f"{name}/{field.name}")
    return dataclasses.replace(config, **changes)


def _seconds(node: Node) -> float:
    return float(artifacts.open(node.out).manifest.environment["seconds"])


def _conclude(recipe: Recipe, nodes: list[Node], seconds: Mapping[str, float], *, changed: bool) -> None:
    """Summary, report and table; unchanged runs only print the table again."""
    from digiq.evaluation.report import RunArtifacts, write_report
    from digiq.evaluation.summary import print_summary, write_summary

    out = {node.name: node.out for node in nodes}
    evaluations = {name.split("/")[1]: path for name, path in _under(out, "evaluation")}
    if evaluations:
        report = recipe.directory / "report.html"
        summary_file = recipe.directory / "summary.json"
        if changed or not (report.is_file() and summary_file.is_file()):
            started = time.time()
            policies = {name.split("/")[1]: path for name, path in _under(out, "policy")}
            shown = ("behavior", "episodes", "rewards", "proposals", "vlm", "features", "critic")
            run_artifacts = RunArtifacts(
                **{name: out[name] for name in shown if name in out},
                policies=policies,
                evaluations=evaluations,
            )
            write_report(run_artifacts, report, title=f"DigiQ · {recipe.name}", seconds=seconds)
            write_summary(evaluations, {**seconds, "report": time.time() - started}, summary_file)
        print_summary(json.loads(summary_file.read_text()), report)
        print(f"Look closer: open {report}", file=sys.stderr)
    if recipe.rank is not None:
        from digiq.evaluation.ranking import print_ranking

        print_ranking(out["ranking"])


def _under(paths: Mapping[str, Path], folder: str) -> Iterator[tuple[str, Path]]:
    return ((name, path) for name, path in paths.items() if name.startswith(f"{folder}/"))
