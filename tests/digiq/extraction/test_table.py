"""What every objective of extraction does, whatever it is; one of one's own as well. And the guide to them."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from android_env.actions import Action
from digiq.config import load
from digiq.data.rewards import LabelledEpisodes
from digiq.data.transitions import observation_index
from digiq.errors import ArtifactError, ConfigError, DigiQError
from digiq.extraction import EXTRACTIONS, VALUES, Ranks, States, Targets, Values
from digiq.extraction.base import check_sizes, read_states
from digiq.extraction.distill import DistillConfig, ValuesConfig, fill
from digiq.laboratory.controls import ExactValues, RandomValues
from digiq.pipeline.nodes import write_node
from digiq.pipeline.plan import plan
from digiq.pipeline.recipe import Recipe
from digiq.policies.base import Candidate
from digiq.proposals.propose import to_arrays
from tests.digiq.guides import follow, identity, import_example

import_example("guides_extraction", "class ByReturn")
TOY = "guides_extraction:ByReturn"
N, LENGTHS = 4, (3, 5, 2, 4, 6)
"""Candidates a state; actions of each episode, the even ones of which end and the others run out of steps."""


SETTINGS = {"digirl": {"trajectories": 0.4}}
"""Of members whose defaults leave a part of them out."""


@pytest.fixture(params=[*EXTRACTIONS, TOY])
def objective(request):
    settings = {request.param: SETTINGS[request.param]} if request.param in SETTINGS else {}
    return load(DistillConfig, {"objective": request.param, **settings}).chosen


def all_states(seed: int = 0) -> States:
    """States of five episodes, with everything that an objective may need; three succeed, one of them without an end."""
    rng = np.random.default_rng(seed)
    columns = {name: [] for name in ("episode", "step", "group", "reward", "total", "terminated")}
    logged: list[Action | None] = []
    rows = []
    for number, length in enumerate(LENGTHS):
        ended, won = number % 2 == 0, number in (0, 3, 4)
        for t in range(length + (not ended)):
            columns["episode"].append(number)
            columns["step"].append(t)
            columns["group"].append(number)
            columns["reward"].append(float(won and t == length - 1))
            columns["total"].append(float(won))
            columns["terminated"].append(ended)
            taps = [Action.tap(*rng.random(2)) for _ in range(N)]
            logged.append(taps[0] if t < length else None)
            probabilities = [0.5, 0.3, 0.19, 0.01]
            row = [Candidate(a, float(np.log(p))) for a, p in zip(taps, probabilities, strict=True)]
            rows.append([None, *row[1:]] if logged[-1] is None else row)
    proposals = to_arrays(rows)
    q = rng.normal(size=proposals.valid.shape).astype(np.float32)
    q[~proposals.valid] = np.nan
    q[::4, 1] = np.nan  # as what features leave out
    values = Values(
        q=q, v=rng.normal(size=len(q)).astype(np.float32), baseline="v", discount=0.9, bootstraps=True,
        deviation=rng.random(q.shape, np.float32),
    )  # fmt: skip
    arrays = {name: np.array(column) for name, column in columns.items()}
    return States(**arrays, logged=tuple(logged), proposals=proposals, values=values)


def with_needs_only(states: States, needs: frozenset[str]) -> States:
    """What :func:`digiq.extraction.distill.fill` gives: nothing that was not asked for."""
    values = states.values if needs & {"q", "v"} else None
    if values is not None and "q" not in needs:
        values = dataclasses.replace(values, q=None)
    if values is not None and "members" not in needs:
        values = dataclasses.replace(values, deviation=None)
    proposals = states.proposals if needs & {"proposals", "q"} else None
    return dataclasses.replace(states, proposals=proposals, values=values)


def select(objective, states: States) -> Targets:
    return objective.select(with_needs_only(states, objective.needs), np.random.default_rng(5))


def imitated(states: States, targets: Targets) -> list:
    rows = zip(targets.row, targets.action, targets.weight, strict=True)
    return sorted((int(states.episode[r]), int(states.step[r]), str(a), float(w)) for r, a, w in rows)


def test_it_reads_what_it_needs_and_nothing_else(objective):
    assert objective.needs <= {"proposals", "q", "v", "members"}
    targets = select(objective, all_states())
    assert len(targets.row) == len(targets.action) == len(targets.weight) > 0
    assert json.loads(json.dumps(targets.report)) == targets.report


def test_it_imitates_candidates_and_logged_actions_of_the_state_with_finite_weights(objective):
    states = all_states()
    targets = select(objective, states)
    assert targets.row.min() >= 0 and targets.row.max() < len(states)
    assert len(np.unique(targets.row)) <= targets.considered <= len(states)
    assert np.isfinite(targets.weight).all() and (targets.weight >= 0).all()
    for row, action in zip(targets.row, targets.action, strict=True):
        valid = np.flatnonzero(states.proposals.valid[row])
        offered = [states.proposals.action(int(row), int(n)) for n in valid]
        assert action in [a for a in (states.logged[row], *offered) if a is not None]
        if "q" in objective.needs:  # where Q is not known, nothing is known to be good
            assert not np.isnan(states.values.q[row, valid[offered.index(action)]])


def test_the_same_states_and_seed_give_the_same_targets_and_states_stay_as_they_are(objective):
    states, again = all_states(), all_states()
    one, other = select(objective, states), select(objective, states)
    assert imitated(states, one) == imitated(states, other) and one.report == other.report
    np.testing.assert_array_equal(states.values.q, again.values.q)
    np.testing.assert_array_equal(states.total, again.total)


def test_the_order_of_episodes_does_not_matter(objective):
    states = all_states()
    backwards = [np.flatnonzero(states.episode == number) for number in reversed(range(len(LENGTHS)))]
    order = np.concatenate(backwards)
    turned = states.where(np.ones(len(states), bool))
    changes = {
        name: getattr(states, name)[order] for name in ("step", "group", "reward", "total", "terminated")
    }
    changes |= {
        "episode": len(LENGTHS) - 1 - states.episode[order],
        "logged": tuple(states.logged[row] for row in order),
        "proposals": states.proposals.at(order),
        "values": dataclasses.replace(
            states.values,
            **{name: getattr(states.values, name)[order] for name in ("q", "v", "deviation")},
        ),
    }
    turned = dataclasses.replace(turned, **changes)
    targets = select(objective, turned)
    named = [(len(LENGTHS) - 1 - e, *rest) for e, *rest in imitated(turned, targets)]
    assert sorted(named) == imitated(states, select(objective, states))


def test_states_left_out_are_not_imitated_and_the_others_keep_what_is_known_of_them(objective):
    states = all_states()
    some = states.where(np.isin(states.episode, [0, 3]))
    targets = select(objective, some)
    assert set(some.episode[targets.row]) <= {0, 3}
    row = np.flatnonzero(states.episode == 3)[0]
    here = np.flatnonzero(some.episode == 3)[0]
    np.testing.assert_array_equal(states.values.q[row], some.values.q[here])
    assert states.proposals.action(int(row), 2) == some.proposals.action(int(here), 2)


@pytest.mark.parametrize("name", [name for name in EXTRACTIONS if hasattr(EXTRACTIONS[name], "choose")])
def test_what_ranks_takes_one_supported_candidate_where_it_is_good_enough(name):
    objective = EXTRACTIONS[name]()
    assert isinstance(objective, Ranks)
    states = all_states()
    chosen, targets = objective.choose(states), select(objective, states)
    np.testing.assert_array_equal(np.flatnonzero(chosen.keep), targets.row)
    taken = [states.proposals.action(int(r), int(chosen.choice[r])) for r in targets.row]
    assert taken == targets.action
    assert (chosen.advantage[chosen.keep] > chosen.threshold).all()
    likely = np.exp(states.proposals.log_prob[targets.row, chosen.choice[targets.row]]) / 0.5
    assert (likely >= objective.support).all() and targets.report["threshold"] == chosen.threshold


def test_it_is_distilled_from_a_real_run(objective, run, tmp_path, monkeypatch):
    """The stage gives each what it asks for, and records what it was and what it kept."""
    from digiq.extraction import distill

    monkeypatch.setattr(
        "digiq.policies.grid.GridPolicy.fit", lambda policy, rows, *_, **__: (list(rows), policy)[1]
    )
    name = EXTRACTIONS.name_of(type(objective))
    settings = {"digirl": {"threshold": -9.0}}.get(name, {})
    mapping = {"objective": name, "values": {"source": "digiq.laboratory.controls:RandomValues"}}
    config = load(DistillConfig, {**mapping, **({name: settings} if name in EXTRACTIONS else {})})
    inputs = {key: run[key] for key in ("behavior", "episodes", "rewards", "proposals")}
    made = distill.run(config, **inputs, out=tmp_path / "p").manifest
    assert made.extra["arm"] == name and made.extra["needs"] == sorted(objective.needs)
    assert 0 < made.counts["selected"] <= made.counts["considered"]
    assert made.extra["kl_to_behavior"] == pytest.approx(0, abs=1e-5) and made.extra["entropy"] > 0
    assert ("proposals" in made.inputs) == bool(objective.needs & {"proposals", "q"})
    if config.reads:
        with pytest.raises(DigiQError, match=f"the objective '{name}' needs --{config.reads[0]}"):
            distill.run(config, **{k: v for k, v in inputs.items() if k != "proposals"}, out=tmp_path / "q")


def test_states_are_those_of_the_observation_index(run):
    store = LabelledEpisodes(run["episodes"], run["rewards"])
    states, splits = read_states(store)
    np.testing.assert_array_equal(np.stack([states.episode, states.step], 1), observation_index(store))
    steps = [store[e].steps[t] for e, t in zip(states.episode, states.step, strict=True)]
    assert states.logged == tuple(step.action for step in steps)
    assert set(splits) == {"train"}
    for number, episode in enumerate(store):
        of_episode = states.episode == number
        assert set(states.total[of_episode]) == {episode.total_reward}
        assert states.reward[of_episode & states.acted].sum() == pytest.approx(episode.total_reward)


@pytest.mark.parametrize(
    ("settings", "reads"),
    [
        ({}, ("proposals", "features", "critic")),
        ({"objective": "digirl"}, ("features", "critic")),
        ({"objective": "filtered_bc"}, ()),
        ({"values": {"source": "digiq.laboratory.controls:ExactValues"}}, ("proposals", "exact")),
        ({"values": {"source": "digiq.laboratory.controls:RandomValues"}}, ("proposals",)),
        ({"objective": TOY, "values": {"source": "digiq.laboratory.controls:ExactValues"}}, ()),
        ({"objective": "digirl", "values": {"source": "digiq.laboratory.controls:ExactValues"}}, ("exact",)),
    ],
)
def test_a_config_says_what_is_read_for_every_objective_and_source(settings, reads):
    assert load(DistillConfig, settings).reads == reads


@pytest.mark.parametrize("source", [RandomValues(), *(VALUES[name]() for name in VALUES), ExactValues()])
def test_sources_say_what_they_read_and_users_configs_list_no_control(source):
    assert set(source.reads) <= {"features", "critic", "exact"}
    controls = (RandomValues, ExactValues)
    fields = {field.name for field in dataclasses.fields(ValuesConfig)}
    assert (VALUES.name_of(type(source)) in fields) is not isinstance(source, controls)


def test_random_values_are_of_the_seed_and_know_nothing():
    states = all_states()
    one, same, other = (
        fill(dataclasses.replace(states, values=None), frozenset({"v"}), RandomValues(), {}, seed)
        for seed in (1, 1, 2)
    )
    assert one.values.q is None and set(one.values.v) == {0.5}
    drawn = [RandomValues().read(states, frozenset({"q"}), {}, seed).q for seed in (1, 1, 2)]
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert (drawn[0] != drawn[2]).any() and same is not other


def test_artefacts_of_other_states_are_refused(tmp_path):
    check_sizes({tmp_path: 7}, 7)
    with pytest.raises(ArtifactError, match="has 6 observations, the episodes 7; name artefacts of one run"):
        check_sizes({tmp_path: 6}, 7)


def test_a_recipes_arm_may_have_an_objective_of_ones_own(tmp_path):
    arms = {"mine": {"objective": TOY, "own": {"least": 0.5}}, "by_q": {}}
    recipe = load(Recipe, {"episodes": {}, "distill": arms, "exact": {}, "q_metrics": {}})
    nodes = {node.name: node for node in plan(recipe)}
    assert set(nodes["policy/mine"].inputs) == {"episodes", "rewards", "behavior"}
    assert "q_metrics/by_q" in nodes and "q_metrics/mine" not in nodes
    # A stage that opens what the arm wrote finds the name in an artefact, but may import what the recipe named.
    write_node(nodes["q_metrics/by_q"], tmp_path / "node.json")
    assert TOY in json.loads((tmp_path / "node.json").read_text())["code"]
    with pytest.raises(ConfigError, match="unknown objective 'best_of'; did you mean 'best_of_n'"):
        load(Recipe, {"distill": {"mine": {"objective": "best_of"}}})


FOLLOWED = """
    import json
    from pathlib import Path
    import sys
    from digiq.config import load
    from digiq.extraction.distill import DistillConfig, run
    from digiq.policies.grid import GridPolicy
    GridPolicy.fit = lambda policy, rows, *_, **__: (list(rows), policy)[1]  # it takes long to compile
    made, out = json.loads(sys.argv[1]), Path(sys.argv[2])
    config = load(DistillConfig, {"objective": "by_return", "by_return": {"least": 0.5}})
    inputs = {name: Path(made[name]) for name in ("behavior", "episodes", "rewards")}
    print(json.dumps(run(config, **inputs, out=out).manifest.extra))
    from tests.digiq.guides import identity
    print(identity(DistillConfig()))
"""


def test_the_contributors_guide_to_objectives_of_extraction_works_as_it_stands(tmp_path, run):
    """Its file and its line, added to a copy of the folder, distil a policy by that name; others are what they were."""
    paths = json.dumps({name: str(path) for name, path in run.items()})
    said = follow(
        "digiq.extraction", "EXTRACTIONS", "class ByReturn", FOLLOWED, tmp_path, paths, tmp_path / "policy"
    )
    extra, found = said.splitlines()
    assert json.loads(extra)["arm"] == "by_return" and json.loads(extra)["mean_return"] == 1.0
    assert found == identity(DistillConfig())
