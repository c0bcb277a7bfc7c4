"""What every kind of policy does, whatever it is; one of one's own as well. And the guide to them."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from android_env.actions import Action
from digiq.agents import collect
from digiq.agents.build import AgentConfig
from digiq.agents.oracle import policy_fn
from digiq.artifacts import write_checksums
from digiq.config import load, to_dict
from digiq.errors import ArtifactError, ConfigError, DigiQError
from digiq.extraction import distill
from digiq.policies import FITTINGS, POLICIES, REFITTINGS, fit
from digiq.policies.base import HasSupport, PolicyInput, Row, load_policy, with_support
from digiq.policies.fitting import FitConfig
from digiq.policies.grid import GridPolicy
from tests.digiq.guides import example, follow, identity, import_example

import_example("guides_policy", "class Counting")
TOY = "guides_policy:Counting"
SMALL = {"input_height": 64, "input_width": 32, "width": 8, "word_buckets": 64, "speller_width": 4}
CASES = {"grid": SMALL, TOY: {}}
"""By kind, settings at which a fit takes a second."""
FIT = FitConfig(updates=60, batch_size=8, heldout=0.0, learning_rate=0.01)


def config_of(name: str) -> dict:
    return {"policy": name, name if name in POLICIES else "own": CASES[name]}


@pytest.fixture(params=[*POLICIES, TOY])
def kind(request):
    return load(fit.FitPolicyConfig, config_of(request.param)).chosen


def screens(count: int) -> list[PolicyInput]:
    rng = np.random.default_rng(0)
    return [PolicyInput(rng.integers(0, 256, (64, 32, 3), np.uint8), "find a lamp") for _ in range(count)]


def rows(weight: float = 1.0) -> list[Row]:
    """Goes back, and now and then enters."""
    actions = [Action.back(), Action.back(), Action.enter()] * 8
    shown = zip(screens(len(actions)), actions, range(len(actions)), strict=True)
    return [Row(item, action, weight, group) for item, action, group in shown]


def fitted(start, some, found=None):
    return start.fit(iter(some), FIT, lambda metrics: None if found is None else found.append(metrics))


def test_draws_have_the_probabilities_that_are_claimed(kind):
    policy, items = fitted(kind.create(0), rows()), screens(2)
    for temperature in (1.0, 1.7):
        drawn = policy.sample(items, 400, np.random.default_rng(0), temperature)
        assert [len(row) for row in drawn] == [400, 400]
        for item, row in zip(items, drawn, strict=True):
            again = policy.log_prob([item] * 20, [c.action for c in row[:20]], temperature)
            np.testing.assert_allclose(again, [c.log_prob for c in row[:20]], rtol=1e-4, atol=1e-5)
            seen = [c.action for c in row]
            for action in set(seen):
                p = float(np.exp(next(c.log_prob for c in row if c.action == action)))
                assert abs(seen.count(action) / 400 - p) < 5 * np.sqrt(p / 400) + 0.01


def test_draws_of_a_row_depend_on_its_own_generator_alone(kind):
    policy, items = fitted(kind.create(0), rows()), screens(6)
    together = policy.sample(items, 5, [np.random.default_rng(k) for k in range(6)])
    alone = policy.sample(items[4:], 5, [np.random.default_rng(k) for k in (4, 5)])
    assert [[c.action for c in row] for row in together[4:]] == [[c.action for c in row] for row in alone]


def test_fitting_makes_what_is_imitated_likelier_and_leaves_the_start_as_it_was(kind):
    start, (item,) = kind.create(0), screens(1)
    before = start.log_prob([item], [Action.back()])
    found: list[dict] = []
    policy = fitted(start, rows(), found)
    assert policy.log_prob([item], [Action.back()]) > before
    assert policy.log_prob([item], [Action.back()]) > policy.log_prob([item], [Action.enter()])
    np.testing.assert_array_equal(start.log_prob([item], [Action.back()]), before)
    assert found and all("update" in metrics for metrics in found)
    assert json.loads(json.dumps(found)) == found
    again = fitted(policy, rows())  # a fitted one goes on from what it is
    assert type(again) is type(policy) and again.config == policy.config == kind


def test_the_same_seeds_and_rows_give_the_same_policy_and_rows_of_weight_zero_are_absent(kind):
    items, actions = screens(3), [Action.back(), Action.enter(), Action.home()]
    noise = [Row(item, Action.home(), 0.0, 99) for item in items]
    one, same = fitted(kind.create(3), rows()), fitted(kind.create(3), [*rows(), *noise])
    np.testing.assert_array_equal(one.log_prob(items, actions), same.log_prob(items, actions))
    with pytest.raises(DigiQError, match="nothing to fit"):
        fitted(kind.create(3), rows(weight=0.0))


def test_what_is_saved_is_opened_by_its_recorded_kind(kind, tmp_path):
    policy, items = fitted(kind.create(0), rows()), screens(3)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        policy.save(tmp_path / name)
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert all((tmp_path / "a" / n).read_bytes() == (tmp_path / "b" / n).read_bytes() for n in names)
    about = json.loads((tmp_path / "a" / "policy.json").read_text())
    assert about["policy"] == POLICIES.name_of(type(kind)) in CASES and about["config"] == to_dict(kind)
    opened = load_policy(tmp_path / "a")
    assert opened.config == kind
    assert opened.sample(items, 4, np.random.default_rng(5)) == policy.sample(
        items, 4, np.random.default_rng(5)
    )


def test_support_is_listed_or_named_as_what_is_missing(kind):
    policy, items = fitted(kind.create(0), rows()), screens(2)
    if isinstance(policy, HasSupport):
        for item, row in zip(items, policy.support(items, 6), strict=True):
            actions, probabilities = zip(*row, strict=True)
            assert len(set(actions)) == len(actions) <= 6 and sum(probabilities) <= 1 + 1e-5
            assert list(probabilities) == sorted(probabilities, reverse=True)
            exact = policy.log_prob([item] * len(actions), list(actions))
            np.testing.assert_allclose(np.exp(exact), probabilities, rtol=1e-4)
        assert with_support(policy, "x") is policy
    else:
        with pytest.raises(DigiQError, match=f"exact values .*{type(policy).__name__} has no 'support'"):
            policy_fn(policy)


@pytest.fixture(scope="module")
def episodes(tmp_path_factory):
    path = tmp_path_factory.mktemp("run") / "episodes"
    collect.run(collect.CollectConfig(agent=AgentConfig(kind="oracle"), num_episodes=4, seed=1), out=path)
    return path


def fit_nothing(policy, rows, config, on_metrics, **_):
    assert all(row.weight == 1 for row in rows)
    on_metrics({"update": config.updates})
    return policy


@pytest.mark.parametrize("init", ["behavior", "scratch"])
def test_stages_fit_it_and_go_on_from_it(kind, init, episodes, tmp_path, monkeypatch):
    monkeypatch.setattr(GridPolicy, "fit", fit_nothing)  # it takes long to compile, and is fitted above
    name, short = POLICIES.name_of(type(kind)), {"updates": 2, "batch_size": 4}
    config = load(fit.FitPolicyConfig, {**config_of(name), "fit": short})
    made = fit.run(config, episodes=episodes, out=tmp_path / "behavior").manifest
    assert made.config["policy"] == name and set(CASES) & {*made.config} <= {name}
    imitation = {"objective": "filtered_bc", "init": init, "fit": short}
    distill.run(
        load(distill.DistillConfig, imitation),
        behavior=tmp_path / "behavior",
        episodes=episodes,
        out=tmp_path / "p",
    )
    assert load_policy(tmp_path / "p").config == kind
    assert (tmp_path / "p/metrics.jsonl").read_text().count("update")


def test_settings_of_another_kind_of_fitting_are_refused():
    odd = load(FitConfig, {"policy": TOY})
    with pytest.raises(DigiQError, match=f"fit.policy: '{TOY}' is not how a 'grid' policy is fitted"):
        POLICIES["grid"](**SMALL).create(0).fit(rows(), odd, lambda metrics: None)


def test_distillation_shifts_screens_further_whatever_else_is_named():
    assert FITTINGS["grid"]().shift == 3 and REFITTINGS["grid"]().shift == 16
    fitting = load(distill.DistillConfig, {"fit": {"grid": {"contrast": 0.1}}}).fit
    assert (fitting.chosen.shift, fitting.chosen.contrast, fitting.updates) == (16, 0.1, 600)


def test_a_directory_that_describes_no_policy_is_refused(tmp_path):
    file = tmp_path / "policy.json"
    for text, message in (
        ("{", "does not describe a policy"),
        ('{"policy": "grid"}', "does not describe a policy"),
        ("[]", "does not describe a policy"),
    ):
        file.write_text(text)
        write_checksums(tmp_path)
        with pytest.raises(ArtifactError, match=message):
            load_policy(tmp_path)
    file.write_text('{"policy": "gird", "config": {}}')
    write_checksums(tmp_path)
    with pytest.raises(ConfigError, match=r"policy.json: unknown policy 'gird'; known: grid"):
        load_policy(tmp_path)


OPEN = """
    import sys
    from digiq.errors import ConfigError
    from digiq.policies.base import load_policy
    try:
        load_policy(".")
    except ConfigError as error:
        print(error)
    print("evil_policy" in sys.modules)
"""


@pytest.mark.parametrize("trusted", [False, True])
def test_a_kind_that_a_directory_names_is_not_imported_unless_trusted(tmp_path, monkeypatch, trusted):
    (tmp_path / "evil_policy.py").write_text("print('imported')\n" + example("class Counting"))
    about = {"policy": "evil_policy:Counting", "counts": [], "config": {"first": 0.1}}
    (tmp_path / "policy.json").write_text(json.dumps(about))
    write_checksums(tmp_path)
    monkeypatch.setenv("DIGIQ_TRUST_CODE", "1" if trusted else "0")
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(OPEN)], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert ("--trust-code" in done.stdout) is not trusted
    assert ("imported" in done.stdout.splitlines()) is trusted


FOLLOWED = """
    import json
    from pathlib import Path
    import sys
    from digiq.config import load
    from digiq.policies.base import load_policy
    from digiq.policies.fit import FitPolicyConfig, run
    out = Path(sys.argv[2])
    run(load(FitPolicyConfig, {"policy": "counting", "counting": {"first": 0.5}}), episodes=Path(sys.argv[1]), out=out)
    print(json.dumps([json.loads((out / "policy.json").read_text())["policy"], load_policy(out).config.first]))
    from tests.digiq.guides import identity
    print(identity(FitPolicyConfig()))
"""


def test_the_contributors_guide_to_policies_works_as_it_stands(tmp_path, episodes):
    """Its file and its line, added to a copy of the folder, fit a policy by that name; others are what they were."""
    said = follow(
        "digiq.policies", "POLICIES", "class Counting", FOLLOWED, tmp_path, episodes, tmp_path / "policy"
    )
    opened, found = said.splitlines()
    assert json.loads(opened) == ["counting", 0.5]
    assert found == identity(fit.FitPolicyConfig())
