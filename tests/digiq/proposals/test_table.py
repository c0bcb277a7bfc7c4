"""What every source of candidates does, whatever it is; one of one's own as well. And the guide to them."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from android_env.actions import Action
from digiq.agents import collect
from digiq.agents.build import AgentConfig
from digiq.config import load
from digiq.data.rewards import LabelledEpisodes
from digiq.errors import DigiQError
from digiq.extraction.best_of_n import BestOfN, best_of_n
from digiq.laboratory.q_metrics import support_of
from digiq.policies.base import PolicyInput
from digiq.policies.grid import Grid
from digiq.proposals import CANDIDATES, propose
from digiq.proposals.propose import load_proposals, supported, to_arrays
from tests.digiq.guides import follow, identity, import_example

import_example("guides_proposals", "class Anywhere")
TOY = "guides_proposals:Anywhere"
LOGGED = [Action.tap(0.3, 0.4), Action.back(), None, Action.type_text("not in the goal"), Action.home()]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A policy and episodes, one of which runs out of steps."""
    root = tmp_path_factory.mktemp("made")
    (root / "policy").mkdir()
    small = Grid(input_height=64, input_width=32, width=8, word_buckets=64, speller_width=4)
    small.create(0).save(root / "policy")
    agent = AgentConfig(kind="homesick")  # it never gets anywhere
    collect.run(collect.CollectConfig(agent=agent, num_episodes=2, seed=1), out=root / "episodes")
    return root


@pytest.fixture(params=[*CANDIDATES, TOY])
def source(request):
    return propose.ProposeConfig(source=request.param).chosen


def opened(source, made):
    return source.open({name: made / name for name in source.reads})


def inputs() -> list[PolicyInput]:
    rng = np.random.default_rng(0)
    return [PolicyInput(rng.integers(0, 256, (64, 32, 3), np.uint8), "find a lamp") for _ in LOGGED]


def rngs(*rows: int):
    return [np.random.default_rng([7, row]) for row in rows or range(len(LOGGED))]


@pytest.mark.parametrize("n", [1, 4])
def test_the_logged_action_comes_first_and_there_are_no_more_than_asked_for(source, made, n):
    assert set(source.reads) <= {"policy"}
    rows = opened(source, made).propose(inputs(), LOGGED, n, rngs())
    assert [row[0] and row[0].action for row in rows] == LOGGED
    assert all(1 <= len(row) <= n and None not in row[1:] for row in rows)


def test_probabilities_are_such_or_unknown(source, made):
    candidates = [c for row in opened(source, made).propose(inputs(), LOGGED, 5, rngs()) for c in row if c]
    assert all(math.isnan(c.log_prob) or c.log_prob <= 1e-5 for c in candidates)
    assert all(isinstance(c.log_prob, float) for c in candidates)


def test_candidates_of_an_observation_depend_on_its_own_generator_alone(source, made):
    candidates = opened(source, made)
    together = candidates.propose(inputs(), LOGGED, 6, rngs())
    alone = candidates.propose(inputs()[3:], LOGGED[3:], 6, rngs(3, 4))
    assert [[c and c.action for c in row] for row in together[3:]] == [
        [c.action for c in row] for row in alone
    ]


def test_the_arrays_hold_what_was_proposed(source, made):
    rows = opened(source, made).propose(inputs(), LOGGED, 4, rngs())
    arrays = to_arrays(rows)
    assert arrays.valid.shape == (len(LOGGED), max(map(len, rows)))
    some = arrays.at(np.array([4, 1]))
    for s, row in enumerate(rows):
        assert arrays.valid[s].sum() == sum(c is not None for c in row)
        for n, c in enumerate(row):
            if c is not None:
                assert arrays.action(s, n).type == c.action.type and arrays.action(s, n).text == c.action.text
                assert arrays.action(s, n).touch_yx == pytest.approx(c.action.touch_yx)
                np.testing.assert_equal(arrays.log_prob[s, n], np.float32(c.log_prob))
    assert some.action(1, 0) == arrays.action(1, 0) and some.action(0, 0) == arrays.action(4, 0)


def test_the_stage_proposes_for_every_observation_and_asks_for_what_is_read(source, made, tmp_path):
    config = propose.ProposeConfig(source=CANDIDATES.name_of(type(source)), num_candidates=3)
    read = {name: made / name for name in config.reads}
    manifest = propose.run(config, episodes=made / "episodes", **read, out=tmp_path / "p").manifest
    assert set(manifest.inputs) - {f"code {TOY}"} == {"episodes", *source.reads}
    stored = load_proposals(tmp_path / "p")
    episodes = LabelledEpisodes(made / "episodes")
    steps = [step for episode in episodes for step in episode.steps if not step.is_terminal]
    assert manifest.counts == {"observations": len(steps), "candidates": int(stored.valid.sum())}
    for s, step in enumerate(steps):
        assert stored.valid[s, 0] == (step.action is not None)
        if step.action is not None:
            assert stored.action(s, 0).type == step.action.type
    if config.reads:
        with pytest.raises(DigiQError, match=f"the source '{config.source}' needs --{config.reads[0]}"):
            propose.run(config, episodes=made / "episodes", out=tmp_path / "q")


def test_draws_do_not_depend_on_how_rows_are_batched(source, made, tmp_path, monkeypatch):
    config = propose.ProposeConfig(source=CANDIDATES.name_of(type(source)), num_candidates=3)
    read = {name: made / name for name in config.reads}
    found = []
    for size in (256, 7):
        monkeypatch.setattr(propose, "_BATCH", size)
        propose.run(config, episodes=made / "episodes", **read, out=tmp_path / str(size))
        found.append(load_proposals(tmp_path / str(size)))
    np.testing.assert_array_equal(found[0].action_type, found[1].action_type)
    np.testing.assert_allclose(found[0].touch_yx, found[1].touch_yx, atol=1e-5)


def test_what_needs_probabilities_says_so_where_there_are_none(made):
    rows = CANDIDATES["logged"]().propose(inputs(), LOGGED, 4, rngs())
    stored = to_arrays(rows)
    q, v = np.ones(stored.valid.shape, np.float32), np.zeros(len(rows), np.float32)
    message = "best_of_n.support.*propose.source 'policy'"
    with pytest.raises(DigiQError, match=message):
        supported(stored.log_prob, stored.valid, 0.1, any_n=True)
    with pytest.raises(DigiQError, match=message):
        best_of_n(q, v, stored.valid, BestOfN(), stored.log_prob)
    every = best_of_n(q, v, stored.valid, BestOfN(support=0.0, threshold_mode="absolute"), stored.log_prob)
    assert every.choice.tolist() == [0, 0, -1, 0, 0]
    told = support_of(stored.log_prob, stored.valid, every.choice, every.keep)
    assert told == {"kept": 1.0, "logged": 1.0, "likelihood": None}


def test_recipes_choose_the_source_and_it_says_what_is_read():
    from digiq.pipeline.plan import plan
    from digiq.pipeline.recipe import Recipe

    def read(**settings) -> set[str]:
        recipe = load(Recipe, {"episodes": {}, "propose": settings})
        return set(next(node for node in plan(recipe) if node.name == "proposals").inputs)

    assert read() == {"episodes", "rewards", "policy"}
    assert read(source="logged") == read(source=TOY, own={"cells": 3}) == {"episodes", "rewards"}


FOLLOWED = """
    import json
    from pathlib import Path
    import sys
    from digiq.config import load
    from digiq.proposals.propose import ProposeConfig, load_proposals, run
    config = load(ProposeConfig, {"source": "anywhere", "anywhere": {"cells": 1}, "num_candidates": 3})
    run(config, episodes=Path(sys.argv[1]), out=Path(sys.argv[2]))
    stored = load_proposals(sys.argv[2])
    print(json.dumps([str(stored.action(s, n)) for s in range(len(stored)) for n in (1, 2)]))
    from tests.digiq.guides import identity
    print(identity(ProposeConfig()))
"""


def test_the_contributors_guide_to_sources_works_as_it_stands(made, tmp_path):
    """Its file and its line, added to a copy of the folder, propose by that name; others are what they were."""
    said = follow(
        "digiq.proposals",
        "CANDIDATES",
        "class Anywhere",
        FOLLOWED,
        tmp_path,
        made / "episodes",
        tmp_path / "p",
    )
    drawn, found = said.splitlines()
    assert set(json.loads(drawn)) == {str(Action.tap(0.5, 0.5))}
    assert found == identity(propose.ProposeConfig())
