"""What every source of candidates does, whatever it is; one of one's own as well. And the guide to them."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

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
from digiq.policies.base import Candidate
from digiq.policies.grid import Grid
from digiq.proposals import CANDIDATES, propose
from digiq.proposals.base import Sourced, StepInput, files_of
from digiq.proposals.propose import Coverage, join, load_proposals, supported, to_arrays
from tests.digiq.guides import follow, identity, import_example
from tests.digiq.served import Served

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


SAYS = ['{"action_type": "click", "x": %d, "y": %d}', '{"action_type": "navigate_back"}', "I am not sure."]


def answer(payload):
    seed = payload["seed"]
    text = SAYS[seed % 3]
    return text % (seed % 30, seed % 60) if "%" in text else text


@pytest.fixture(scope="module")
def served():
    with Served(answer).running() as double:
        yield double


@pytest.fixture(params=[*CANDIDATES, TOY])
def source(request, served):
    return stage_config(request.param, served).chosen


def stage_config(name, served, **fields):
    settings = {
        "endpoint": {"model": {"url": served.url, "cache": None}},
        "vlm": {"max_tokens": 1, "prompt": str(Path(__file__).with_name("goal.txt"))},
        "mix": {"parts": {"elements": {}, "policy": {}}},
    }
    chosen = {name: settings[name]} if name in settings else {}
    return load(propose.ProposeConfig, {"source": name, **chosen, **fields})


def opened(source, made):
    return source.open({name: made / name for name in source.reads})


def inputs() -> list[StepInput]:
    rng = np.random.default_rng(0)
    elements = [{"yxhw": [0.1 * k, 0.2, 0.1, 0.1]} for k in range(5)]
    offered = [{"action": str(Action.tap(0.1, 0.2 * k)), "log_prob": -1.0 - k} for k in range(4)]
    return [
        StepInput(
            rng.integers(0, 256, (64, 32, 3), np.uint8),
            "find a lamp",
            json.dumps(elements),
            json.dumps({"candidates": offered}),
            (Action.home(),),
        )
        for _ in LOGGED
    ]


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


def test_the_stage_proposes_for_every_observation_and_asks_for_what_is_read(source, made, tmp_path, served):
    config = stage_config(CANDIDATES.name_of(type(source)), served, num_candidates=3)
    read = {name: made / name for name in config.reads}
    manifest = propose.run(config, episodes=made / "episodes", **read, out=tmp_path / "p").manifest
    assert set(manifest.inputs) - {f"code {TOY}"} == {"episodes", *source.reads, *files_of(source)}
    stored = load_proposals(tmp_path / "p")
    episodes = LabelledEpisodes(made / "episodes")
    steps = [step for episode in episodes for step in episode.steps if not step.is_terminal]
    assert manifest.counts["observations"] == len(steps)
    assert manifest.counts["candidates"] == int(stored.valid.sum())
    for s, step in enumerate(steps):
        assert stored.valid[s, 0] == (step.action is not None)
        if step.action is not None:
            assert stored.action(s, 0).type == step.action.type
    if config.reads:
        with pytest.raises(DigiQError, match=f"the source '{config.source}' needs --{config.reads[0]}"):
            propose.run(config, episodes=made / "episodes", out=tmp_path / "q")


def test_draws_do_not_depend_on_how_rows_are_batched(source, made, tmp_path, monkeypatch, served):
    config = stage_config(CANDIDATES.name_of(type(source)), served, num_candidates=3)
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


def test_what_an_agent_considered_comes_with_its_probability(made):
    rows = opened(CANDIDATES["recorded"](), made).propose(
        inputs(), [Action.tap(0.1, 0.2), None, *LOGGED[2:]], 3, rngs()
    )
    assert [(c.action, c.log_prob) for c in rows[0]] == [
        (Action.tap(0.1, 0.2 * k), -1.0 - k) for k in (1, 0, 2)
    ]
    assert rows[1][0] is None and [c.log_prob for c in rows[1][1:]] == [-1.0, -2.0]


def test_elements_are_tapped_in_the_middle_and_only_where_they_can_be(made):
    boxes = [  # as devices say it, and as recordings do
        {"bounds": [0.1, 0.2, 0.2, 0.4], "clickable": True},
        {"yxhw": [0.5, 0.5, 0.1, 0.1], "clickable": False},
        {},
    ]
    seen = [StepInput(inputs()[0].screenshot, "x", json.dumps(boxes))]
    (row,) = CANDIDATES["elements"]().propose(seen, [Action.home()], 5, rngs(0))
    assert [c.action for c in row] == [Action.home(), Action.tap(0.2, 0.4)]
    (all_of_them,) = CANDIDATES["elements"](clickable_only=False).propose(seen, [None], 5, rngs(0))
    assert {c.action for c in all_of_them[1:]} == {Action.tap(0.2, 0.4), Action.tap(0.55, 0.55)}


def test_coverage_counts_what_differs_and_what_is_tapped():
    boxes = [{"bounds": [0.1, 0.1, 0.2, 0.2]}, {"bounds": [0.5, 0.5, 0.2, 0.2]}]
    covered = Coverage()
    covered.add(
        [Candidate(a, 0.0) for a in (Action.tap(0.2, 0.2), Action.tap(0.2, 0.2), Action.swipe("up"))],
        json.dumps(boxes),
    )
    covered.add([None, Candidate(Action.back(), 0.0)], "[]")
    assert covered.in_words() == (
        "propose: 1.5 different actions per state (tap 33%, swipe 33%, back 33%); 50% of 2 states have nothing to "
        "compare; taps reach 50% of the screens' elements."
    )


def test_moved_taps_stay_near_and_on_the_screen():
    rows = CANDIDATES["perturbed"](spread=0.3).propose(inputs(), LOGGED, 200, rngs())
    moved = np.array([c.action.touch_yx for c in rows[0][1:]])
    assert len(moved) == 199 and moved.min() >= 0 and moved.max() <= 1
    assert abs(np.median(moved[:, 0]) - 0.3) < 0.1 and len(rows[1]) == 1


def test_what_does_not_parse_is_counted_and_is_no_candidate(made, served, tmp_path):
    config = stage_config("endpoint", served, num_candidates=7)
    manifest = propose.run(config, episodes=made / "episodes", out=tmp_path / "p").manifest
    stored = load_proposals(tmp_path / "p")
    counts, s = manifest.counts, len(stored)
    assert (
        counts["unparsable"] > 0
        and counts["calls"] == 6 * s == counts["unparsable"] + stored.valid[:, 1:].sum()
    )
    kinds = {
        stored.action(i, n).type.name
        for i in range(s)
        for n in range(1, 7)
        if n < stored.valid.shape[1] and stored.valid[i, n]
    }
    assert kinds == {"DUAL_POINT", "PRESS_BACK"}


def test_a_local_model_knows_how_likely_what_it_says_is_and_junk_is_no_action(monkeypatch):
    """The embedded model speaks no dialect; one that takes a word of one letter for an action shows what is stored."""
    import torch

    config = load(propose.ProposeConfig, {"source": "vlm", "vlm": {"max_tokens": 3}}).chosen
    sampler = config.open({})
    rows = sampler.propose(inputs(), LOGGED, 4, rngs())
    assert [len(row) for row in rows] == [1] * len(LOGGED)  # the logged action, and nothing idle
    assert sampler.report() == {"answers": 15, "unparsable": 15}

    texts = []

    class Takes:
        manual = "Say anything."

        def parse(self, text, screen_hw):
            texts.append(text)
            return Action.type_text(text)

        def write(self, action, screen_hw):
            return "home"

    sampler.speaker.dialect = Takes()
    (row,) = sampler.propose(inputs()[:1], LOGGED[:1], 4, rngs(0))
    assert [c.action.text for c in row[1:]] == texts and all(c.log_prob < 0 for c in row[1:])
    # The same tokens through the model at once have the same log-probability.
    model, generate = sampler.speaker.model, type(sampler.speaker.model).generate
    kept = {}

    def keep(self, **inputs):
        kept["inputs"], kept["out"] = inputs, generate(self, **inputs)
        return kept["out"]

    monkeypatch.setattr(type(model), "generate", keep)
    (again,) = sampler.propose(inputs()[:1], LOGGED[:1], 4, rngs(0))
    assert [c.log_prob for c in again[1:]] == [c.log_prob for c in row[1:]]
    whole, start = kept["out"].sequences[:1], kept["inputs"]["input_ids"].shape[1]
    with torch.inference_mode():
        logits = model(input_ids=whole, pixel_values=kept["inputs"]["pixel_values"]).logits.log_softmax(-1)
    each = logits[0, start - 1 : -1].gather(1, whole[0, start:, None])[:, 0]
    each = each[whole[0, start:] != sampler.speaker.processor.tokenizer.pad_token_id]
    assert again[1].log_prob == pytest.approx(float(each.sum()), abs=1e-3)


def test_all_candidates_of_a_screen_can_be_one_call(made):
    def several(payload):
        texts = [SAYS[(payload["seed"] + k) % 3] for k in range(payload["n"])]
        texts = [text % (k, k) if "%" in text else text for k, text in enumerate(texts)]
        return 200, json.dumps({"choices": [{"message": {"content": text}} for text in texts]}).encode()

    with Served(several).running() as double:
        settings = {"model": {"url": double.url, "cache": None, "several": True}}
        source = load(propose.ProposeConfig, {"source": "endpoint", "endpoint": settings}).chosen.open({})
        rows = source.propose(inputs(), LOGGED, 7, rngs())
        assert len(double.asked) == len(LOGGED) and all(len(row) == 5 for row in rows)
        assert all(len(row) == 1 for row in source.propose(inputs(), LOGGED, 1, rngs()))


def test_a_source_that_breaks_off_keeps_what_was_said(made, tmp_path, served):
    settings = {
        "model": {"url": served.url, "cache": str(tmp_path / "cache"), "most_calls": 5, "concurrency": 1}
    }
    config = load(propose.ProposeConfig, {"source": "endpoint", "endpoint": settings, "num_candidates": 3})
    with pytest.raises(DigiQError, match="budget of 5 calls"):
        propose.run(config, episodes=made / "episodes", out=tmp_path / "p")
    assert len(list((tmp_path / "cache").rglob("*.json"))) == 5


def test_mixed_sources_take_turns_and_say_whose_a_candidate_is(made, tmp_path):
    config = load(
        propose.ProposeConfig,
        {
            "source": "mix",
            "mix": {"parts": {"policy": {"temperature": 2.0}, "elements": {}}},
            "num_candidates": 5,
        },
    )
    assert config.reads == ("policy",)
    rows = opened(config.chosen, made).propose(inputs(), LOGGED, 5, rngs())
    assert [c.source for c in rows[0]] == ["logged", "policy", "elements", "policy", "elements"]
    assert len({c.action for c in rows[0]}) == 5 and not math.isnan(rows[0][0].log_prob)
    assert math.isnan(rows[0][2].log_prob) and rows[2][0] is None
    propose.run(config, episodes=made / "episodes", policy=made / "policy", out=tmp_path / "p")
    stored = load_proposals(tmp_path / "p")
    assert (
        set(stored.sources) <= {"", "logged", "policy", "elements"}
        and stored.source_id.shape == stored.valid.shape
    )
    assert stored.sources[stored.source_id[0, 0]] == "logged"
    assert stored.at(np.array([1])).source_id.shape == (1, stored.valid.shape[1])


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({}, "no source"),
        ({"mix": {}}, "to mix"),
        ({"polcy": {}}, "to mix"),
        ({"policy": {"heat": 1}}, "mix.parts.policy"),
    ],
)
def test_a_mix_of_what_there_is_not_is_refused(parts, message):
    with pytest.raises(DigiQError, match=message):
        load(propose.ProposeConfig, {"source": "mix", "mix": {"parts": parts}}).chosen.open({})


def test_candidates_are_of_what_the_named_files_hold(made, tmp_path):
    """Not of their names: another text in the same file is another artefact, in a mix too."""
    prompt = tmp_path / "goal.txt"
    prompt.write_text("{goal} {past}")
    source = {"source": "mix", "mix": {"parts": {"vlm": {"max_tokens": 1, "prompt": str(prompt)}}}}
    config = load(propose.ProposeConfig, source | {"num_candidates": 2})
    first = propose.run(config, episodes=made / "episodes", out=tmp_path / "p")
    assert {"vlm_speaker", "vlm_template"} <= set(first.manifest.inputs)
    prompt.write_text("{goal}")
    with pytest.raises(DigiQError, match="vlm_template"):
        propose.run(config, episodes=made / "episodes", out=tmp_path / "p")


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
    _, drawn, found = said.splitlines()  # the first says what they cover
    assert set(json.loads(drawn)) == {str(Action.tap(0.5, 0.5))}
    assert found == identity(propose.ProposeConfig())


def test_batches_packed_one_by_one_are_the_rows_packed_together():
    taps = [Candidate(Action.tap(0.1 * n, 0.5), -float(n)) for n in range(4)]
    typed = [Candidate(Action.type_text(text), -1.0) for text in ("tea", "", "milk", "tea")]
    rows = [[None, *taps], typed[:2], [taps[0], None, typed[2]], [typed[3]]]
    mixed = [*rows, [Sourced(taps[1].action, -1.0, "policy"), Sourced(taps[2].action, -2.0, "elements")]]
    for whole in (rows, mixed):
        expected, found = (
            to_arrays(whole),
            join([to_arrays(whole[:1]), to_arrays(whole[1:4]), to_arrays(whole[4:])]),
        )
        for field in dataclasses.fields(expected):
            np.testing.assert_array_equal(getattr(found, field.name), getattr(expected, field.name))
