"""The graph of stages: what runs, on what, under which seed; what is refused before it starts."""

import dataclasses
import zlib

import jax
import pytest

from digiq.agents.collect import CollectConfig
from digiq.config import load, load_yaml, to_dict
from digiq.critics.heads import Heads
from digiq.data.import_episodes import ImportConfig
from digiq.data.label import LabelConfig
from digiq.errors import ConfigError, DigiQError
from digiq.evaluation.evaluate_agent import EvaluateAgentConfig
from digiq.laboratory.card import CardConfig
from digiq.pipeline.plan import plan, preflight
from digiq.pipeline.recipe import Recipe
from digiq.pipeline.stages import STAGES
from digiq.proposals.propose import ProposeConfig

QUICKSTART = load_yaml(Recipe, "configs/quickstart.yaml")
AITW = load_yaml(Recipe, "configs/aitw_sample.yaml")


def test_the_quickstart_runs_every_stage_in_order():
    assert [node.name for node in plan(QUICKSTART)] == [
        "demonstrations",
        "behavior",
        "episodes",
        "rewards",
        "proposals",
        "vlm",
        "features",
        "critic",
        "policy/filtered_bc",
        "policy/digiq",
        "evaluation/behavior",
        "evaluation/filtered_bc",
        "evaluation/digiq",
        "evaluation/ceiling",
    ]


@pytest.mark.parametrize(("name", "threshold"), [("general", 0.1), ("webshop", 0.05)])
def test_the_papers_recipes_are_the_papers(name, threshold):
    recipe = load_yaml(Recipe, f"configs/paper_{name}.yaml")
    critic, extraction = recipe.train_q.critic, recipe.distill["digiq"].best_of_n
    assert (critic.timeout, critic.aggregate, critic.tau) == ("terminal", "max", 0.1)
    assert critic.epochs * critic.steps_per_epoch == 800
    assert (extraction.threshold, extraction.support, extraction.candidates) == (threshold, 0, 16)
    params = jax.eval_shape(lambda key: Heads(critic.heads).init(key, 5120, 5632), jax.random.PRNGKey(0))
    assert 416e6 < sum(leaf.size for leaf in jax.tree.leaves(params)) < 418e6  # upstream's inputs and size
    assert [node.name for node in plan(recipe) if node.name.startswith("policy/")] == [
        "policy/filtered_bc",
        "policy/digirl",
        "policy/digiq",
    ]


def test_every_input_is_made_before_it_is_read():
    for recipe in (QUICKSTART, AITW):
        made = set()
        for node in plan(recipe):
            for path in node.inputs.values():
                inside = recipe.directory in path.parents
                assert not inside or path in made, f"{node.name} reads {path} before it is made"
            made.add(node.out)


def test_filtered_bc_reads_no_critic():
    inputs = {node.name: set(node.inputs) for node in plan(QUICKSTART)}
    assert not inputs["policy/filtered_bc"] & {"critic", "features", "proposals"}
    assert {"critic", "features", "proposals"} <= inputs["policy/digiq"]


def test_a_second_round_draws_from_the_first_rounds_policy_and_asks_the_same_critic():
    nodes = {node.name: node for node in plan(dataclasses.replace(QUICKSTART, rounds=2))}
    first = [node.name for node in plan(QUICKSTART)]
    assert [name for name in nodes if name not in first] == [
        "proposals_digiq_round_2",
        "features_digiq_round_2",
        "policy/digiq_round_2",
        "evaluation/digiq_round_2",
    ], "filtered BC ranks nothing, so it has one"
    again, before = nodes["policy/digiq_round_2"], nodes["policy/digiq"]
    assert nodes["proposals_digiq_round_2"].inputs["policy"] == before.out
    assert nodes["features_digiq_round_2"].inputs["proposals"] == nodes["proposals_digiq_round_2"].out
    made = {
        "proposals": nodes["proposals_digiq_round_2"].out,
        "features": nodes["features_digiq_round_2"].out,
    }
    assert again.inputs == before.inputs | made
    assert nodes["evaluation/digiq_round_2"].inputs["policy"] == again.out
    assert nodes["proposals_digiq_round_2"].config.seed != nodes["proposals"].config.seed
    perturbed = dataclasses.replace(QUICKSTART.propose, source="perturbed")
    with pytest.raises(
        ConfigError, match=r"rounds 2 needs candidates of the previous .* 'perturbed' uses no policy"
    ):
        plan(dataclasses.replace(QUICKSTART, propose=perturbed, rounds=2))


def test_an_agent_with_the_runs_critic_is_planned_after_it_and_plays_the_arms_episodes():
    agent = load(EvaluateAgentConfig, {"proposer": "policy", "episodes": 6})
    nodes = plan(dataclasses.replace(QUICKSTART, evaluate_agent=agent))
    by_name = {node.name: node for node in nodes}
    planned = by_name["agent_evaluation"]
    assert list(planned.inputs) == ["policy", "critic", "features", "vlm"]
    assert nodes.index(planned) > nodes.index(by_name["critic"])
    assert planned.config.seed == by_name["evaluation/digiq"].config.seed
    # One that reads nothing needs no critic, and is played all the same.
    bare = load(
        EvaluateAgentConfig,
        {"proposer": "endpoint", "endpoint": {"model": {"url": "http://127.0.0.1:1"}}, "rerank": False},
    )
    nodes = plan(dataclasses.replace(QUICKSTART, evaluate_agent=bare))
    assert [node.inputs for node in nodes if node.name == "agent_evaluation"] == [{}]


def test_candidates_of_a_local_vlm_are_planned_from_the_recipe(tmp_path):
    source = {"source": "vlm", "vlm": {"model": str(tmp_path)}}
    recipe = dataclasses.replace(QUICKSTART, propose=load(ProposeConfig, source))
    (node,) = (node for node in plan(recipe) if node.name == "proposals")
    assert set(node.inputs) == {"episodes", "rewards"} and node.config.chosen.model == tmp_path


def test_a_section_that_reads_what_no_stage_makes_is_refused(monkeypatch):
    waits = dataclasses.replace(STAGES["card"], reads=("episodes", "nothing"))
    monkeypatch.setitem(STAGES, "card", waits)
    with pytest.raises(ConfigError, match="card reads 'nothing'"):
        plan(dataclasses.replace(QUICKSTART, card=load(CardConfig, {})))


def test_seeds_differ_by_stage_and_by_run_but_not_by_evaluated_arm():
    def seeds(recipe):
        return {n.name: n.config.seed for n in plan(recipe) if hasattr(n.config, "seed")}

    zero, seven = seeds(QUICKSTART), seeds(dataclasses.replace(QUICKSTART, seed=7))
    evaluations = {seed for name, seed in zero.items() if name.startswith("evaluation/")}
    others = [seed for name, seed in zero.items() if not name.startswith("evaluation/")]
    assert len(evaluations) == 1
    assert len(set(others)) == len(others)
    assert all(zero[name] != seven[name] for name in zero)

    def fitting(recipe):
        return [n.config.fit.seed for n in plan(recipe) if hasattr(n.config, "fit")]

    assert (
        len({*fitting(QUICKSTART), *fitting(dataclasses.replace(QUICKSTART, seed=7))}) == 6
    )  # nested ones too


@pytest.mark.parametrize("source", ["other_goals", "digiq.laboratory.controls:ShuffledOutcomes"])
def test_a_member_has_the_seed_of_what_chooses_it(source):
    """So that settings may move into a member's section and no number moves with them."""
    recipe = dataclasses.replace(QUICKSTART, seed=3, label=load(LabelConfig, {"source": source}))
    (node,) = (node for node in plan(recipe) if node.name == "rewards")
    assert node.config.chosen.seed == zlib.crc32(b"3/rewards") & 0x7FFFFFFF


def test_the_ceiling_chooses_among_the_behaviour_policys_candidates_by_truth():
    node = plan(QUICKSTART)[-1]
    assert node.inputs == {"policy": Recipe(name="quickstart").directory / "behavior"}
    assert (node.config.agent.scorer, node.config.agent.num_candidates) == ("best_values", 8)
    assert "evaluation/ceiling" not in [n.name for n in plan(dataclasses.replace(QUICKSTART, ceiling=False))]


def test_the_critic_can_choose_on_the_device_what_the_ceiling_chooses_by_truth():
    *_, ceiling, critic = plan(dataclasses.replace(QUICKSTART, critic_on_device=True))
    assert list(critic.inputs) == ["policy", "critic", "features", "vlm"]
    assert critic.config == dataclasses.replace(
        ceiling.config, arm="critic", agent=dataclasses.replace(ceiling.config.agent, scorer="critic")
    )


def test_an_arm_acts_as_the_recipe_says_and_the_others_as_where_it_is_evaluated():
    wanted = {"agents": {"digiq": {"temperature": 1.4}}, "exact": {}, "q_metrics": {"rollouts": 3}}
    recipe = load(Recipe, to_dict(QUICKSTART) | wanted)
    of = {node.name: node.config for node in plan(recipe)}
    assert of["evaluation/digiq"].agent.temperature == of["q_metrics/digiq"].agent.temperature == 1.4
    for arm in ("behavior", "filtered_bc", "ceiling"):
        assert of[f"evaluation/{arm}"].agent.temperature == 1.0
    lost = dataclasses.replace(recipe, agents={"digi": recipe.agents["digiq"]})
    with pytest.raises(ConfigError, match=r"agents\.digi is not an arm of distill \(filtered_bc, digiq\)"):
        plan(lost)


def test_features_must_hold_what_best_of_n_would_take():
    read = dataclasses.replace(QUICKSTART, featurize=dataclasses.replace(QUICKSTART.featurize, support=0.1))
    assert plan(read)
    more = dataclasses.replace(read, featurize=dataclasses.replace(read.featurize, support=0.2))
    with pytest.raises(ConfigError, match=r"featurize.support 0.2 leaves out candidates that distill.digiq"):
        plan(more)


def test_a_source_of_episodes_is_needed_and_only_one():
    with pytest.raises(ConfigError, match="either 'episodes'"):
        plan(Recipe())
    with pytest.raises(ConfigError, match="either 'episodes'"):
        plan(Recipe(episodes=ImportConfig(), collect=CollectConfig()))
    with pytest.raises(ConfigError, match="needs 'demonstrations'"):
        plan(Recipe(collect=CollectConfig()))


def test_preflight_refuses_before_anything_starts(tmp_path):
    with pytest.raises(DigiQError, match="no such directory"):
        preflight(load(Recipe, {"episodes": {"aitw": {"source": str(tmp_path / "nowhere")}}}), ())
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    with pytest.raises(DigiQError, match="no processor"):
        preflight(dataclasses.replace(QUICKSTART, vlm=model), ())
    empty = tmp_path / "tasks.json"
    empty.write_text("[]")
    bad = dataclasses.replace(QUICKSTART.collect, tasks=str(empty))
    with pytest.raises(DigiQError, match="tasks"):
        preflight(dataclasses.replace(QUICKSTART, collect=bad), ())


def test_names_cannot_leave_the_output_directory():
    with pytest.raises(ConfigError, match="name"):
        load(Recipe, {"name": "../elsewhere"})
