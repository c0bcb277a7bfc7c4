"""What the viewer tells of a run is what the artefacts hold; the page itself is tried in tests/appium/test_viewer.py."""

from __future__ import annotations

import dataclasses
import http.client
import json
import re
import threading

import numpy as np
import pytest

from digiq.cli import main
from digiq.cli import view as view_command
from digiq.data.rewards import LabelledEpisodes
from digiq.errors import ConfigError
from digiq.report.run_report import logged_values
from digiq.report.viewer.gather import RunView, find
from digiq.report.viewer.pages import script_json, write
from digiq.report.viewer.serve import ViewServer


@pytest.fixture(scope="module")
def view(small_run) -> RunView:
    return RunView(find(small_run.root), "small")


def test_a_runs_artefacts_are_found_by_what_they_say(small_run):
    found = find(small_run.root)
    assert found.episodes == small_run.root / "episodes" and list(found.critics) == ["critic"]
    assert find(small_run.root / "episodes").critics == {}
    with pytest.raises(ConfigError, match="no such directory"):
        find(small_run.root / "nothing")
    with pytest.raises(ConfigError, match="made by 'propose'"):
        find(small_run.root / "proposals")


def test_an_empty_directory_is_refused_with_the_next_command(tmp_path):
    with pytest.raises(ConfigError, match="digiq status"):
        find(tmp_path)


def test_every_step_has_its_candidates_with_q_v_and_log_probability(small_run, view):
    values = logged_values(small_run.artifacts)
    assert len(view) >= len(values.episodes) and len(view.index["episodes"]) == len(view)
    for number, episode in enumerate(values.episodes):
        shown = view.episode(number)["steps"]
        assert len(shown) == len(episode.steps)
        for step, row in zip(shown, values.rows_of(number), strict=False):
            actions = values.actions(row)
            distinct = list(dict.fromkeys(a for a in actions if a is not None))
            assert len(step["cand"]) == len(distinct)
            for candidate, action in zip(step["cand"], distinct, strict=True):
                n = actions.index(action)
                assert candidate["n"] == actions.count(action)
                assert candidate["q"] == [pytest.approx(values.q[row, n], abs=1e-4)]
                expected = values.proposals.log_prob[row, n]
                assert candidate["lp"] == (
                    pytest.approx(expected, rel=1e-3) if np.isfinite(expected) else None
                )
                assert candidate["logged"] == (action == actions[0])
            assert step["v"] == [pytest.approx(values.v[row], abs=1e-4)]
        assert view.screen(number, 0) == episode.steps[0].screenshot


def test_disagreement_counts_the_steps_where_another_action_ranks_first(small_run, view):
    values = logged_values(small_run.artifacts)
    for number, episode in enumerate(values.episodes):
        count = 0
        for row in values.rows_of(number)[: episode.num_actions]:
            actions = values.actions(row)
            count += actions[int(np.nanargmax(values.q[row]))] != actions[0]
        assert view.index["episodes"][number]["differs"] == [count]


def test_two_critics_stand_side_by_side(small_run, monkeypatch):
    found = find(small_run.root)
    calls = iter([0.0, 1.0])

    def shifted(critic, features):
        from tests.digiq.conftest import read_values

        q, v = read_values(critic, features)
        return (-q if next(calls) else q), v

    monkeypatch.setattr("digiq.report.run_report.candidate_values", shifted)
    two = RunView(
        dataclasses.replace(found, critics={"a": found.critics["critic"], "b": found.critics["critic"]}),
        "two",
    )
    assert two.index["sources"][0]["critics"] == ["a", "b"]
    q = [c["q"] for c in two.episode(0)["steps"][0]["cand"]]
    assert all(one == pytest.approx(-other) for one, other in q)
    assert sum(e["apart"] for e in two.index["episodes"]) > 0


def test_as_one_file_it_fetches_nothing_and_as_a_folder_it_lies_beside(view, tmp_path):
    write(view, tmp_path / "page.html")
    html = (tmp_path / "page.html").read_text()
    assert html.count("DIGIQ.put(") == len(view) and "data:image/png;base64," in html
    assert not re.search(r"""(?:src|href)=["'](?!data:)""", html)
    size = write(view, tmp_path / "folder")
    assert size == sum(f.stat().st_size for f in (tmp_path / "folder").rglob("*") if f.is_file())
    script = (tmp_path / "folder/data/0.js").read_text()
    episode = json.loads(script.removeprefix("DIGIQ.put(0,").removesuffix(");"))
    assert all((tmp_path / "folder" / step["img"]).is_file() for step in episode["steps"])
    write(view, tmp_path / "folder")  # its own page is replaced
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="no page of the viewer"):
        write(view, tmp_path / "mine")
    assert (tmp_path / "mine/notes.txt").read_text() == "mine"


def test_a_page_that_would_be_too_large_names_the_folder(view, tmp_path, monkeypatch):
    monkeypatch.setattr("digiq.report.viewer.pages.MOST_INSIDE", 1000)
    with pytest.raises(ConfigError, match="name a folder"):
        write(view, tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


def test_texts_cannot_end_the_script_they_stand_in():
    text = "</script><script>alert(1)</script>\u2028&"
    assert "<" not in script_json(text) and json.loads(script_json(text)) == text


def test_the_server_answers_this_machine_and_nothing_outside_the_run(view, small_run):
    server = ViewServer(view)
    thread = threading.Thread(target=server.serve, daemon=True)
    thread.start()
    try:
        address = server.url.split("/")[2]

        def get(path, host=None):
            connection = http.client.HTTPConnection(address)
            connection.request("GET", path, headers={"Host": host or address})
            answer = connection.getresponse()
            return answer.status, answer.read()

        first = LabelledEpisodes(small_run.root / "episodes")[0].steps[0].screenshot
        assert get("/")[0] == 200 and get("/screens/0/0.png?1")[1] == first
        assert get("/data/0.js")[1].startswith(b"DIGIQ.put(0,")
        for path in (
            "/data/99999.js",
            "/screens/0/99999.png",
            "/../../etc/passwd",
            "/manifest.json",
            "/data/x.js",
        ):
            assert get(path)[0] == 404, path
        assert get("/", host="elsewhere.example:80")[0] == 404
    finally:
        server.close()


def test_ctrl_c_as_soon_as_the_address_is_shown_is_no_error(small_run, monkeypatch, capsys):
    def interrupted(url: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(view_command.webbrowser, "open", interrupted)
    main(["view", str(small_run.root), "--most", "2", "--open"])
    out, err = capsys.readouterr()
    assert "Ctrl-C stops it" in out and "Stopped." in err


def test_view_writes_a_page_and_says_where(small_run, tmp_path, capsys):
    main(["view", str(small_run.root), "--html", str(tmp_path / "page.html"), "--most", "2"])
    assert "open " in capsys.readouterr().err
    assert (tmp_path / "page.html").read_text().count("DIGIQ.put(") == len(
        RunView(find(small_run.root), "", 2)
    )
