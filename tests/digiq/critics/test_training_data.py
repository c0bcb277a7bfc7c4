"""Checks of plain arrays, the held-out split, standardisation, and what a gathered batch holds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from digiq.critics.training_data import Needs, concatenate_layers, gather, place, prepare
from digiq.errors import DigiQError

GAMMA = 0.5


def small(timeout: str = "terminal", **changes) -> tuple[dict, dict]:
    """Two episodes: three transitions to a terminal state, two to a time-out (observation 5)."""
    rng = np.random.default_rng(0)
    transitions = {
        "obs": np.array([0, 1, 2, 3, 4]),
        "next_obs": np.array([1, 2, -1, 4, 5]),
        "reward": np.array([0.0, 0.0, 1.0, 0.0, 0.25], np.float32),
        "terminated": np.array([False, False, True, False, False]),
        "truncated": np.array([False, False, False, False, True]),
        "episode": np.array([0, 0, 0, 1, 1]),
    }
    features = {
        "observation": rng.normal(3, 2, (6, 4)).astype(np.float32),
        "pair": rng.normal(-1, 5, (7, 3)).astype(np.float32),
        "candidate_row": np.array([[0, 5], [1, -1], [2, 6], [3, 0], [4, 1], [-1, 2]]),
    }
    for name, value in changes.items():
        (transitions if name in transitions or name == "discount" else features)[name] = value
    return transitions, features


def test_timeouts_end_or_bootstrap():
    terminal = prepare(*small(), gamma=GAMMA).table
    np.testing.assert_allclose(terminal.discount, [0.5, 0.5, 0, 0.5, 0])
    bootstrap = prepare(*small(), gamma=GAMMA, timeout="bootstrap").table
    np.testing.assert_allclose(bootstrap.discount, [0.5, 0.5, 0, 0.5, 0.5])
    assert bootstrap.next_obs[4] == 5
    np.testing.assert_allclose(terminal.returns, [0.25, 0.5, 1, 0.125, 0.25])


def test_step_discounts_multiply_gamma():
    table = prepare(*small(discount=np.array([1, 0.5, 1, 0, 1])), gamma=GAMMA).table
    np.testing.assert_allclose(table.discount, [0.5, 0.25, 0, 0, 0])
    np.testing.assert_allclose(table.returns, [0.125, 0.25, 1, 0, 0.25])


def test_a_batch_holds_what_its_rows_point_at():
    data = prepare(*small(), gamma=GAMMA, timeout="bootstrap", standardize=False)
    batch = gather(data, np.array([1, 4]), Needs(candidates=True, steps=3, every_step=True))
    np.testing.assert_array_equal(batch.observation, data.observation[[1, 4]])
    np.testing.assert_array_equal(batch.pair, data.pair[[1, 4]])
    # The window stops at the episode's end: afterwards reward 0 and discount 1 stand for "the value itself".
    np.testing.assert_allclose(batch.reward, [[0, 1, 0], [0.25, 0, 0]])
    np.testing.assert_allclose(batch.discount, [[0.5, 0, 1], [0.5, 1, 1]])
    np.testing.assert_array_equal(batch.next_observation[1], data.observation[5])
    np.testing.assert_array_equal(batch.next_observations[0, 0], data.observation[2])
    np.testing.assert_array_equal(batch.mask, [[True, False], [True, True]])
    np.testing.assert_array_equal(batch.candidates[1, 1], data.pair[1])


def test_host_and_device_gather_the_same():
    data = prepare(*small(), gamma=GAMMA)
    needs = Needs(candidates=True, steps=2, every_step=True)
    host = gather(data, np.array([3, 0]), needs)
    device = jax.jit(gather, static_argnums=2)(jax.device_put(data), jnp.array([3, 0]), needs)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), host, device)


def test_standardisation_sees_the_training_split_alone():
    transitions, features = small()
    features["observation"][:, 2] = 7.0  # constant: kept at scale 1
    data = prepare(transitions, features, gamma=GAMMA, heldout_fraction=0.5, seed=1)
    assert set(data.table.obs[data.heldout_rows]) in ({0, 1, 2}, {3, 4})
    trained = data.table.obs[data.train_rows]
    scaled = data.standardizer.observation(features["observation"][trained])
    np.testing.assert_allclose(scaled.mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(scaled[:, [0, 1, 3]].std(0), 1, rtol=1e-5)
    assert data.standardizer.observation_inverse_scale[2] == 1
    rows = features["candidate_row"][trained]
    scaled = data.standardizer.pair(features["pair"][np.unique(rows[rows >= 0])])
    np.testing.assert_allclose(scaled.std(0), 1, rtol=1e-5)


def test_episodes_of_one_group_are_held_out_together():
    transitions, features = small()
    transitions = {k: np.concatenate([v, v]) for k, v in transitions.items()}
    transitions["episode"] = np.array([0] * 3 + [1] * 2 + [2] * 3 + [3] * 2)
    transitions["obs"][5:] += 6
    transitions["next_obs"][5:] = np.where(
        transitions["next_obs"][5:] < 0, -1, transitions["next_obs"][5:] + 6
    )
    features |= {k: np.concatenate([features[k]] * 2) for k in ("observation", "candidate_row")}
    for seed in range(4):
        data = prepare(
            transitions, features, gamma=GAMMA, heldout_fraction=0.5, groups=["a", "b", "a", "b"], seed=seed
        )
        held = set(transitions["episode"][data.heldout_rows])
        assert held in ({0, 2}, {1, 3})


def spoiled(array: np.ndarray, *rows: int, by: float = np.nan) -> np.ndarray:
    array = array.copy()
    array[list(rows), 1] = by
    return array


BAD = {
    "NaN in pairs": ({"pair": spoiled(small()[1]["pair"], 4)}, {}, r"pair holds NaN or Inf in rows 4"),
    "Inf in observations": (
        {"observation": spoiled(small()[1]["observation"], 1, 3, by=-np.inf)},
        {},
        r"observation holds NaN or Inf in rows 1, 3",
    ),
    "Inf in rewards": ({"reward": np.array([0, 0, np.inf, 0, 0])}, {}, r"reward holds NaN or Inf in rows 2"),
    "NaN in rewards": ({"reward": np.array([0, 0, 0, np.nan, 0])}, {}, r"reward holds NaN or Inf in rows 3"),
    "gamma": ({}, {"gamma": 1.5}, r"gamma = 1.5 must lie in \[0, 1\)"),
    "gamma 1": ({}, {"gamma": 1.0}, r"gamma = 1.0 must lie in \[0, 1\)"),
    "gamma below 0": ({}, {"gamma": -0.1}, r"gamma = -0.1 must lie in \[0, 1\)"),
    "gamma NaN": ({}, {"gamma": np.nan}, r"gamma = nan must lie in \[0, 1\)"),
    "discount": ({"discount": np.array([1, 1, 1, 1.2, 1])}, {}, r"discount 1.2.* at row 3"),
    "discount below 0": ({"discount": np.array([1, -0.5, 1, 1, 1])}, {}, r"discount -0.5 at row 1"),
    "discount NaN": ({"discount": np.array([1, 1, 1, 1, np.nan])}, {}, r"discount nan at row 4"),
    "leaves inside": (
        {"next_obs": np.array([4, 2, -1, 4, 5])},
        {},
        r"next_obs of row 0 is 4, which leaves episode 0",
    ),
    "leaves at the end": (
        {"next_obs": np.array([1, 2, -1, 4, 0])},
        {"timeout": "bootstrap"},
        r"row 4 is 0, which leaves episode 1",
    ),
    "leaves at a terminal end, as D4RL's arrays do": (
        {"next_obs": np.array([1, 2, 3, 4, 5])},
        {},
        r"row 2 is 3, which leaves episode 0; set it to -1",
    ),
    "leaves the features at the end": (
        {"next_obs": np.array([1, 2, -1, 4, 6])},
        {},
        r"outside the 6 observations .*, and next_obs -1 where nothing follows",
    ),
    "leaves at the end, others being shared": (
        {"obs": np.array([0, 0, 2, 3, 4]), "next_obs": np.array([0, 2, -1, 4, 2])},
        {"timeout": "bootstrap"},
        r"row 4 is 2, which leaves episode 1; give the observation after the last action its own row",
    ),
    "shares with the episode that it leaves for": (
        {"obs": np.array([0, 1, 2, 0, 4]), "next_obs": np.array([1, 2, -1, 4, 2])},
        {"timeout": "bootstrap"},
        r"row 4 is 2, which leaves episode 1; give the observation after the last action its own row",
    ),
    "goes on without a flag": (
        {"truncated": np.zeros(5, bool)},
        {},
        r"row 4 is the last of episode 1, but neither terminated nor truncated",
    ),
    "ends inside": (
        {"terminated": np.array([False, True, True, False, False])},
        {},
        r"row 1 ends episode 0, but row 2 belongs to it too",
    ),
    "is cut off inside": (
        {"truncated": np.array([False, False, False, True, True])},
        {},
        r"row 3 ends episode 1, but row 4 belongs to it too",
    ),
    "no terminal": (
        {"terminated": np.zeros(5, bool)},
        {"timeout": "bootstrap"},
        r"there is no terminal state",
    ),
    "neither terminal nor cut off": (
        {
            "next_obs": np.array([1, 2, 5, 4, 5]),
            "terminated": np.zeros(5, bool),
            "truncated": np.zeros(5, bool),
        },
        {},
        r"there is no terminal state",
    ),
    "goes on to nowhere": (
        {"next_obs": np.array([1, 2, -1, 4, -1])},
        {"timeout": "bootstrap"},
        r"row 4 is not terminal",
    ),
    "scattered": ({"episode": np.array([0, 1, 0, 1, 1])}, {}, r"contiguous and in order"),
    "other features": ({"obs": np.array([0, 1, 2, 3, 9])}, {}, r"outside the 6 observations"),
    "no logged action": (
        {"candidate_row": np.array([[0, 5], [-1, 1], [2, 6], [3, 0], [4, 1], [-1, 2]])},
        {},
        r"transition 1 has no logged action",
    ),
    "row outside": ({"candidate_row": np.full((6, 2), 99)}, {}, r"outside the 7 pair rows"),
    "flat observations": (
        {"observation": np.zeros(6)},
        {},
        r"observation has shape \(6,\), but needs two axes",
    ),
    "frames as pairs": ({"pair": np.zeros((7, 2, 2))}, {}, r"pair has shape \(7, 2, 2\), but needs two axes"),
    "no columns": (
        {"pair": np.zeros((7, 0))},
        {},
        r"pair has shape \(7, 0\), but needs .* at least one column",
    ),
    "objects": ({"pair": np.full((7, 3), None)}, {}, r"pair has dtype object, but needs real numbers"),
    "complex": ({"observation": np.ones((6, 2), complex)}, {}, r"observation has dtype complex128"),
    "ragged": (
        {"observation": [[1.0], [1.0, 2.0]]},
        {},
        r"observation is not an array of rows of equal length",
    ),
    "layers of unlike rows": (
        {"pair": {"a": np.zeros((7, 2)), "b": np.zeros((6, 2))}},
        {},
        r"pair is not an array of rows of equal length",
    ),
    "lengths": ({"reward": np.zeros(4)}, {}, r"columns differ in shape"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_arrays_get_one_clear_error(case):
    changes, options, message = BAD[case]
    with pytest.raises(DigiQError, match=message) as error:
        prepare(*small(**changes), **{"gamma": GAMMA} | options)
    assert "\n" not in str(error.value)


def test_tabular_episodes_may_end_where_others_have_been():
    """States 0 to 2 of a chain: both episodes visit 0 and 1; where nothing is read after the end, anything may stand."""
    shared = {"obs": np.array([0, 1, 2, 0, 1]), "next_obs": np.array([1, 2, -1, 1, 0])}
    table = prepare(*small(**shared), gamma=GAMMA, timeout="bootstrap").table
    assert table.next_obs[4] == 0
    assert table.discount[4] == GAMMA
    shared["next_obs"][4] = 2  # where the first episode alone has been
    assert prepare(*small(**shared), gamma=GAMMA).table.discount[4] == 0


def test_missing_arrays_and_layers_are_named():
    transitions, features = small()
    del transitions["truncated"]
    with pytest.raises(DigiQError, match="missing array 'truncated'"):
        prepare(transitions, features, gamma=GAMMA)
    with pytest.raises(DigiQError, match="no layer 'layer_9'; stored layers: layer_3"):
        concatenate_layers({"layer_3": np.zeros((2, 2))}, ["layer_9"])


def test_all_rewards_zero_is_worth_a_warning():
    with pytest.warns(UserWarning, match="every reward is 0"):
        prepare(*small(reward=np.zeros(5, np.float32)), gamma=GAMMA)


def test_integer_features_are_numbers_and_not_bits_of_bfloat16():
    transitions, features = small()
    counts = np.arange(features["pair"].size, dtype=np.uint16).reshape(features["pair"].shape)
    as_integers, as_floats = (
        gather(
            place(prepare(transitions, {**features, "pair": pair}, gamma=GAMMA)), jnp.arange(2), Needs()
        ).pair
        for pair in (counts, counts.astype(np.float32))
    )
    np.testing.assert_array_equal(as_integers, as_floats)


ROWS = small()[1]["candidate_row"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"candidate_row": ROWS.astype(np.int64) + 2**32},
            "candidate_row holds 4294967302, which is not a row",
        ),
        ({"candidate_row": ROWS + 0.7}, "candidate_row has dtype float64, but row numbers are whole numbers"),
        ({"obs": np.array([0, 1, 2, 3, 4]) + 2**32}, "obs holds 4294967300"),
        ({"obs": np.array([0.5, 1, 2, 3, 4])}, "obs has dtype float64"),
        ({"next_obs": np.array([1.0, 2, -1, 4, 5])}, "next_obs has dtype float64"),
        ({"terminated": np.array(["False"] * 5)}, "terminated holds values other than true and false"),
        ({"truncated": np.array([0, 0, 0, 0, 0.3])}, "truncated holds values other"),
        ({"pair": np.full((7, 3), 3e38, np.float32)}, r"pair holds a value of 3e\+38 in row 0"),
        ({"observation": np.full((6, 4), 1e300)}, "observation holds NaN or Inf"),
    ],
)
def test_numbers_that_would_be_another_are_refused(changes, message):
    with pytest.raises(DigiQError, match=message):
        prepare(*small(**changes), gamma=GAMMA)


def test_numbers_that_teach_nothing_are_said():
    transitions, features = small()
    with pytest.warns(UserWarning, match="no column varies by more than"):
        prepare(transitions, {**features, "pair": features["pair"] * 1e-30}, gamma=GAMMA)
    with pytest.warns(UserWarning, match=r"returns reach 1e\+06"):
        prepare({**transitions, "reward": transitions["reward"] * 1e6}, features, gamma=GAMMA)
    flags = {name: transitions[name].astype(np.float32) for name in ("terminated", "truncated")}
    table = prepare(transitions | flags, features, gamma=GAMMA).table
    np.testing.assert_array_equal(table.discount, prepare(transitions, features, gamma=GAMMA).table.discount)


def test_candidates_that_are_not_there_do_not_count_in_the_standardisation():
    transitions, features = small()
    features["pair"] = np.concatenate([features["pair"], np.full((1, 3), 1e3, np.float32)])  # nobody's row
    data = prepare(transitions, features, gamma=GAMMA, heldout_fraction=0.0)
    np.testing.assert_allclose(data.standardizer.pair_mean, features["pair"][:7].mean(0), rtol=1e-5)
