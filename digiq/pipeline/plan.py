"""The stages of a recipe as a graph, in the order in which they run."""

import dataclasses
import zlib
from collections.abc import Callable, Container, Sequence
from pathlib import Path
from typing import Any

from digiq.agents.build import AgentConfig
from digiq.config import to_dict
from digiq.errors import ConfigError
from digiq.extraction.base import Ranks
from digiq.extraction.distill import DistillConfig
from digiq.pipeline.nodes import Node
from digiq.pipeline.recipe import Recipe
from digiq.pipeline.stages import STAGES
from digiq.vlm import TINY_VLM_PATH


def plan(recipe: Recipe) -> list[Node]:
    """The recipe's stages in the order in which they run.

    Raises:
      ConfigError: the recipe has no source of episodes, or has two.
    """
    root = recipe.directory
    if (recipe.episodes is None) == (recipe.collect is None):
        raise ConfigError(
            "recipe: give either 'episodes' (import) or 'collect' (a device), not both or neither."
        )
    if recipe.episodes is None and recipe.demonstrations is None:
        raise ConfigError("recipe: 'collect' needs 'demonstrations' to fit the behaviour policy to.")
    nodes: list[Node] = []
    available: dict[str, Path] = {"vlm": recipe.vlm or TINY_VLM_PATH}
    asked = {
        command: getattr(recipe, stage.section)
        for command, stage in STAGES.items()
        if stage.section and getattr(recipe, stage.section) is not None
    }

    def add(command: str, config: Any, name: str = "", seed_of: str = "", **instead: Path) -> Path:
        """Plans a stage, which reads the artefacts of those names so far, or those in ``instead``."""
        stage = STAGES[command]
        name = name or stage.writes
        inputs = {read: available[read] for read in _reads(command, config) if read in available} | instead
        missing = _lacking(command, config, inputs)
        if missing:
            raise ConfigError(
                f"recipe: {name.replace('/', '.')} reads '{missing[0]}'; add a section '{missing[0]}' to the recipe."
            )
        config = seeded(config, recipe.seed, seed_of or name)
        nodes.append(Node(name, stage.module, config, inputs, root / name, stage.one_core(config)))
        return root / name

    def have(name: str, path: Path) -> None:
        """Registers an artefact, and plans the requested stages that waited only for it."""
        available[name] = path
        for command in [c for c, config in asked.items() if not _lacking(c, config, available)]:
            stage = STAGES[command]
            have(stage.writes, add(command, asked.pop(command), seed_of=stage.seed_of))

    if recipe.episodes is not None:
        episodes = add("import", recipe.episodes)
        behavior = add("fit-policy", recipe.fit_policy, episodes=episodes)
    else:
        assert recipe.collect is not None
        demonstrations = add("collect", recipe.demonstrations, "demonstrations")
        behavior = add("fit-policy", recipe.fit_policy, episodes=demonstrations)
        available["policy"] = behavior
        episodes = add("collect", recipe.collect)
    available |= {"behavior": behavior, "policy": behavior}
    have("episodes", episodes)
    have("rewards", add("label", recipe.label))
    have("proposals", add("propose", recipe.propose))
    if recipe.tune_vlm is not None:
        have("vlm", add("tune-vlm", recipe.tune_vlm))
    have("features", add("featurize", recipe.featurize))
    have("critic", add("train-q", recipe.train_q))
    policies, arm_of = {"behavior": behavior}, dict[str, str]()
    stranger = next((arm for arm in recipe.agents if arm not in recipe.distill), None)
    if stranger is not None:
        raise ConfigError(
            f"recipe: agents.{stranger} is not an arm of distill ({', '.join(recipe.distill) or 'which has none'})."
        )
    default = recipe.evaluate.agent if recipe.evaluate else AgentConfig()
    for arm, config in recipe.distill.items():
        ranks = isinstance(config.chosen, Ranks)
        if ranks and "features" in config.reads:
            _check_support(f"{arm}.{config.choice}", recipe.featurize.support, config.chosen.support)
        policies[arm] = add("distill", config, f"policy/{arm}")
        if ranks and "critic" in config.reads:
            further = _further_rounds(recipe, arm, config, policies[arm], add)
            policies |= further
            arm_of |= dict.fromkeys(further, arm)
        if recipe.q_metrics is not None and ranks and "critic" in config.reads:
            agent = recipe.agents.get(arm, default)
            q_metrics = dataclasses.replace(recipe.q_metrics, agent=agent)
            add("q-metrics", q_metrics, f"q_metrics/{arm}", policy=policies[arm])
    if recipe.evaluate is not None:
        agents = {
            arm: (policy, recipe.agents.get(arm_of.get(arm, arm), default))
            for arm, policy in policies.items()
        }
        if recipe.ceiling and recipe.evaluate.device.chosen.exact:
            agents["ceiling"] = (behavior, dataclasses.replace(default, scorer="best_values"))
        if recipe.critic_on_device:
            agents["critic"] = (behavior, dataclasses.replace(default, scorer="critic"))
        for arm, (policy, agent) in agents.items():
            config = dataclasses.replace(recipe.evaluate, arm=arm, agent=agent)
            acting = {"policy": policy} if "policy" in config.reads else {}
            # All arms run the same tasks, layouts and noise, so that they can be compared in pairs.
            add("evaluate", config, f"evaluation/{arm}", seed_of="evaluate", **acting)
    for command, config in asked.items():  # fails, naming the artefact that no stage makes
        add(command, config)
    return nodes


def _reads(command: str, config: Any) -> tuple[str, ...]:
    return (*STAGES[command].reads, *getattr(config, "reads", ()))


def _lacking(command: str, config: Any, there: Container[str]) -> list[str]:
    return [read for read in _reads(command, config) if read not in there]


def _further_rounds(
    recipe: Recipe, arm: str, config: DistillConfig, policy: Path, add: Callable[..., Path]
) -> dict[str, Path]:
    """Plans an arm's rounds after the first; returns their policies by name.

    Raises:
      ConfigError: the source of candidates asks no policy, so every round would repeat the first.
    """
    if recipe.rounds > 1 and "policy" not in recipe.propose.reads:
        raise ConfigError(
            f"recipe: rounds {recipe.rounds} needs candidates of the previous round's policy, but propose.source "
            f"'{recipe.propose.choice}' uses no policy; set it to 'policy', or rounds to 1."
        )
    found: dict[str, Path] = {}
    for number in range(2, recipe.rounds + 1):
        name = f"{arm}_round_{number}"
        proposals = add("propose", recipe.propose, f"proposals_{name}", policy=policy)
        features = add("featurize", recipe.featurize, f"features_{name}", proposals=proposals)
        # Fitted from the first round's start: only the imitated data differ, not the length of the fit.
        policy = add("distill", config, f"policy/{name}", proposals=proposals, features=features)
        found[name] = policy
    return found


def preflight(recipe: Recipe, nodes: Sequence[Node]) -> None:
    """Refuses runs that would fail later: a missing source or package, a VLM that does not open, task sets that do not
    load.

    Args:
      recipe: the recipe of the run.
      nodes: its stages that are to run.

    Raises:
      DigiQError: the run would fail; the message names the field and the fix.
    """
    if recipe.episodes is not None:
        recipe.episodes.chosen.find()
    stages = {stage.module: stage for stage in STAGES.values()}
    for node in nodes:
        stages[node.module].require(node.config)
    if recipe.vlm is not None:
        from digiq.vlm.backbone import check_model_directory

        check_model_directory(recipe.vlm)
    if "crop" in (recipe.featurize.grounding, recipe.tune_vlm.grounding if recipe.tune_vlm else ""):
        from digiq.vlm.backbone import check_crop_of

        check_crop_of(recipe.vlm or TINY_VLM_PATH)
    from digiq.agents.build import device_tasks

    for config in (recipe.demonstrations, recipe.collect, recipe.evaluate):
        if config is not None:
            device_tasks(config.tasks)


def _check_support(objective: str, read: float, taken: float) -> None:
    if read > taken:
        raise ConfigError(
            f"recipe: featurize.support {read:g} leaves out candidates that distill.{objective}.support {taken:g} "
            "would keep; lower featurize.support to at most that."
        )


def seeded(config: Any, seed: int, name: str) -> Any:
    """The config with all its seeds, nested ones too, derived from the run's, so that stages share no random numbers.

    A member (:mod:`digiq.tables`) has the seeds of the config that chooses it, whatever the member's name.
    """
    changes: dict[str, Any] = {}
    members = getattr(config, "table", ())
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.name == "seed":
            changes["seed"] = zlib.crc32(f"{seed}/{name}".encode()) & 0x7FFFFFFF
        elif dataclasses.is_dataclass(value):
            inside = name if field.name in members else f"{name}/{field.name}"
            changes[field.name] = seeded(value, seed, inside)
    if members and "own" not in config.unchosen:
        changes["own"] = to_dict(seeded(config.chosen, seed, name))
    return dataclasses.replace(config, **changes)
