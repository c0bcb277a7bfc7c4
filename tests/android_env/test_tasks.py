"""Tasks: splits that hold what they promise, files, and the audit."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re

import pytest

from android_env.errors import TaskError
from android_env.tasks import Task, TaskSet, audit, load_tasks, names, save_tasks
from android_env.tasks import webshop as shop
from android_env.tasks.sets import FINAL

DIGESTS = {
    "train": "baf20d1b2a0ab64b",
    "test": "5920435425f7ef45",
    "tune": "6b917485a70e2691",
    "final": "9e9c6f6c48ad2c37",
}
"""Digests of ids and goals. Results are only comparable while these stay."""


def task(number: int, split: str = "train", **params: str) -> Task:
    return Task(f"t{number}-{split}", f"goal {number} {split}", "webshop", 2, split, params)


def test_webshop_splits_hold_out_what_they_say():
    sets = {
        name: load_tasks(f"webshop/{name}")
        for name in ("train", "test_query", "test_combination", "test_site")
    }
    pairs = {name: {(t.params["site"], t.params.get("query")) for t in tasks} for name, tasks in sets.items()}
    sites = {name: {site for site, _ in found} for name, found in pairs.items()}
    queries = {name: {query for _, query in found} - {None} for name, found in pairs.items()}
    assert not queries["test_query"] & queries["train"] and sites["test_query"] == sites["train"]
    assert not pairs["test_combination"] & pairs["train"]
    assert sites["test_combination"] == sites["train"] and queries["test_combination"] <= queries["train"]
    assert not sites["test_site"] & sites["train"]
    others = len(load_tasks("webshop/tune")) + len(load_tasks("webshop/final"))
    assert sum(map(len, sets.values())) + others == len(load_tasks("webshop"))


def test_tuning_tasks_share_nothing_with_training_or_test():
    tune, rest = load_tasks("webshop/tune"), [t for t in load_tasks("webshop") if t.split != "tune"]
    assert not {t.goal for t in tune} & {t.goal for t in rest}
    shown = {(t.params["site"], t.params.get("query")) for t in rest}
    assert not {(t.params["site"], t.params.get("query")) for t in tune} & shown
    for t in tune:
        assert t.params["site"] in shop.TUNE_SITES or t.params["query"] in shop.TUNE_QUERIES
        assert t.params["site"] not in shop.TEST_SITES and t.params.get("query") not in shop.TEST_QUERIES
    assert not {*shop.TUNE_SITES, *shop.TUNE_QUERIES} & {*shop.SITES, *shop.QUERIES}
    assert "tune" not in {t.split for t in load_tasks("webshop/test")}
    assert {t.level for t in tune} == {1, 2, 3}


def test_final_tasks_share_nothing_that_is_theirs_with_any_other():
    final, rest = load_tasks("webshop/final"), [t for t in load_tasks("webshop") if t.split not in FINAL]
    assert {t.split for t in final} == set(FINAL) and not {t.goal for t in final} & {t.goal for t in rest}
    known = {value for t in rest for value in t.params.values()}
    for t in final:
        assert not {t.params[key] for key in FINAL[t.split] if key in t.params} & known
        assert (t.params["site"] in shop.TRAIN_SITES) == (t.split == "final_query")
    assert {(t.split, t.level) for t in final} == {
        ("final_query", 2), ("final_query", 3), ("final_site", 1), ("final_site", 2), ("final_site", 3),
    }  # fmt: skip
    words = {w for site_or_query in known for w in re.findall("[a-z]+", site_or_query)} - {"com"}
    assert not words & {w for v in (*shop.FINAL_SITES, *shop.FINAL_QUERIES) for w in re.findall("[a-z]+", v)}


def test_tasks_are_those_that_results_were_reported_on():
    digest = {
        name: hashlib.sha256(
            "\n".join(f"{t.task_id}|{t.goal}" for t in load_tasks(f"webshop/{name}")).encode()
        ).hexdigest()
        for name in DIGESTS
    }
    assert {name: value[:16] for name, value in digest.items()} == DIGESTS


def test_webshop_has_the_promised_size():
    tasks = [t for t in load_tasks("webshop") if t.split != "tune" and t.split not in FINAL]
    assert {t.params["site"] for t in tasks} == set(shop.SITES) and len(shop.SITES) == 6
    assert {t.params["query"] for t in tasks if t.level > 1} == set(shop.QUERIES) and len(shop.QUERIES) == 24
    assert {t.level for t in tasks} == {1, 2, 3} and {t.max_steps for t in tasks} == {20}
    assert len(load_tasks("webshop/train").where(level=1)) == 4 * 6


def test_a_name_may_end_in_a_level():
    easy = load_tasks("webshop/train/1")
    assert list(easy) == list(load_tasks("webshop/train").where(level=1)) and easy.name == "webshop/train/1"
    assert {t.split for t in load_tasks("webshop/test/1")} == {"test_site"}
    with pytest.raises(
        TaskError, match="'webshop/test_query/1' is empty; levels of 'webshop/test_query': 2, 3"
    ):
        load_tasks("webshop/test_query/1")
    for name in ("webshop/1", "webshop/train/x", "nowhere/train/1"):
        with pytest.raises(TaskError, match="no task set is called"):
            load_tasks(name)


def test_general_has_twelve_templates_in_both_splits():
    train, test = load_tasks("general/train"), load_tasks("general/test")
    assert len({t.params["template"] for t in train}) == 12
    assert {t.params["template"] for t in train} == {t.params["template"] for t in test}
    assert {t.max_steps for t in train} == {10}


def test_what_must_be_typed_is_a_span_of_the_goal():
    for t in load_tasks("webshop"):
        assert all(value in t.goal for value in t.params.values())
    for t in load_tasks("general"):
        assert t.params["query"] in t.goal


def test_test_is_the_union_of_the_test_splits():
    assert {t.task_id for t in load_tasks("webshop/test")} == {
        t.task_id for t in load_tasks("webshop") if t.split.startswith("test_")
    }
    assert "general/final" not in names()
    assert set(names()) >= {"webshop", "webshop/train", "webshop/test", "general/train", "general/test"}
    assert all(len(load_tasks(name)) for name in names())


@pytest.mark.parametrize(
    "leak",
    [
        task(1, "test_query", site="b.com", query="cup"),
        task(1, "test_site", site="a.com", query="pen"),
        task(1, "test_combination", site="a.com", query="cup"),
        dataclasses.replace(task(0, "test", site="c.com", query="pen"), goal="goal 0 train"),
    ],
)
def test_leaks_are_refused(leak):
    train = task(0, site="a.com", query="cup")
    with pytest.raises(TaskError, match=r"t0-train.*take one"):
        TaskSet("mine", (train, leak))


@pytest.mark.parametrize(
    "leak",
    [
        task(1, "test_query", site="b.com", query="cup"),
        task(1, "test_site", site="a.com", query="pen"),
        task(1, "test_combination", site="a.com", query="cup"),
        dataclasses.replace(task(0, "test", site="c.com", query="pen"), goal="goal 0 tune"),
    ],
)
def test_test_tasks_that_tuning_shows_are_refused(leak):
    with pytest.raises(TaskError, match=r"of tuning task 't0-tune'"):
        TaskSet("mine", (task(0, "tune", site="a.com", query="cup"), leak))


@pytest.mark.parametrize("split", ["train", "tune", "test_query", "test_site"])
@pytest.mark.parametrize(
    ("leak", "what"),
    [
        (task(1, "final_query", site="b.com", query="cup"), "query"),
        (task(1, "final_site", site="b.com", query="cup"), "query"),
        (task(1, "final_site", site="a.com", query="pen"), "site"),
        (task(1, "final_site", site="a.com"), "site"),
        (dataclasses.replace(task(0, "final_site", site="c.com"), goal="goal 0"), "goal"),
    ],
)
def test_final_tasks_that_any_other_split_shows_are_refused(split, leak, what):
    other = dataclasses.replace(task(0, split, site="a.com", query="cup"), goal="goal 0")
    with pytest.raises(TaskError, match=rf"has the {what} of {split} task|of (training|tuning) task"):
        TaskSet("mine", (other, leak))
    front = task(2, split, site="b.com")
    own = task(3, "final_site", site="c.com"), task(3, "final_query", site="a.com", query="hat")
    assert len(TaskSet("mine", (other, front, *own))) == 4


def test_tuning_tasks_that_training_shows_are_refused():
    train = task(0, site="a.com", query="cup")
    with pytest.raises(TaskError, match="of training task"):
        TaskSet("mine", (train, task(1, "tune", site="a.com", query="cup")))
    assert TaskSet("mine", (train, task(1, "tune", site="a.com", query="hat")))


def test_honest_sets_pass_the_audit():
    train = (task(0, site="a.com", query="cup"), task(1, site="b.com", query="pen"))
    held_out = (
        task(2, "test_query", site="a.com", query="hat"),
        task(2, "test_combination", site="a.com", query="pen"),
        task(2, "test_site", site="c.com", query="cup"),
    )
    audit(train + held_out)
    assert len(TaskSet("mine", train + held_out)) == 5


def test_empty_and_doubled_sets_are_refused():
    with pytest.raises(TaskError, match="empty"):
        TaskSet("mine", ())
    with pytest.raises(TaskError, match="twice"):
        TaskSet("mine", (task(0), task(0)))


def test_a_task_file_gives_back_what_was_saved(tmp_path):
    path = tmp_path / "tasks.json"
    save_tasks(load_tasks("webshop/test_site"), path)
    assert tuple(load_tasks(path)) == tuple(load_tasks("webshop/test_site"))


@pytest.mark.parametrize(
    "content, message",
    [
        ("[]", "lists no task"),
        ("", "not a JSON"),
        ("{", "not a JSON"),
        ('{"tasks": []}', "lists no task"),
        ("[1]", "entry 0"),
        (json.dumps([{"task_id": "a"}]), "missing field 'family'"),
        (json.dumps([{"task_id": "a", "gaol": "b"}]), "unknown field 'gaol'"),
        (json.dumps([dataclasses.asdict(task(0)) | {"goal": ""}]), "goal"),
        (json.dumps([dataclasses.asdict(task(0)) | {"max_steps": 0}]), "max_steps"),
        (json.dumps([dataclasses.asdict(task(0)) | {"level": "two"}]), "whole numbers"),
        (json.dumps([dataclasses.asdict(task(0)) | {"params": {"query": 3}}]), "strings"),
    ],
)
def test_bad_task_files_are_named(tmp_path, content, message):
    path = tmp_path / "tasks.json"
    path.write_text(content)
    with pytest.raises(TaskError, match=message):
        load_tasks(path)


def test_unknown_names_list_the_known_ones():
    with pytest.raises(TaskError, match="webshop/train"):
        load_tasks("webshop/trian")
    with pytest.raises(TaskError, match="no such task file"):
        load_tasks("nowhere.json")


def test_every_page_of_miniwob_is_a_task_or_has_a_reason_why_not():
    pytest.importorskip("gymnasium")
    from android_env.devices.miniwob import page_names
    from android_env.errors import SetupError
    from android_env.tasks import miniwob

    try:
        pages = page_names()
    except SetupError as error:
        pytest.skip(str(error))
    made = {task.params["page"]: task for task in load_tasks("miniwob_all")}
    assert len(pages) == 130 and set(made) | set(miniwob.UNPLAYABLE) == set(pages)
    assert not set(made) & set(miniwob.UNPLAYABLE)
    for task in load_tasks("miniwob"):
        assert made[task.params["page"]] == task
    assert {task.split for task in made.values()} == {"train", "test_page", "more"}
    assert len(load_tasks("miniwob/test")) == 4, "the older sets are as they were"
