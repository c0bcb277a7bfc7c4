"""Upstream's precomputed features: two commands to a critic, and targets as NumPy alone computes them from the file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import torch

from digiq.cli import main
from digiq.config import load
from digiq.critics.critic import load_critic
from digiq.critics.heads import Heads, HeadsConfig
from digiq.critics.objectives.td import TD
from digiq.critics.train import TrainQConfig, load_training_data
from digiq.critics.training_data import Needs, gather
from digiq.errors import DigiQError
from digiq.features.extract import load_features
from digiq.features.given import hashed_words
from digiq.proposals.propose import load_proposals
from tests.digiq.data.formats import HOME, TAP, digirl_step

IMAGE, PAIR = 12, 20
BACK = HOME.replace("HOME", "BACK")
GAMMA = 0.9


def sixteenths(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Numbers that bfloat16 holds exactly, so that storing does not round."""
    return (rng.integers(-60, 60, shape) / 16).astype(np.float32)


def trajectories() -> list[list[dict[str, Any]]]:
    """Three, of 2, 3 and 4 steps: what the VLM said includes the logged action, one twice, and one that is none."""
    rng = np.random.default_rng(0)
    found = []
    for number in range(3):
        steps = []
        for t in range(2 + number):
            offered = [TAP, BACK, "nothing", BACK, HOME]
            steps.append(
                digirl_step(
                    f"e{number}",
                    0,
                    action=f"Action Decision: {HOME if t % 2 else TAP}",
                    action_list="<split>".join(offered),
                    image_features=torch.tensor(sixteenths(rng, 1, IMAGE)),
                    q_rep_out=torch.tensor(sixteenths(rng, PAIR)),
                    q_rep_out_list=torch.tensor(sixteenths(rng, len(offered), PAIR)),
                    reward=float(number == 1 and t == 2),
                    done=t == 1 + number,
                    step_id=t,
                )
            )
        found.append(steps)
    return found


def imported(folder: Path, *more: str, data: Any = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(trajectories() if data is None else data, folder / "t.pt")
    command = ["import-features", "--digirl.source", str(folder / "t.pt"), "--out", str(folder / "features")]
    main([*command, *more])
    return folder / "features"


def numpy_value(params: Any, x: np.ndarray) -> np.ndarray:
    """V of one member with a hidden layer, in float64: a dense layer, a rectifier, a dense layer."""
    p = {name: {k: np.asarray(v, np.float64) for k, v in layer.items()} for name, layer in params.items()}
    hidden = np.maximum(x @ p["input_0"]["kernel"] + p["input_0"]["bias"], 0)
    return (hidden @ p["dense_1"]["kernel"] + p["dense_1"]["bias"])[:, 0]


def test_targets_are_those_of_the_file(tmp_path):
    features = imported(tmp_path, "--words", "0")
    config = load(TrainQConfig, {"critic": {"gamma": GAMMA, "standardize": False}, "heldout_fraction": 0.0})
    data, _ = load_training_data(config, features=features, episodes=tmp_path / "episodes", rewards=None)
    steps = [step for steps in trajectories() for step in steps]
    assert len(data.table.obs) == len(steps) == 9
    heads = Heads(HeadsConfig(v_hidden=(8,), q_hidden=(8,), layer_norm=False))
    params = heads.init(jax.random.PRNGKey(0), IMAGE, PAIR)
    # Fresh heads end in zeros, under which any target would be the reward.
    params = jax.tree.map(
        lambda x: x + 0.1 * np.random.default_rng(x.size).normal(size=x.shape).astype("f"), params
    )
    batch = gather(data, np.arange(9), Needs())
    found = np.asarray(TD().q_target(heads, params, batch))
    for member in range(2):
        one = jax.tree.map(lambda x, m=member: x[m], params["v"])
        following = np.stack([steps[min(k + 1, 8)]["image_features"].numpy()[0] for k in range(9)])
        done = np.array([step["done"] for step in steps], float)
        reward = np.array([step["reward"] for step in steps])
        expected = reward + GAMMA * (1 - done) * numpy_value(one, following.astype(np.float64))
        np.testing.assert_allclose(found[member], expected, atol=1e-6, rtol=0)
        assert np.abs(expected - reward).max() > 0.1
    np.testing.assert_array_equal(batch.pair, np.stack([step["q_rep_out"].numpy() for step in steps]))


def test_candidates_have_the_rows_that_the_file_gives_them(tmp_path):
    features = imported(tmp_path)
    opened, proposals = load_features(features), load_proposals(tmp_path / "proposals")
    steps = [step for steps in trajectories() for step in steps]
    assert proposals.valid.sum(axis=1).tolist() == [3] * 9
    given = {0: (1, 4), 1: (0, 1)}  # of action_list, beside the logged one: a tap, or home
    tapped = [proposals.action(s, 0).is_tap for s in range(9)]
    for s, step in enumerate(steps):
        rows = opened.pair["given"][opened.candidate_row[s, :3]].astype(np.float32)
        expected = [step["q_rep_out"], *(step["q_rep_out_list"][i] for i in given[0 if tapped[s] else 1])]
        np.testing.assert_array_equal(rows, np.stack(expected))
    words = opened.observation["given"][:, IMAGE:].astype(np.float32)
    np.testing.assert_allclose(words[0], hashed_words(steps[0]["observation"], 256), rtol=0.004)
    assert np.any(words[0] != words[-1])  # other goals are other words


def test_two_commands_train_a_critic(tmp_path):
    features = imported(tmp_path)
    train = ["train-q", "--features", str(features), "--episodes", str(tmp_path / "episodes")]
    small = ["--heldout-fraction", "0", "--critic.epochs", "1", "--critic.steps-per-epoch", "2"]
    main([*train, *small, "--critic.batch-size", "4", "--out", str(tmp_path / "critic")])
    assert load_critic(tmp_path / "critic").pair_layers == ("given",)
    before = (features / "index.npz").read_bytes()
    imported(tmp_path)  # what is there stays
    assert (features / "index.npz").read_bytes() == before


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"q_rep_out": None}, "trajectory 1, step 1: has no 'q_rep_out'"),
        ({"q_rep_out_list": np.zeros((4, PAIR))}, "'action_list' has 5 actions"),
        ({"image_features": np.zeros(IMAGE + 1)}, "observation features, but earlier steps have"),
        ({"q_rep_out": np.full(PAIR, np.nan)}, "NaN or Inf"),
        ({"image_features": ["a"]}, "'image_features' is not an array of numbers"),
    ],
)
def test_what_is_missing_or_does_not_fit_is_said(change, said, tmp_path, capsys):
    data = trajectories()
    data[1][1] |= change
    with pytest.raises((DigiQError, SystemExit)) as error:
        imported(tmp_path, data=data)
    assert said in str(error.value) + capsys.readouterr().err


def test_a_device_has_no_such_features(tmp_path):
    from digiq.agents.learned import LearnedScorer

    features = imported(tmp_path)
    with pytest.raises(DigiQError, match="computed elsewhere"):
        LearnedScorer.open(critic=tmp_path, features=features, vlm=tmp_path)
