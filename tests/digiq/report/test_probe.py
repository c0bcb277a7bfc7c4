"""Linear probes find the layer in which something was planted, on episodes they have not seen."""

import dataclasses
import json

import numpy as np
import pytest

from android_env.actions import Action
from digiq import artifacts
from digiq.data.rewards import LabelledEpisodes
from digiq.errors import DigiQError
from digiq.features import extract as stage
from digiq.report import probe
from digiq.statistics import auc
from tests.digiq.features.test_extract import CONFIG, episode, write_inputs

pytestmark = pytest.mark.usefixtures("one_torch_thread")


def test_a_planted_direction_is_found_and_noise_is_not():
    rng = np.random.default_rng(0)
    fold = np.repeat(np.arange(5), 40)
    target = rng.normal(size=200)
    noise = rng.normal(size=(200, 300)).astype(np.float32)
    planted = noise + 2 * target[:, None].astype(np.float32) * rng.normal(size=300).astype(np.float32)
    assert np.corrcoef(probe.cross_predict(planted, target, fold), target)[0, 1] > 0.95
    assert abs(np.corrcoef(probe.cross_predict(noise, target, fold), target)[0, 1]) < 0.3
    assert auc(probe.cross_predict(planted, np.sign(target), fold), (target > 0).tolist()) > 0.95


def test_a_fold_is_predicted_from_the_others_alone():
    rng = np.random.default_rng(1)
    fold = np.repeat(np.arange(4), 10)
    inputs = np.eye(40, dtype=np.float32)  # each row is its own: nothing carries over
    target = rng.normal(size=40)
    predicted = probe.cross_predict(inputs, target, fold)
    for held in range(4):
        assert np.ptp(predicted[fold == held]) < 1e-6


@pytest.fixture(scope="module")
def finished(tmp_path_factory, vlm):
    """Episodes in which a tap changes the screen and going back does not; features of all layers, both poolings."""
    root = tmp_path_factory.mktemp("probe")
    episodes, candidates = [], []
    for number in range(6):
        acts = [Action.tap(0.5, 0.5), Action.back(), Action.tap(0.2, 0.4), Action.back()]
        made = episode(
            f"e{number}",
            "buy tea",
            [0, number + 1, number + 1, number + 2, number + 2],
            acts,
            number % 2 == 0,
        )
        if number % 2 == 0:  # won by the last action
            steps = list(made.steps)
            steps[-2] = dataclasses.replace(steps[-2], reward=1.0)
            made = dataclasses.replace(made, steps=tuple(steps))
        episodes.append(made)
        candidates += [[a, Action.home()] for a in acts] + (
            [] if made.steps[-1].is_terminal else [[None, Action.home()]]
        )
    inputs = write_inputs(root, episodes, candidates)
    config = dataclasses.replace(CONFIG, layers=("all",), pooling="both")
    stage.run(config, **inputs, vlm=vlm, out=root / "features")
    return root, inputs["episodes"]


def test_every_layer_and_pooling_is_ranked_printed_and_drawn(finished, tmp_path, capsys):
    root, episodes = finished
    made = probe.run(
        probe.ProbeConfig(folds=3), episodes=episodes, features=root / "features", out=tmp_path / "probe"
    )
    found = json.loads((made.path / probe.RESULT).read_text())
    names = {row["layer"] for row in found["layers"]}
    assert names == {f"layer_0{n}_{how}" for n in (1, 2, 3) for how in ("last", "mean")}
    assert found["rows"] == 24
    # What is done stands in the prompt, so even a random model's layers say whether it changes the screen.
    assert found["layers"][0]["actionability_auc"] > 0.9
    assert (made.path / probe.PLOT).read_bytes().startswith(b"\x89PNG")
    assert "layer_03_mean" in capsys.readouterr().out
    assert artifacts.read_manifest(made.path).counts == {"rows": 24, "layers": 6}


def test_returns_are_discounted_and_copies_share_a_fold(finished):
    _, episodes = finished
    targets = probe._targets(LabelledEpisodes(episodes, None), probe.ProbeConfig(folds=3, gamma=0.5))
    assert targets.returns[:4].tolist() == [0.125, 0.25, 0.5, 1.0] and not targets.returns[4:8].any()
    assert targets.changed[:4].tolist() == [True, False, True, False]
    assert all(len(set(targets.fold[i : i + 4])) == 1 for i in range(0, 24, 4))


def test_features_of_other_episodes_are_refused(finished, tmp_path, vlm):
    root, _ = finished
    other = write_inputs(
        tmp_path,
        [
            episode("a", "go", [0, 1], [Action.back()], True),
            episode("b", "go", [1, 2], [Action.back()], True),
        ],
        [[Action.back()]] * 2,
    )
    with pytest.raises(DigiQError, match="run 'featurize' on these episodes"):
        probe.run(
            probe.ProbeConfig(), episodes=other["episodes"], features=root / "features", out=tmp_path / "p"
        )
