"""``digiq`` alone, ``status``, ``init`` and ``doctor``: what they say is so, and each ends with what comes next."""

from __future__ import annotations

import inspect
import json

import pytest

from digiq import artifacts
from digiq.cli import COMMANDS, doctor, main, status
from digiq.cli.following import NEXT, following
from digiq.config import load_yaml, to_dict
from digiq.errors import ConfigError
from digiq.pipeline.plan import plan
from digiq.pipeline.recipe import Recipe
from digiq.pipeline.run import RECIPE
from digiq.pipeline.stages import STAGES


@pytest.fixture
def run(tmp_path):
    """A run of which nothing is done but its recipe."""
    path = tmp_path / "mine"
    path.mkdir()
    (path / RECIPE).write_text(json.dumps(to_dict(load_yaml(Recipe, "configs/small.yaml"))))
    return path


def write(path, node_of, complete=True):
    node = next(node for node in node_of if node.name == path.name)
    stage = __import__(node.module, fromlist=["STAGE"])
    with artifacts.write(
        path, stage=stage.STAGE, version=stage.VERSION, config=node.config, inputs=node.inputs
    ) as w:
        (w.path / "file").write_bytes(b"x" * 1_500_000)
        if complete:
            w.complete(counts={"episodes": 1234})


def nodes(run):
    import dataclasses

    return plan(dataclasses.replace(load_yaml(Recipe, run / RECIPE), output=run.parent, name=run.name))


def states(run):
    return {line.name: line.state for line in status.stages(run)}


def test_alone_it_shows_the_pipeline_and_what_to_do_first(capsys):
    main([])
    out = capsys.readouterr().out
    assert "digiq run quickstart" in out and "train-q" in out and len(out.splitlines()) < 16


def test_every_command_is_in_the_overview_and_has_help(capsys):
    main(["--help"])
    out = capsys.readouterr().out
    for command in COMMANDS:
        assert command in out, command


def test_status_tells_how_far_each_stage_is_and_what_comes_next(run, capsys):
    assert set(states(run).values()) == {"waiting"}
    write(run / "demonstrations", nodes(run))
    write(run / "behavior", nodes(run), complete=False)
    found = states(run)
    assert (found["demonstrations"], found["behavior"], found["episodes"]) == (
        "complete",
        "partial",
        "waiting",
    )
    main(["status", str(run)])
    out = capsys.readouterr().out
    assert "1,234 episodes" in out and "1.5 MB" in out and f"digiq run {run / RECIPE}\n" in out


def test_status_knows_a_stage_of_other_settings_and_a_damaged_one(run, capsys):
    write(run / "demonstrations", nodes(run))
    recipe = json.loads((run / RECIPE).read_text())
    recipe["demonstrations"]["num_episodes"] = 7
    (run / RECIPE).write_text(json.dumps(recipe))
    assert states(run)["demonstrations"] == "changed"
    main(["status", str(run)])
    assert "--overwrite" in capsys.readouterr().out
    manifest = run / "demonstrations" / artifacts.MANIFEST
    manifest.write_text(manifest.read_text().replace("1234", "1235"))
    assert states(run)["demonstrations"] == "damaged"
    main(["status", str(run)])
    assert f"digiq verify {run}" in capsys.readouterr().out


def test_status_sees_a_stage_that_is_being_written(run):
    node = nodes(run)[0]
    with artifacts.write(node.out, stage="collect", version=1, config=node.config):
        assert states(run)["demonstrations"] == "running"


def test_status_of_nothing_names_what_is_there(tmp_path, run):
    with pytest.raises(ConfigError, match="there are: mine"):
        status.main([str(tmp_path / "other")])


def test_init_writes_a_recipe_that_plans(tmp_path, monkeypatch, capsys):
    logs = tmp_path / "my logs"
    logs.mkdir()
    (logs / "a.jsonl").write_text("{}\n")
    file = tmp_path / "mine.yaml"
    main(["init", str(file), "--logs", str(logs), "--candidates", "5", "--heldout", "test"])
    assert f"digiq run {file}" in capsys.readouterr().err
    recipe = load_yaml(Recipe, file)
    assert recipe.episodes.format == "jsonl" and recipe.episodes.chosen.source == logs
    assert (recipe.propose.num_candidates, recipe.rank.split, recipe.name) == (5, "test", "mine")
    assert "ranking" in {node.name for node in plan(recipe)}
    with pytest.raises(SystemExit):
        main(["init", str(file), "--logs", str(logs)])
    assert "already exists" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--logs", "nowhere"], "no such file"),
        ([], "--logs"),
        (["--logs", ".", "--format", "jsnl"], "use one of"),
    ],
)
def test_init_refuses_with_the_mend_and_writes_nothing(options, said, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["init", str(tmp_path / "mine.yaml"), *options])
    assert said in capsys.readouterr().err and not (tmp_path / "mine.yaml").exists()


def test_init_asks_for_what_is_not_given(tmp_path, monkeypatch):
    from digiq.cli import init

    answers = iter([str(tmp_path), "other_goals", "", "6"])
    monkeypatch.setattr("builtins.input", lambda question: next(answers))
    options = init.asked(init.InitOptions(recipe=tmp_path / "x.yaml"))
    assert (options.logs, options.rewards, options.vlm, options.candidates) == (
        tmp_path,
        "other_goals",
        None,
        6,
    )


def test_doctor_names_the_mend_for_what_is_missing(monkeypatch, tmp_path, capsys):
    found = __import__("importlib.util").util.find_spec
    monkeypatch.setattr(
        doctor.importlib.util, "find_spec", lambda name: None if name == "peft" else found(name)
    )
    (tmp_path / "meminfo").write_text("MemAvailable:  1000000 kB\n")
    assert not doctor.memory(tmp_path / "meminfo").ok and doctor.memory(tmp_path / "none").ok
    vlm = next(f for f in doctor.extras() if f.check == "[vlm]")
    assert not vlm.ok and "peft" in vlm.says and "digiq[vlm]" in vlm.mend
    with pytest.raises(SystemExit) as stop:
        main(["doctor"])
    assert stop.value.code in (0, 1) and "Every run needs" in capsys.readouterr().out


@pytest.mark.parametrize("command", list(STAGES))
def test_the_command_that_comes_next_is_one(command, tmp_path):
    """Its options are those of its stage, and paths that were given are used again."""
    said = following(command, {"out": tmp_path / "made", "episodes": tmp_path / "mine", "rewards": None})
    assert str(tmp_path) in said and "{" not in said and "None" not in said
    program, name, *rest = said.split()
    if program == "digiq" and name in STAGES:
        options = {word[2:].replace("-", "_") for word in rest if word.startswith("--")}
        known = set(inspect.signature(STAGES[name].open().run).parameters)
        assert {o.partition(".")[0] for o in options} <= known | {"agent", "tasks"}
    if "{episodes}" in NEXT[command]:
        assert f"--episodes {tmp_path / 'mine'}" in said
    if "{rewards}" in NEXT[command]:
        assert f"--rewards {tmp_path / 'rewards'}" in said
