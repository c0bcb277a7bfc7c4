import contextlib
import dataclasses
import importlib.util
from pathlib import Path

import jax
import numpy as np
import pytest

from android_env.actions import Action, ActionType
from digiq.errors import DigiQError
from digiq.policies import grid_fit
from digiq.policies.base import PolicyInput, Row
from digiq.policies.fitting import FitConfig
from digiq.policies.grid import Grid, GridPolicy
from digiq.policies.grid_fit import GridFitting, encode_rows, row_losses, split_rows

_spec = importlib.util.spec_from_file_location("screens", Path(__file__).with_name("screens.py"))
screens = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(screens)

CONFIG = Grid(
    input_height=64, input_width=64, width=32, layers=1, goal_words=14, word_buckets=256, max_text=8
)
FIT = FitConfig(updates=240, batch_size=32, evaluate_every=120, learning_rate=4e-3, grid=GridFitting(shift=1))
SHORT = FitConfig(updates=2, batch_size=4, evaluate_every=2, heldout=0.25)


def rows_of(inputs, actions, weights=None):
    """Rows to imitate, each its own group."""
    inputs = list(inputs)
    weights = [1.0] * len(inputs) if weights is None else weights
    columns = zip(inputs, actions, weights, range(len(inputs)), strict=True)
    return (Row(*column) for column in columns)


def fit(start, rows, config, found=None):
    return start.fit(rows, config, lambda metrics: None if found is None else found.append(metrics))


def draw(count, queries, seed=0):
    rng = np.random.default_rng(seed)
    return [
        list(column) for column in zip(*(screens.box_screen(rng, queries) for _ in range(count)), strict=True)
    ]


@pytest.fixture(scope="module")
def fitted():
    inputs, actions = draw(600, screens.SEEN)
    found = []
    return fit(CONFIG.create(0), rows_of(inputs, actions), FIT, found), found


def test_it_says_at_once_that_it_compiles_and_its_bar_counts_every_update(capsys, monkeypatch):
    counted = []

    class Counting:
        def advance(self, count=1, **fields):
            counted.append((count, sorted(fields)))

    monkeypatch.setattr(grid_fit, "progress", lambda *args, **more: contextlib.nullcontext(Counting()))
    inputs, actions = draw(8, screens.SEEN)
    config = FitConfig(updates=13, batch_size=4, evaluate_every=12, heldout=0.0)
    fit(CONFIG.create(0), rows_of(inputs, actions), config)
    assert "8 actions to imitate; compiling comes first" in capsys.readouterr().err
    assert counted == [(10, []), (2, ["train_loss"]), (1, ["train_loss"])]


def test_looking_at_the_heldout_rows_takes_a_small_part_of_a_fit(monkeypatch):
    looked = []
    monkeypatch.setattr(grid_fit, "_MOST_HELDOUT", 5)
    monkeypatch.setattr(grid_fit, "evaluate_loss", lambda *args: looked.append(args[3]) or {"loss": 1.0})
    inputs, actions = draw(24, screens.SEEN)
    for share, expected in ((0.5, 4), (0.25, 3), (0.1, 2)):  # of 12, 6 and 2 held-out rows
        fit(CONFIG.create(0), rows_of(inputs, actions), FitConfig(updates=1, batch_size=4, heldout=share))
        assert [len(rows) for rows in looked] == [expected] * 2
        assert len(set(looked[0].tolist())) == expected
        looked.clear()


def likeliest(policy, inputs):
    return [row[0][0] for row in policy.support(inputs, 1)]


def test_it_learns_taps_and_copies_unseen_words(fitted):
    policy, metrics = fitted
    assert metrics[-1]["heldout_loss"] < metrics[0]["heldout_loss"] / 4
    inputs, actions = draw(150, screens.UNSEEN, seed=1)
    typed = tapped = right_text = hit = 0
    for wanted, got in zip(actions, likeliest(policy, inputs), strict=True):
        if wanted.type == ActionType.TYPE:
            typed += 1
            right_text += got == wanted
        elif wanted.is_tap:
            tapped += 1
            error = np.abs(np.subtract(got.touch_yx, wanted.touch_yx)) * 64
            hit += bool(got.is_tap and (error <= (6, 10)).all())
    assert right_text >= 0.95 * typed > 20
    assert hit >= 0.9 * tapped > 20


def test_it_is_calibrated_to_the_weighted_demonstrations():
    item = draw(1, screens.SEEN)[0][0]
    actions = [Action.back(), Action.home()] * 40
    policy = fit(CONFIG.create(0), rows_of([item] * 80, actions, [3.0, 1.0] * 40), FIT)
    back, home = np.exp(policy.log_prob([item] * 2, [Action.back(), Action.home()]))
    assert back == pytest.approx(0.75, abs=0.08) and back + home > 0.95


def test_the_same_seed_gives_the_same_policy_and_rows_of_weight_zero_change_nothing():
    inputs, actions = draw(12, screens.SEEN)
    start = CONFIG.create(0)
    one = fit(start, rows_of(inputs[:8], actions[:8]), SHORT)
    # An action no head has may stand in a row of weight 0.
    weights = [2.0] * 8 + [0.0] * 4
    other = fit(start, rows_of(inputs, [*actions[:11], Action(ActionType.WAIT)], weights), SHORT)
    jax.tree.map(np.testing.assert_array_equal, one.params, other.params)
    changed = jax.tree.map(
        lambda a, b: not np.array_equal(a, b), start.params["network"], one.params["network"]
    )
    assert any(jax.tree.leaves(changed))


def test_epochs_count_passes_over_the_rows_that_are_trained_on():
    inputs, actions = draw(12, screens.SEEN)
    found = []
    config = dataclasses.replace(SHORT, epochs=1.5)
    fit(CONFIG.create(0), rows_of(inputs, actions), config, found)
    assert (found[0]["train_rows"], found[-1]["update"]) == (9, 4), "1.5 x 9 / 4, rounded up"
    assert config.for_rows(4000).updates == 1500 and SHORT.for_rows(4000) is SHORT


def test_texts_outside_the_goal_are_spelled():
    items = [PolicyInput(np.full((64, 64, 3), v, np.uint8), "search it") for v in (0, 255)]
    actions = [Action.type_text("cat"), Action.type_text("dog é")]
    policy = fit(CONFIG.create(0), rows_of(items * 20, actions * 20), FIT)
    assert policy.spells
    assert likeliest(policy, items) == actions
    assert not fit(CONFIG.create(0), rows_of(items, [Action.back()] * 2), SHORT).spells


def test_the_loss_is_the_negative_log_probability():
    inputs, actions = draw(12, screens.SEEN)
    actions[:2] = [Action.swipe("left"), Action.complete()]
    policy = CONFIG.create(0)
    rows = encode_rows(rows_of(inputs, actions), CONFIG)
    batch = {name: getattr(rows, name) for name in ("kind", "touch", "swipe", "gate", "span", "text")}
    batch |= {"buckets": rows.buckets[rows.goal], "shapes": rows.shapes[rows.goal]}
    images = rows.images[rows.image] / np.float32(255)
    losses, _ = row_losses(CONFIG, policy.params, batch, images, None)
    spelling_policy = GridPolicy(CONFIG, policy.params, spells=True)
    log_probs = spelling_policy.log_prob(inputs, actions)
    for loss, log_prob, action in zip(np.asarray(losses), log_probs, actions, strict=True):
        # A tap's loss also holds its offset error; a text's likelihood also holds other ways to produce it.
        if action.is_tap:
            assert -1e-4 <= loss + log_prob <= 2.0
        else:
            assert loss == pytest.approx(-log_prob, abs=0.02 if action.type == ActionType.TYPE else 1e-4)


def test_screens_and_goals_are_stored_once_and_points_are_clipped():
    image = np.zeros((10, 10, 3), np.uint8)
    inputs = [PolicyInput(image, "a"), PolicyInput(image.copy(), "b"), PolicyInput(image + 1, "a")]
    rows = encode_rows(rows_of(inputs, [Action.tap(1.0, 0.0)] * 3, [1, 1, 2]), CONFIG)
    assert rows.images.shape == (2, 64, 64) and rows.image.tolist() == [0, 0, 1]
    assert rows.goal.tolist() == [0, 1, 0] and rows.weight.tolist() == [0.75, 0.75, 1.5]
    assert rows.unreachable == 0
    long = encode_rows(rows_of(inputs[:1], [Action.type_text("much too long a text")]), CONFIG)
    assert long.unreachable == 1 and not long.spells


@pytest.mark.parametrize(
    ("weights", "message"),
    [([0.0, 0.0], "nothing to fit"), ([1.0, -1.0], "weights"), ([np.nan, 1.0], "weights")],
)
def test_bad_weights_are_refused(weights, message):
    inputs, actions = draw(2, screens.SEEN)
    with pytest.raises(DigiQError, match=message):
        fit(CONFIG.create(0), rows_of(inputs, actions, weights), SHORT)


def test_an_action_without_a_head_is_refused():
    inputs, _ = draw(1, screens.SEEN)
    with pytest.raises(DigiQError, match="no head"):
        encode_rows(rows_of(inputs, [Action(ActionType.WAIT)]), CONFIG)


def test_groups_are_held_out_whole():
    groups = np.repeat(np.arange(10), 3)
    train, heldout = split_rows(groups, 0.2, seed=0)
    assert len(heldout) == 6 and not set(groups[train]) & set(groups[heldout])
    assert len(split_rows(np.zeros(5, int), 0.5, 0)[0]) == 5


def test_images_that_memory_does_not_hold_are_read_from_a_file_and_the_fit_is_the_same(monkeypatch):
    inputs, actions = draw(12, screens.SEEN)
    whole: list[dict[str, float]] = []
    parts: list[dict[str, float]] = []
    in_memory = fit(CONFIG.create(0), rows_of(inputs, actions), SHORT, whole)
    expected = encode_rows(rows_of(inputs, actions), CONFIG)
    monkeypatch.setattr("digiq.policies.pictures.IN_MEMORY", 3 * 64 * 64)
    monkeypatch.setattr("digiq.policies.pictures._AT_ONCE", 2 * 64 * 64)
    spilled = encode_rows(rows_of(inputs, actions), CONFIG)
    assert isinstance(spilled.images, np.memmap) and not isinstance(expected.images, np.memmap)
    np.testing.assert_array_equal(spilled.images, expected.images)
    np.testing.assert_array_equal(spilled.image, expected.image)
    from_file = fit(CONFIG.create(0), rows_of(inputs, actions), SHORT, parts)
    for a, b in zip(whole, parts, strict=True):
        assert a == pytest.approx(b, rel=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
        in_memory.params,
        from_file.params,
    )
