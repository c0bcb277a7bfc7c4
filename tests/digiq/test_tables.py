"""Tables: what a config chooses, what its identity holds, and whose code is imported."""

import dataclasses
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from digiq import artifacts
from digiq.config import configclass, load, to_dict
from digiq.errors import ConfigError
from digiq.extraction import EXTRACTIONS, VALUES
from digiq.policies import FITTINGS, POLICIES, REFITTINGS
from digiq.proposals import CANDIDATES
from digiq.tables import Table, chosen_from, named, own_sources, trust


@configclass
class Alpha:
    x: int = 1


@configclass
class Beta:
    y: int = 2


@configclass
class Gamma:
    z: int = 3


def config_of(**members):
    table = Table("letter", "nowhere", **members)

    @configclass
    class Config(chosen_from(table, default="alpha")):
        """A test's."""

        n: int = 7

    return Config


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    monkeypatch.setitem(sys.modules, "letters", sys.modules[__name__])


TWO = {"alpha": "letters:Alpha", "beta": "letters:Beta"}


@pytest.fixture
def config(importable):
    return config_of(**TWO)


def test_the_chosen_member_has_its_settings(config):
    assert config().chosen == Alpha()
    assert load(config, {"letter": "beta", "beta": {"y": 5}}).chosen == Beta(y=5)
    assert hash(config()) == hash(config(n=7))


def test_identity_holds_the_chosen_members_settings_alone(config):
    chosen = load(config, {"letter": "beta", "alpha": {"x": 9}})
    assert to_dict(chosen) == {"letter": "beta", "beta": {"y": 2}, "n": 7}
    assert load(config, to_dict(chosen)).chosen == chosen.chosen


def test_a_new_member_changes_no_digest(config, tmp_path):
    more = config_of(**TWO, gamma="letters:Gamma")
    for name in TWO:
        assert to_dict(more(letter=name)) == to_dict(config(letter=name))
    with artifacts.write(tmp_path / "a", stage="s", version=1, config={"c": to_dict(config())}) as writer:
        writer.complete()
    assert artifacts.is_complete(
        tmp_path / "a", stage="s", version=1, config={"c": to_dict(more())}, inputs={}
    )


@pytest.mark.parametrize("table", [EXTRACTIONS, VALUES, POLICIES, FITTINGS, REFITTINGS, CANDIDATES])
def test_another_member_of_the_librarys_tables_changes_no_identity(table):
    members = {name: f"{table[name].__module__}:{table[name].__qualname__}" for name in table}
    more = Table(table.what, "nowhere", **members, gamma="letters:Gamma")
    first = next(iter(table))
    one, two = (chosen_from(members, default=first) for members in (table, more))
    for name in table:
        assert to_dict(two(**{table.what: name})) == to_dict(one(**{table.what: name}))
        assert hash(one()) and two(**{table.what: "gamma"}).chosen == Gamma()


def test_nested_choices_are_found(config):
    @configclass
    class Outer:
        one: config = config()
        many: dict[str, config] = dataclasses.field(default_factory=lambda: {"a": config(letter="beta")})

    assert to_dict(Outer()) == {
        "one": {"letter": "alpha", "alpha": {"x": 1}, "n": 7},
        "many": {"a": {"letter": "beta", "beta": {"y": 2}, "n": 7}},
    }


def test_a_choice_may_be_called_otherwise_and_be_none(importable):
    @configclass
    class Config(chosen_from(Table("letter", "nowhere", **TWO), default=None, field="name")):
        n: int = 7

    assert Config().chosen is None and to_dict(Config()) == {"name": None, "n": 7}
    chosen = load(Config, {"name": "beta"})
    assert chosen.chosen == Beta() and to_dict(chosen) == {"name": "beta", "beta": {"y": 2}, "n": 7}
    assert load(Config, to_dict(Config())) == Config() and own_sources(Config()) == {}
    with pytest.raises(ConfigError, match="name: unknown letter 'bta'; did you mean 'beta'"):
        load(Config, {"name": "bta"})
    with pytest.raises(ConfigError, match="nothing is chosen"):
        load(Config, {"own": {"z": 1}})


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"letter": "bta"}, "f.yaml: letter: unknown letter 'bta'; did you mean 'beta'"),
        ({"letter": "zz"}, "known: alpha, beta"),
        ({"beta": {"w": 1}}, "unknown key 'beta.w'"),
        ({"letter": "no.where:Thing"}, "letter 'no.where:Thing': does not import"),
        ({"letter": "letters:Missing"}, "does not import"),
        ({"letter": "letters:config_of"}, "not a config class"),
        ({"letter": "letters:Gamma", "own": {"q": 1}}, "'letters:Gamma': unknown key 'q'"),
        ({"own": {"z": 1}}, "settings of 'alpha' stand under 'alpha'"),
    ],
)
def test_refusals_name_the_field_before_anything_runs(config, mapping, message):
    with pytest.raises(ConfigError, match=message):
        load(config, mapping, where="f.yaml")


def test_a_member_of_ones_own(config, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    source = "from digiq.config import configclass\n\n@configclass\nclass Mine:\n    w: int = 4\n"
    (tmp_path / "mine_a.py").write_text(source)
    mine = load(config, {"letter": "mine_a:Mine", "own": {"w": 5}})
    assert mine.chosen.w == 5
    assert to_dict(mine) == {"letter": "mine_a:Mine", "own": {"w": 5}, "n": 7}
    # Its source is part of what an artefact is.
    before = own_sources(mine)
    assert list(before) == ["code mine_a:Mine"]
    with artifacts.write(tmp_path / "a", stage="s", version=1, config=mine) as writer:
        writer.complete()
    assert artifacts.is_complete(tmp_path / "a", stage="s", version=1, config=mine, inputs={})
    (tmp_path / "mine_a.py").write_text(source + "# another\n")
    assert own_sources(mine) != before
    assert not artifacts.is_complete(tmp_path / "a", stage="s", version=1, config=mine, inputs={})


def test_artefacts_name_members_as_the_table_does_and_ones_own_by_where_they_are(config):
    table = Table("letter", "nowhere", beta=f"{__name__}:Beta")
    assert table.name_of(Beta) == "beta" and table.name_of(Gamma) == f"{__name__}:Gamma"
    assert table.recorded("beta", {"y": 4}, "f.json") == Beta(y=4)
    with pytest.raises(ConfigError, match=r"f.json: unknown letter 'bta'; known: beta"):
        table.recorded("bta", {}, "f.json")


def test_what_a_recipe_names_is_trusted_where_it_is_defined_too_and_in_child_processes():
    table = Table("letter", "nowhere")
    defined = f"{__name__}:Gamma"
    assert table.own(table.check("letters:Gamma"), {"z": 4}) == Gamma(z=4)
    assert {"letters:Gamma", defined} <= set(named())
    assert table.recorded(defined, {"z": 5}, "f.json") == Gamma(z=5)
    with pytest.raises(ConfigError, match="--trust-code"):
        table.recorded("letters:Unheard", {}, "f.json")
    trust(["letters:Unheard"])
    with pytest.raises(ConfigError, match="does not import"):
        table.recorded("letters:Unheard", {}, "f.json")


READ_BACK = """
    import sys
    from digiq.config import load
    from digiq.critics import CriticConfig
    from digiq.errors import ConfigError
    about = {"objective": "evil_module:Objective", "own": {}}
    config = load(CriticConfig, about, where="critic.json", recorded=True)
    try:
        config.chosen
    except ConfigError as error:
        print(error)
    print("evil_module" in sys.modules)
"""


@pytest.mark.parametrize("trusted", [False, True])
def test_a_name_read_back_from_an_artefact_is_not_imported(tmp_path, trusted, monkeypatch):
    (tmp_path / "evil_module.py").write_text("print('imported')\n")
    monkeypatch.setenv("DIGIQ_TRUST_CODE", "1" if trusted else "0")
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(READ_BACK)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=None,
    )
    assert done.returncode == 0, done.stderr
    assert ("--trust-code" in done.stdout) is not trusted
    assert ("imported" in done.stdout.splitlines()) is trusted


def test_the_console_script_and_child_processes_find_the_same_code(tmp_path):
    """A recipe that names a module beside it trains with it, in a stage's own process too."""
    (tmp_path / "beside.py").write_text("import sys\n")
    code = "import sys; from digiq.cli import main; sys.argv = ['digiq', '--version']; main(); import beside; print(sys.path[-1])"
    script = Path(sys.executable).parent / "digiq"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout.splitlines()[-1] == str(tmp_path), done.stderr
    assert script.exists()
