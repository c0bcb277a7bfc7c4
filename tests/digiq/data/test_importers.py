"""What every importer does, whatever the format; the example of the guide as well. And the guide as it stands."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from android_env.actions import Action, ActionType
from android_env.recording import Recorder
from android_env.tasks import Task
from digiq.cli.stage import with_member
from digiq.config import load, to_dict
from digiq.data.import_episodes import ImportConfig, run
from digiq.data.importers import IMPORTERS, Entry
from digiq.data.schema import decode_png
from digiq.data.store import EpisodeStore
from digiq.errors import DigiQError
from digiq.pipeline.stages import STAGES
from tests.digiq import guides
from tests.digiq.data import formats
from tests.digiq.data import test_aitw as aitw

guides.import_example("guides_importer", "class Taps")
TOY = "guides_importer:Taps"


def make_aitw(root: Path, names: tuple[str, ...], broken: str = "") -> dict:
    for name in names:
        kind = 99 if name == broken else ActionType.DUAL_POINT
        steps = [aitw.step(name, 0, 2, kind), aitw.step(name, 1, 2, ActionType.STATUS_TASK_COMPLETE)]
        aitw.write_shard(root / f"{name}_app/{name}-00000-of-00001", steps)
    return {"source": str(root), "held_out_apps": 0}


def make_taps(root: Path, names: tuple[str, ...], broken: str = "") -> dict:
    for name in names:
        folder = root / name
        folder.mkdir(parents=True)
        for t in range(3):
            (folder / f"{t}.png").write_bytes(formats.png(name, t))
        about = {"goal": "open it", "taps": [[0.5, 0.5], [2.0 if name == broken else 0.1, 0.2]], "won": True}
        (folder / "taps.json").write_text(json.dumps(about))
    return {"source": str(root)}


def make_recordings(root: Path, names, broken: str) -> dict:
    for name in names:
        task = Task(f"t/{name}", "open it", "toy", 1, "train")
        about = {"task": task, "seed": 0, "device": "toy", "policy": "p", "screen_hw": (8, 6)}
        recorder = Recorder(root, episode_id=name, **about)
        for t in range(3):
            screen = np.random.default_rng([ord(name[0]), t]).integers(0, 255, (8, 6, 3), np.uint8)
            recorder.seen({"screenshot": screen, "activity": "", "ui_elements": "[]"})
            if t < 2:
                recorder.acted(Action.tap(0.5, 0.5), executed=True, reward=float(t == 1))
        recorder.end("success")
        if name == broken:
            (recorder.folder / "steps.jsonl").write_text("nonsense\n")
    return {"folder": str(root)}


SOURCES = {"aitw": make_aitw, "recordings": make_recordings, TOY: make_taps, **formats.MAKERS}
"""By format: writes episodes of these names into a folder, each a part of its own, one of them broken; its settings."""


def config(name: str, root: Path, names=("a", "b", "c"), broken: str = "", **fields) -> ImportConfig:
    section = name if name in IMPORTERS else "own"
    settings = SOURCES[name](root, names, broken)
    return load(ImportConfig, {"format": name, section: settings, **fields})


every = pytest.mark.parametrize("name", [*IMPORTERS, TOY])


def shown(path: Path) -> list[str]:
    return [repr(episode) for episode in EpisodeStore(path)]


@every
def test_episodes_come_as_they_were_recorded_and_are_counted(name, tmp_path):
    artifact = run(config(name, tmp_path / "source"), out=tmp_path / "out")
    episodes = list(EpisodeStore(tmp_path / "out"))
    assert [e.episode_id for e in episodes] == ["a", "b", "c"]
    for episode in episodes:
        assert {decode_png(step.screenshot).shape[:2] for step in episode.steps} == {episode.screen_hw}
        assert episode.goal and episode.num_actions == 2 and not episode.copy_of
        assert (episode.outcome, episode.total_reward, episode.is_terminated) == ("success", 1.0, True)
        assert len({step.screenshot for step in episode.steps[:-1]}) == 2
    expected = {"episodes": 3, "steps": 6, "bad": 0, "missing": 0, "truncated": 0, "test_episodes": 0}
    assert artifact.manifest.counts == expected
    assert artifact.manifest.stage == "import"


@every
def test_what_is_found_is_read_and_made_alike_each_time(name, tmp_path):
    importer = config(name, tmp_path / "source").chosen
    found = importer.find()
    assert len(found.parts) == 3 and not found.missing
    entries = [entry for part in found.parts for entry in importer.read(part)]
    assert all(isinstance(entry, Entry) for entry in entries)
    for entry in entries:
        assert entry.make().episode_id == entry.episode_id
        assert repr(entry.make()) == repr(entry.make())


@every
def test_a_bad_episode_is_named_with_its_part_or_left_out(name, tmp_path):
    wrong = config(name, tmp_path / "source", broken="b")
    with pytest.raises(DigiQError, match="on_bad: skip") as error:
        run(wrong, out=tmp_path / "out")
    assert str(wrong.chosen.find().parts[1]) in str(error.value)
    skipping = dataclasses.replace(wrong, on_bad="skip")
    artifact = run(skipping, out=tmp_path / "skipped")
    assert EpisodeStore(tmp_path / "skipped").episode_ids == ["a", "c"]
    assert (artifact.manifest.counts["bad"], artifact.manifest.extra["problems"]) == (1, [str(error.value)])


@every
def test_an_id_that_comes_twice_is_named_with_both_parts(name, tmp_path, monkeypatch):
    twice = config(name, tmp_path / "source", names=("a", "b"))
    cls, read = type(twice.chosen), type(twice.chosen).read

    def alike(self, part):
        return (dataclasses.replace(entry, episode_id="same") for entry in read(self, part))

    monkeypatch.setattr(cls, "read", alike)
    monkeypatch.setattr("digiq.data.import_episodes.EpisodeWriter.write", keep_as_same)
    first, second = map(str, twice.chosen.find().parts)
    with pytest.raises(DigiQError) as error:
        run(twice, out=tmp_path / "out")
    assert str(error.value).startswith(f"{second}: episode same is in {first} too")


def keep_as_same(writer, episode):
    writer.written["same"] = episode.outline


@every
def test_an_interrupted_import_goes_on_and_makes_nothing_twice(name, tmp_path, monkeypatch):
    whole = config(name, tmp_path / "source")
    expected = run(whole, out=tmp_path / "whole")
    cls, read = type(whole.chosen), type(whole.chosen).read
    made: list[str] = []

    def counting(self, part):
        for entry in read(self, part):
            yield Entry(entry.episode_id, lambda e=entry: made.append(e.episode_id) or e.make())
            if len(made) == 2 and stop:
                raise KeyboardInterrupt

    monkeypatch.setattr(cls, "read", counting)
    stop = True
    with pytest.raises(KeyboardInterrupt):
        run(whole, out=tmp_path / "out")
    stop = False
    resumed = run(whole, out=tmp_path / "out")
    assert made == ["a", "b", "c"]
    assert shown(tmp_path / "out") == shown(tmp_path / "whole")
    assert resumed.manifest.counts == expected.manifest.counts


@every
def test_a_source_that_is_not_there_is_refused_by_a_look(name, tmp_path):
    away = config(name, tmp_path / "source")
    (tmp_path / "source").rename(tmp_path / "elsewhere")
    with pytest.raises(DigiQError, match="source"):
        away.chosen.find()


def test_every_format_has_a_source_to_test_it_with():
    assert set(SOURCES) == {*IMPORTERS, TOY}


def test_the_older_command_takes_its_options_without_a_prefix():
    given = ["--source", "x", "--max-side=64", "--on-bad", "skip", "--out", "o"]
    assert with_member(STAGES["import"], "aitw", given) == [
        *("--aitw.source", "x", "--aitw.max-side=64", "--on-bad", "skip", "--out", "o"),
        *("--format", "aitw"),
    ]


FOLLOWED = """
    import sys
    from digiq import cli
    from digiq.data.import_episodes import ImportConfig
    from digiq.data.store import EpisodeStore
    from tests.digiq import guides
    source, out = sys.argv[1:]
    cli.main(["import", "--format", "taps", "--taps.source", source, "--out", out])
    print(*EpisodeStore(out).episode_ids)
    print(guides.identity(ImportConfig()))
"""


def test_the_contributors_guide_to_importers_works_as_it_stands(tmp_path):
    make_taps(tmp_path / "source", ("a", "b"))
    package, folders = "digiq.data.importers", (tmp_path / "source", tmp_path / "out")
    printed = guides.follow(package, "IMPORTERS", "class Taps", FOLLOWED, tmp_path, *folders)
    ids, identity = printed.splitlines()
    assert ids == "a b"
    # What does not use the new member is what it was.
    assert identity == guides.identity(ImportConfig())
    assert set(to_dict(ImportConfig())) == {"format", "aitw", "on_bad"}
