"""What a study's file may say, and when reported seeds may run."""

import dataclasses

import pytest

from digiq.config import load, load_yaml
from digiq.errors import ConfigError
from digiq.studies import config as study
from digiq.studies.config import StudyConfig, check_registration, kernel_digest, overlay

FILE = {
    "name": "mini",
    "title": "A small study",
    "seeds": [10, 11],
    "recipe": {},
    "arms": {
        "behavior": {"title": "Behaviour", "role": "reference", "acts": "behavior"},
        "a": {
            "title": "A",
            "role": "baseline",
            "recipe": {"distill": {"policy": {"objective": "filtered_bc"}}},
        },
    },
}


def made(**fields) -> StudyConfig:
    return load(StudyConfig, FILE | fields)


def test_unknown_arms_are_named():
    with pytest.raises(ConfigError, match="no arm 'b'"):
        made(hypotheses={"h": {"text": "x", "arm": "b", "over": ["a"], "at_least": 1.0}})
    with pytest.raises(ConfigError, match="no arm 'c'"):
        made(sweeps={"s": {"title": "S", "arms": ["c"], "base": "x1", "order": ["x1"], "points": {}}})


def test_a_sweep_names_all_of_its_points():
    with pytest.raises(ConfigError, match="order"):
        made(sweeps={"s": {"title": "S", "arms": ["a"], "base": "x1", "order": ["x1"], "points": {"x2": {}}}})


def test_every_arm_gets_as_many_trials():
    tuning = {"seeds": [100], "trials": {"a": [{}, {}], "behavior": [{}]}}
    with pytest.raises(ConfigError, match="a 2, behavior 1"):
        made(tuning=tuning)
    with pytest.raises(ConfigError, match="not a tuning seed"):
        made(tuning={"seeds": [3], "trials": {}})


def test_a_hypothesis_has_one_bound():
    with pytest.raises(ConfigError, match="either"):
        made(hypotheses={"h": {"text": "x", "arm": "a", "over": ["behavior"]}})
    ratio = {"text": "x", "arm": "a", "over": ["behavior"], "at_least": 1.0, "alone": True}
    with pytest.raises(ConfigError, match="only a difference to one arm can stand alone"):
        made(hypotheses={"h": ratio})


def test_reported_seeds_need_the_registered_kernel_and_grid():
    config = made(registration={"kernel": "k", "grid": "g"})
    check_registration(config, seeds=(10, 11), kernel="k", grid="g")
    with pytest.raises(ConfigError, match="the simulator's kernel changed"):
        check_registration(config, seeds=(10,), kernel="other", grid="g")
    with pytest.raises(ConfigError, match="the grid changed"):
        check_registration(config, seeds=(10,), kernel="k", grid="other")
    with pytest.raises(ConfigError, match="not one of the reported seeds"):
        check_registration(config, seeds=(12,), kernel="k", grid="g")
    with pytest.raises(ConfigError, match="not registered"):
        check_registration(made(), seeds=(10,), kernel="k", grid="g")


def test_a_study_that_is_history_runs_no_reported_seed():
    config = made(registration={"kernel": "k", "grid": "g", "closed": "its tasks have been looked at"})
    with pytest.raises(
        ConfigError, match="history, as its tasks have been looked at, so seed 10 does not run"
    ):
        check_registration(config, seeds=(10,), kernel="k", grid="g")
    check_registration(config, seeds=(100,), kernel="k", grid="g")


def test_the_core_study_is_history_and_keeps_what_was_registered():
    core = load_yaml(StudyConfig, "configs/study/core.yaml")
    then = load_yaml(StudyConfig, "docs/results/core/registered.yaml")
    assert core.registration.closed
    assert dataclasses.replace(core.registration, closed="") == then.registration
    assert core.registration.kernel != kernel_digest()
    # Recipes have been put in other words since; the rest is word for word the same.
    for field in ("seeds", "hypotheses", "losses"):
        assert getattr(core, field) == getattr(then, field)


def test_the_next_study_has_seeds_and_tasks_of_its_own():
    core, worth = (load_yaml(StudyConfig, f"configs/study/{name}.yaml") for name in ("core", "worth"))
    assert len(worth.seeds) >= 11 and max(core.seeds) < min(worth.seeds) and len(worth.arms) <= 12
    assert worth.recipe["evaluate"]["tasks"] == "webshop/final"
    assert [name for name, h in worth.hypotheses.items() if h.alone] == ["primary", "candidates"]
    assert all(h.tested for h in worth.hypotheses.values())
    assert worth.tuning is not None and {len(trials) for trials in worth.tuning.trials.values()} == {4}
    # What is compared with exact values is imitated by the same gate.
    gates = {name: arm.recipe.get("distill", {}).get("policy", {}) for name, arm in worth.arms.items()}
    own = [gate.get(rule, {}) for gate in gates.values() for rule in ("progress", "best_of_n")]
    assert not any({"margin", "threshold"} & settings.keys() for settings in own)
    same = ("td_n1", "td_bon8", "mc_bon8", "exact_bon8")
    assert not any("objective" in gates[name] for name in same)


def test_tuning_seeds_need_no_registration():
    check_registration(made(), seeds=(100, 257), kernel="k", grid="g")


def test_the_kernel_digest_follows_source_and_rates(monkeypatch):
    before = kernel_digest()
    assert before == kernel_digest()
    from android_env.devices.simulated import collector, state, webshop

    with monkeypatch.context() as patch:
        patch.setitem(webshop.COOKIE_WALL, "buyhive.com", 0.2)
        assert kernel_digest() != before
    with monkeypatch.context() as patch:
        patch.setattr(state, "NOISE", dataclasses.replace(state.NOISE, dropped_tap=0.06))
        assert kernel_digest() != before
    with monkeypatch.context() as patch:
        patch.setattr(collector, "COMPLETE", 0.03)
        assert kernel_digest() != before
    with monkeypatch.context() as patch:
        patch.setattr(study, "_KERNEL", study._KERNEL[1:])
        assert kernel_digest() != before


def test_overlay_merges_mappings_and_replaces_the_rest():
    base = {"a": {"x": 1, "y": [1]}, "b": {"z": 1}, "c": 3}
    assert overlay(base, {"a": {"y": [2]}, "b": None}, {"a": {"w": 0}, "c": {"d": 1}}) == {
        "a": {"x": 1, "y": [2], "w": 0},
        "b": None,
        "c": {"d": 1},
    }
    assert base == {"a": {"x": 1, "y": [1]}, "b": {"z": 1}, "c": 3}
