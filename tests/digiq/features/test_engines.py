"""What every engine does; the laboratory's controls and the guide's example as well. And the guide as it stands."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest

from digiq.agents.learned import LearnedScorer
from digiq.config import load, to_dict
from digiq.data.schema import encode_png
from digiq.errors import DigiQError
from digiq.features import extract as stage
from digiq.features import load_features
from digiq.features.engines import ENGINES, Request, plain
from digiq.features.extract import KINDS, FeaturizeConfig
from tests.digiq import guides
from tests.digiq.features.test_extract import CANDIDATES, CONFIG, OBSERVED, episode, screen, write_inputs

pytestmark = pytest.mark.usefixtures("one_torch_thread")
guides.import_example("guides_engine", "class Thumbnail")
LABORATORY = "digiq.laboratory.controls:"
CONTROLS = [
    LABORATORY + name for name in ("RandomVlm", "PermutedFeatures", "TextFeatures", "ElementFeatures")
]
TOY = "guides_engine:Thumbnail"
EVERY = [*ENGINES, *CONTROLS, TOY]
READING = {
    f.name: getattr(CONFIG, f.name) for f in dataclasses.fields(CONFIG) if f.name not in (*ENGINES, "own")
}


def config(name: str, **settings) -> FeaturizeConfig:
    section = name if name in ENGINES else "own"
    return load(FeaturizeConfig, {**READING, "engine": name, section: settings})


def requests() -> dict[str, list[Request]]:
    """Observations and pairs of :mod:`tests.digiq.features.test_extract`, with elements on each screen."""
    made = {"observation": [], "pair": []}
    for (number, goal), actions in zip(OBSERVED, CANDIDATES, strict=True):
        elements = [{"text": f"tea {number}", "role": "button", "bounds": [0.4, 0.1, 0.2, 0.3]}]
        known = {"activity": f"shop/{number}", "ui_elements": json.dumps(elements)}
        for action in [None, *actions]:
            request = Request.build(encode_png(screen(number)), goal, action, "cursor", **known)
            made["observation" if action is None else "pair"].append(request)
    return made


@pytest.fixture(scope="module")
def engines(vlm):
    return {name: config(name).chosen.open(config(name), vlm) for name in EVERY}


@pytest.fixture(params=EVERY)
def engine(request, engines):
    return engines[request.param]


def collect(engine, items) -> np.ndarray:
    """The rows in the order of the requests, each of which is answered once."""
    found: dict[int, np.ndarray] = {}
    for positions, features in engine.rows(items):
        assert features.dtype == np.float32 and len(positions) == len(features)
        assert not found.keys() & set(positions.tolist())
        found |= dict(zip(positions.tolist(), features, strict=True))
    return np.stack([found[i] for i in range(len(items))])


@pytest.mark.parametrize("kind", KINDS)
def test_rows_are_of_the_size_that_is_said_and_tell_requests_apart(engine, kind):
    items = requests()[kind]
    rows = collect(engine, items)
    assert rows.shape == (len(items), len(engine.layers), engine.dim(kind)) and np.isfinite(rows).all()
    assert len(set(engine.layers)) == len(engine.layers)
    assert len(np.unique(rows.round(4), axis=0)) > 1  # a constant would pass every equality


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_depends_on_its_request_alone(engine, kind):
    items = requests()[kind]
    rows = collect(engine, items)
    np.testing.assert_allclose(collect(engine, items[::-1])[::-1], rows, rtol=2e-4, atol=2e-5)
    np.testing.assert_allclose(collect(engine, items[2:3])[0], rows[2], rtol=2e-4, atol=2e-5)
    assert list(engine.rows([])) == []


def test_identity_tells_apart_what_gives_other_rows(engines):
    for kind in KINDS:
        identities = {name: json.dumps(engine.identity(kind)) for name, engine in engines.items()}
        # Permuted features are the plain engine's rows, dealt out to the wrong requests.
        assert identities.pop(LABORATORY + "PermutedFeatures") == identities["plain"]
        assert len(set(identities.values())) == len(identities)
        assert all(e.identity(kind) == e.identity(kind) for e in engines.values())


@pytest.mark.parametrize(
    "change", [{"layers": (2,)}, {"pooling": "mean"}, {"grounding": "text"}, {"pair_spans": ("part",)}]
)
def test_the_plain_engine_knows_what_of_the_reading_counts(vlm, engines, change):
    other = dataclasses.replace(config("plain"), **change)
    assert other.chosen.open(other, vlm).identity("pair") != engines["plain"].identity("pair")
    same = dataclasses.replace(config("plain"), batch_size=7, support=0.5)
    assert same.chosen.open(same, vlm).identity("pair") == engines["plain"].identity("pair")


@pytest.fixture(scope="module")
def finished(tmp_path_factory, vlm):
    """What the stage writes with each engine, over one store."""
    root = tmp_path_factory.mktemp("engines")
    elements = json.dumps([{"text": "tea", "role": "button", "bounds": [0.4, 0.1, 0.2, 0.3]}])
    episodes = []
    for name, goal, screens, n in (("a", "buy tea", [0, 1, 2], 0), ("b", "buy tea", [0, 3], 2)):
        made = episode(name, goal, screens, [c[0] for c in CANDIDATES[n : n + len(screens) - 1]], name == "a")
        steps = [dataclasses.replace(s, activity="shop/list", ui_elements=elements) for s in made.steps]
        episodes.append(dataclasses.replace(made, steps=tuple(steps)))
    inputs = write_inputs(root, episodes, CANDIDATES[:4])
    for name in EVERY:
        stage.run(config(name), **inputs, vlm=vlm, out=root / "features" / name)
    return root / "features"


def test_stored_and_asked_for_at_test_time_rows_are_the_same(finished, engine, engines):
    (name,) = (n for n, e in engines.items() if e is engine)
    if name == LABORATORY + "PermutedFeatures":
        pytest.skip("stores each row in a wrong place, which is the point")
    features, about = load_features(finished / name), {"activity": "shop/list", "ui_elements": "[]"}
    about["ui_elements"] = json.dumps([{"text": "tea", "role": "button", "bounds": [0.4, 0.1, 0.2, 0.3]}])
    assert list(features.pair) == list(engine.layers)
    pairs = [
        (s, n, Request.build(screen(number), goal, action, "cursor", **about))
        for s, ((number, goal), actions) in enumerate(zip(OBSERVED[:4], CANDIDATES[:4], strict=True))
        for n, action in enumerate(actions)
        if action is not None
    ]
    rows = collect(engine, [request for _, _, request in pairs])
    for i, layer in enumerate(engine.layers):
        stored = features.pair[layer].astype(np.float32)
        for (s, n, _), row in zip(pairs, rows[:, i], strict=True):
            np.testing.assert_allclose(stored[features.candidate_row[s, n]], row, rtol=2e-2, atol=2e-3)


def test_permuted_features_are_the_same_rows_at_the_wrong_places(finished):
    a, b = (load_features(finished / name) for name in ("plain", LABORATORY + "PermutedFeatures"))
    assert np.array_equal(a.candidate_row, b.candidate_row)
    for kind in ("observation", "pair"):
        one, other = (np.asarray(getattr(f, kind)["layer_01"], np.float32) for f in (a, b))
        assert np.array_equal(np.sort(one, axis=0), np.sort(other, axis=0))
    assert not np.array_equal(one, other)  # of four observations two are alike


def test_seeds_of_controls_matter_and_repeat(vlm, engines):
    name = LABORATORY + "RandomVlm"
    items = requests()["pair"][:3]
    again, other = (config(name, seed=s).chosen.open(config(name, seed=s), vlm) for s in (0, 1))
    np.testing.assert_array_equal(collect(again, items), collect(engines[name], items))
    assert not np.allclose(collect(other, items), collect(engines[name], items), atol=1e-2)
    assert not np.allclose(collect(engines["plain"], items), collect(engines[name], items), atol=1e-2)
    keys = np.arange(20 * 16, dtype=np.uint8).reshape(20, 16)
    dealt = engines[LABORATORY + "PermutedFeatures"].deal(keys)
    assert not np.array_equal(dealt, keys) and np.array_equal(np.sort(dealt, axis=0), np.sort(keys, axis=0))


def test_the_oracle_of_perception_is_not_to_be_had_at_test_time(engines):
    asked = [Request.build(screen(0), "buy tea", None, "cursor")]
    with pytest.raises(DigiQError, match="not available at test time"):
        collect(engines[LABORATORY + "ElementFeatures"], asked)
    assert np.isfinite(collect(engines[LABORATORY + "TextFeatures"], asked)).all()


def test_the_scorer_opens_the_engine_that_made_the_features(finished, vlm, monkeypatch):
    monkeypatch.setattr("digiq.agents.learned.load_critic", lambda path: None)
    for name in EVERY:
        scorer = LearnedScorer.open(critic=finished, features=finished / name, vlm=vlm)
        assert scorer.engine.identity("pair") == config(name).chosen.open(config(name), vlm).identity("pair")
        assert scorer.grounding == "cursor"


def test_a_scorer_of_another_model_than_the_features_is_refused(finished, vlm, tmp_path, monkeypatch):
    monkeypatch.setattr("digiq.agents.learned.load_critic", lambda path: None)
    other = tmp_path / "other"
    shutil.copytree(vlm, other)
    LearnedScorer.open(critic=finished, features=finished / "plain", vlm=other)  # what counts is the content
    weights = bytearray((other / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (other / "model.safetensors").write_bytes(weights)
    with pytest.raises(DigiQError, match=r"other: not the model that .*plain came from"):
        LearnedScorer.open(critic=finished, features=finished / "plain", vlm=other)


def test_what_has_no_model_loads_no_torch():
    code = "import sys, digiq.features.extract, digiq.laboratory.controls; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


FOLLOWED = """
    import sys
    from pathlib import Path
    import digiq.features.extract as stage
    from digiq.features import load_features
    from tests.digiq import guides
    root, vlm = map(Path, sys.argv[1:])
    inputs = {"episodes": root / "episodes", "proposals": root / "proposals", "vlm": vlm}
    stage.run(stage.FeaturizeConfig(engine="thumbnail"), **inputs, out=root / "thumbnails")
    print(load_features(root / "thumbnails").pair["thumbnail"].shape[1])
    print(guides.identity(stage.FeaturizeConfig()))
"""


def test_the_contributors_guide_to_engines_works_as_it_stands(finished, vlm, tmp_path):
    arguments = (finished.parent, vlm)
    printed = guides.follow(
        "digiq.features.engines", "ENGINES", "class Thumbnail", FOLLOWED, tmp_path, *arguments
    )
    width, identity = printed.splitlines()
    assert int(width) == 8 * 5 * 3 + 2
    # What does not use the new member is what it was.
    assert identity == guides.identity(FeaturizeConfig())
    assert to_dict(FeaturizeConfig()).keys() & {"engine", "plain", "own"} == {"engine", "plain"}
    assert plain.Plain() == FeaturizeConfig().chosen
