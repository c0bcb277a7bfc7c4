import collections
import dataclasses
import json

import jax
import numpy as np
import pytest

from android_env.actions import Action, ActionType
from digiq.artifacts import write_checksums
from digiq.errors import ArtifactError
from digiq.policies.base import PolicyInput, load_policy
from digiq.policies.distribution import cell_of
from digiq.policies.grid import Grid, GridPolicy

CONFIG = Grid(
    input_height=32,
    input_width=32,
    width=16,
    layers=1,
    goal_words=8,
    word_buckets=64,
    max_text=4,
    speller_width=8,
)
GOAL = "find the lamp and the bed"


def make_policy(spells: bool, scale: float = 1.0) -> GridPolicy:
    fresh = CONFIG.create(seed=1)
    params = jax.tree.map(lambda x: np.asarray(x) * scale, fresh.params)
    if spells:
        params["speller"]["output_bias"] = np.where(np.isin(np.arange(256), [0, 97, 98]), 0.0, -40.0)
    return GridPolicy(CONFIG, params, spells)


def screen(seed: int, hw: tuple[int, int] = (32, 32)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*hw, 3), dtype=np.uint8)


@pytest.mark.parametrize(("spells", "temperature"), [(False, 1.0), (True, 1.7)])
def test_log_probabilities_match_frequencies(spells, temperature):
    policy, count = make_policy(spells), 20_000
    item = PolicyInput(screen(0), GOAL)
    (drawn,) = policy.sample([item], count, np.random.default_rng(0), temperature)
    seen = collections.Counter(c.action for c in drawn)
    claimed = {c.action: np.exp(c.log_prob) for c in drawn}
    again = policy.log_prob([item] * 50, [c.action for c in drawn[:50]], temperature)
    np.testing.assert_allclose(again, [c.log_prob for c in drawn[:50]], rtol=1e-5)
    assert {a.type for a in seen} >= {ActionType.TYPE, ActionType.DUAL_POINT, ActionType.PRESS_BACK}
    for action, p in claimed.items():
        assert abs(seen[action] / count - p) < 5 * np.sqrt(p / count) + 1e-3, action


@pytest.mark.parametrize("spells", [False, True])
def test_support_is_distinct_sorted_exact_and_covers(spells):
    policy = make_policy(spells)
    items = [PolicyInput(screen(seed), GOAL) for seed in range(2)]
    for item, row in zip(items, policy.support(items, 400), strict=True):
        actions, probabilities = zip(*row, strict=True)
        assert len(set(actions)) == len(actions)
        assert list(probabilities) == sorted(probabilities, reverse=True)
        # Up to four letters of two: all 31 spelled texts are within 400 actions, so nothing is left out.
        assert sum(probabilities) == pytest.approx(1.0, abs=1e-4)
        exact = policy.log_prob([item] * len(actions), actions)
        np.testing.assert_allclose(np.exp(exact), probabilities, rtol=1e-5)
    short = policy.support(items[:1], 5)[0]
    assert short == policy.support(items[:1], 400)[0][:5]


def test_a_repeated_word_is_one_text_with_the_mass_of_both_spans():
    policy = make_policy(spells=False)
    row = policy.support([PolicyInput(screen(0), GOAL)], 400)[0]
    texts = [a.text for a, _ in row if a.type == ActionType.TYPE]
    assert texts.count("the") == 1 and len(texts) == len(set(texts)) == 20  # 21 spans, "the" twice


def test_rows_do_not_depend_on_their_neighbours():
    policy = make_policy(spells=True)
    items = [PolicyInput(screen(seed), GOAL) for seed in range(40)]

    def rngs():
        return [np.random.default_rng(seed) for seed in range(40)]

    together = policy.sample(items, 3, rngs())
    assert together == policy.sample(items, 3, rngs())
    for row, alone in zip(together[37:], policy.sample(items[37:], 3, rngs()[37:]), strict=True):
        assert [c.action.type for c in row] == [c.action.type for c in alone]
        np.testing.assert_allclose([c.log_prob for c in row], [c.log_prob for c in alone], rtol=1e-5)


def test_a_tap_is_in_its_cell_and_keeps_its_probability():
    policy = make_policy(spells=False)
    item = PolicyInput(screen(3), GOAL)
    taps = [(a, p) for a, p in policy.support([item], 400)[0] if a.is_tap]
    assert len(taps) == 16
    cells = {(int(a.touch_yx[0] * 4), int(a.touch_yx[1] * 4)) for a, _ in taps}
    assert len(cells) == 16
    action, p = taps[0]
    row, column = (int(v * 4) for v in action.touch_yx)
    elsewhere = Action.tap((row + 0.5) / 4, (column + 0.5) / 4)
    assert np.exp(policy.log_prob([item], [elsewhere])[0]) == pytest.approx(p, rel=1e-5)


def test_what_it_cannot_do_has_no_probability():
    policy = make_policy(spells=False)
    item = PolicyInput(screen(0), GOAL)
    actions = [Action(ActionType.WAIT), Action.type_text("not in the goal"), Action.type_text("lamp")]
    log_probs = policy.log_prob([item] * 3, actions)
    assert np.isneginf(log_probs[:2]).all() and np.isfinite(log_probs[2])


def test_without_words_it_never_types():
    policy = make_policy(spells=False)
    item = PolicyInput(screen(0), "")
    assert not any(a.type == ActionType.TYPE for a, _ in policy.support([item], 100)[0])
    assert sum(p for _, p in policy.support([item], 100)[0]) == pytest.approx(1.0, abs=1e-6)


def test_any_screen_size_and_swipes_by_main_axis():
    policy = make_policy(spells=False)
    item = PolicyInput(screen(0, (130, 71)), GOAL)
    slanted = Action(ActionType.DUAL_POINT, (0.2, 0.3), (0.7, 0.4))
    both = policy.log_prob([item, item], [slanted, Action.swipe("down")])
    assert both[0] == both[1]


def test_save_and_load_are_the_same_policy(tmp_path):
    policy = make_policy(spells=True)
    policy.save(tmp_path / "a")
    policy.save(tmp_path / "b")
    for name in ("policy.json", "params.msgpack"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    loaded = load_policy(tmp_path / "a")
    items = [PolicyInput(screen(seed), GOAL) for seed in range(3)]
    assert loaded.sample(items, 4, np.random.default_rng(5)) == policy.sample(
        items, 4, np.random.default_rng(5)
    )


def test_a_directory_without_a_readable_policy_is_refused(tmp_path):
    with pytest.raises(ArtifactError, match=r"policy\.json"):
        load_policy(tmp_path)
    make_policy(spells=False).save(tmp_path)
    described = json.loads((tmp_path / "policy.json").read_text())
    described["config"]["width"] = 24
    (tmp_path / "policy.json").write_text(json.dumps(described))
    with pytest.raises(ArtifactError, match=r"policy\.json: checksum differs"):
        load_policy(tmp_path)
    (tmp_path / "checksums.json").unlink()
    with pytest.raises(ArtifactError, match=r"neither manifest\.json nor checksums\.json"):
        load_policy(tmp_path)
    write_checksums(tmp_path)
    with pytest.raises(ArtifactError, match="fit"):
        load_policy(tmp_path)


def test_a_temperature_of_zero_is_refused():
    with pytest.raises(ValueError, match="support"):
        make_policy(spells=False).sample([PolicyInput(screen(0), GOAL)], 1, np.random.default_rng(0), 0.0)


def test_a_policys_own_temperature_is_in_all_it_draws_and_scores_and_is_saved(tmp_path):
    plain = make_policy(spells=True)
    cool = dataclasses.replace(plain, config=dataclasses.replace(CONFIG, temperature=0.5))
    cool.save(tmp_path)
    cool = load_policy(tmp_path)
    item = PolicyInput(screen(0), GOAL)
    (drawn,) = cool.sample([item], 50, np.random.default_rng(0))
    actions = [c.action for c in drawn]
    assert drawn == plain.sample([item], 50, np.random.default_rng(0), temperature=0.5)[0]
    np.testing.assert_array_equal(
        cool.log_prob([item] * 50, actions), plain.log_prob([item] * 50, actions, temperature=0.5)
    )
    assert cool.support([item], 5)[0][0][1] > plain.support([item], 5)[0][0][1]


def test_rows_and_columns_of_cells_are_not_confused():
    assert cell_of((0.9, 0.1), (4, 2)) == 6 and cell_of((0.1, 0.9), (4, 2)) == 1
    assert cell_of((1.0, 1.0), (4, 2)) == 7 and cell_of((0.25, 0.5), (4, 2)) == 3
    tall = dataclasses.replace(CONFIG, input_height=64).create(seed=1)
    taps = [(a, p) for a, p in tall.support([PolicyInput(screen(3), GOAL)], 400)[0] if a.is_tap]
    assert len({(int(a.touch_yx[0] * 8), int(a.touch_yx[1] * 4)) for a, _ in taps}) == len(taps) == 32
    found = np.exp(tall.log_prob([PolicyInput(screen(3), GOAL)] * 32, [a for a, _ in taps]))
    np.testing.assert_allclose(found, [p for _, p in taps], rtol=1e-5)


def test_the_longest_span_is_as_long_as_it_may_be():
    policy = dataclasses.replace(CONFIG, max_span=3).create(seed=1)
    item = PolicyInput(screen(0), GOAL)
    texts = ["find", "find the lamp", "the lamp and", "and the bed", "find the lamp and", "lamp and the bed"]
    log_probs = policy.log_prob([item] * len(texts), [Action.type_text(text) for text in texts])
    assert np.isfinite(log_probs).tolist() == [True] * 4 + [False] * 2
    supported = {a.text for a, _ in policy.support([item], 400)[0] if a.type == ActionType.TYPE}
    assert {text for text in texts if text in supported} == set(texts[:4])
