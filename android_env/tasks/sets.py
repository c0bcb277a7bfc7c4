"""Task sets: built-in ones, files, and the audit that keeps test tasks out of training and tuning, and final tasks out of
all others."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path

from android_env.errors import SetupError, TaskError
from android_env.tasks import general, miniwob, webshop
from android_env.tasks.task import Task

FAMILIES: dict[str, Callable[[], tuple[Task, ...]]] = {
    "webshop": webshop.tasks,
    "general": general.tasks,
    "miniwob": miniwob.tasks,
    "miniwob_all": miniwob.all_tasks,
}
"""Built-in families; each function makes all tasks of its family."""

UNSEEN: dict[str, tuple[str, ...]] = {
    "test_query": ("template", "query"),
    "test_combination": ("site", "query"),
    "test_site": ("site",),
    "test_page": ("page",),
    "test_screen": ("screen",),
    "tune": ("site", "query"),
}
"""What each split guarantees: no training task, nor, for a test split, any tuning task has the same combination of
values of these parameters."""

_MOBILEGYM = "mobilegym:"
SEEN = ("train", "tune")
"""The splits on which parameters and settings are chosen; all others are for reporting. Tuning tasks are disjoint from
training tasks, and test tasks from both."""

FINAL: dict[str, tuple[str, ...]] = {"final_query": ("query",), "final_site": ("site", "query")}
"""The splits of a final measurement, and the parameters whose values occur in no task of any other split. They are no
part of `<family>/test`, on which versions of the method have been compared."""


@dataclasses.dataclass(frozen=True)
class TaskSet(Sequence[Task]):
    """A named, audited tuple of tasks.

    Raises:
        TaskError: the set is empty, two tasks share an id, or a task leaks into another split (see `audit`).
    """

    name: str
    tasks: tuple[Task, ...]

    def __post_init__(self) -> None:
        if not self.tasks:
            raise TaskError(f"task set {self.name!r} is empty; give it at least one task.")
        seen: set[str] = set()
        for task in self.tasks:
            if task.task_id in seen:
                raise TaskError(f"task set {self.name!r} has task {task.task_id!r} twice; keep one.")
            seen.add(task.task_id)
        audit(self.tasks, self.name)

    def __len__(self) -> int:
        return len(self.tasks)

    def __getitem__(self, index):  # type: ignore[override]
        return self.tasks[index]

    def __iter__(self) -> Iterator[Task]:
        return iter(self.tasks)

    def where(self, *, split: str | None = None, level: int | None = None) -> TaskSet:
        """The tasks of one split, of one level, or of a split and a level.

        Raises:
            TaskError: there is no such task.
        """
        kept = tuple(
            t
            for t in self.tasks
            if (split is None or t.split == split) and (level is None or t.level == level)
        )
        return TaskSet(f"{self.name}[split={split}, level={level}]", kept)


def audit(tasks: Iterable[Task], name: str = "tasks") -> None:
    """Refuses tuning tasks that leak into training, test tasks that leak into either, final tasks that leak into any.

    Raises:
        TaskError: a task has the same goal as a training (or tuning) task, or the same values as one of its family in
            the parameters that its split guarantees to be unseen (`UNSEEN`); or a final task shares its goal, or a value
            that is to be its own (`FINAL`), with a task of any other split.
    """
    tasks = tuple(tasks)
    for number, what in enumerate(SEEN):
        shown = [task for task in tasks if task.split == what]
        _refuse_shown(shown, [task for task in tasks if task.split not in SEEN[: number + 1]], name)
    _refuse_shared([t for t in tasks if t.split in FINAL], [t for t in tasks if t.split not in FINAL], name)


def _refuse_shown(shown: Sequence[Task], others: Iterable[Task], name: str) -> None:
    goals = {task.goal: task for task in shown}
    seen = {
        keys: {(t.family, *(t.params.get(k) for k in keys)): t for t in shown} for keys in UNSEEN.values()
    }
    kinds = {"train": "training", "tune": "tuning"}
    for task in others:
        leak = goals.get(task.goal)
        what = "the goal"
        keys = UNSEEN.get(task.split, ())
        if leak is None and keys:
            leak = seen[keys].get((task.family, *(task.params.get(k) for k in keys)))
            what = " and ".join(keys)
        if leak is not None:
            raise TaskError(
                f"{name}: {task.split} task {task.task_id!r} has {what} of {kinds[leak.split]} task {leak.task_id!r}; "
                "take one of them out."
            )


def _refuse_shared(final: Iterable[Task], others: Sequence[Task], name: str) -> None:
    goals = {task.goal: task for task in others}
    taken = {(task.family, key, value): task for task in others for key, value in task.params.items()}
    for task in final:
        shared = {"goal": goals.get(task.goal)}
        # A task of the first level has no query, so none that it could share.
        shared |= {
            key: taken.get((task.family, key, task.params[key]))
            for key in FINAL[task.split]
            if key in task.params
        }
        for what, other in shared.items():
            if other is not None:
                raise TaskError(
                    f"{name}: {task.split} task {task.task_id!r} has the {what} of {other.split} task "
                    f"{other.task_id!r}; take one of them out."
                )


@lru_cache
def family(name: str) -> TaskSet:
    """All tasks of a built-in family, audited."""
    return TaskSet(name, FAMILIES[name]())


def names() -> list[str]:
    """The built-in task sets: `<family>`, `<family>/<split>`, `<family>/test` for all test splits together, and
    `<family>/final` for all final ones."""
    result = []
    for name in FAMILIES:
        others = _other_splits(name)
        parts = ("train", "test", "final") if any(s in FINAL for s in others) else ("train", "test")
        result += [name, *(f"{name}/{split}" for split in (*parts, *others))]
    return result


def load_tasks(source: str | Path) -> TaskSet:
    """Loads a built-in task set by name, a task file, or the tasks of a recording or a server.

    A built-in name may end in a level: `webshop/train/1` has the tasks of `webshop/train` with level 1. A recording is
    a folder (`devices.replay`); its splits are `FOLDER#train` and `FOLDER#test`. A server is AndroidWorld's, given by
    its address. `mobilegym:CHECKOUT#train` are MobileGym's tasks; the code in that folder is run. A task file is JSON:
    a list of objects with the fields of `Task`, as written by `save_tasks`.

    Raises:
        DeviceFault: a server does not answer.
        TaskError: there is no such set, the file cannot be read or lists no task, or its tasks leak.
    """
    if str(source).startswith(("http://", "https://")):
        from android_env.devices import android_world

        return TaskSet(str(source), android_world.tasks(android_world.Server(str(source))))
    if str(source).startswith(_MOBILEGYM):
        return _mobilegym(str(source))
    folder, _, part = str(source).partition("#")
    if Path(folder).is_dir():
        return _recorded(Path(folder), part)
    path = Path(source)
    if path.suffix == ".json" or path.is_file():
        return _read(path)
    asked, _, level = str(source).rpartition("/") if str(source)[-2:-1] == "/" else (str(source), "", "")
    if level.isdecimal() and "/" in asked and asked in names():
        return _of_level(load_tasks(asked), str(source), int(level))
    name, _, split = str(source).partition("/")
    if str(source) not in names():
        raise TaskError(
            f"no task set is called {str(source)!r}; use a .json file or one of: {', '.join(names())}."
        )
    if not split:
        return family(name)
    return TaskSet(str(source), tuple(task for task in family(name) if split in _sets_of(task.split)))


def _sets_of(split: str) -> tuple[str, ...]:
    """The built-in sets that have tasks of a split, without the family's name."""
    if split in SEEN:
        return (split,)
    return (split, "final" if split in FINAL else "test")


def _mobilegym(source: str) -> TaskSet:
    from android_env.devices.mobilegym.checkout import Checkout

    folder, _, split = source.removeprefix(_MOBILEGYM).partition("#")
    try:
        return TaskSet(source, Checkout(Path(folder)).tasks(split))
    except SetupError as error:
        raise TaskError(str(error)) from None


def _recorded(folder: Path, part: str) -> TaskSet:
    from android_env.devices import replay

    if part not in ("", "train", "test"):
        raise TaskError(f"{folder}: a recording has the splits 'train' and 'test', not {part!r}.")
    kept = tuple(t for t in replay.tasks(folder) if not part or (t.split == "train") == (part == "train"))
    return TaskSet(f"{folder.name}{f'#{part}' if part else ''}", kept)


def _of_level(tasks: TaskSet, name: str, level: int) -> TaskSet:
    kept = tuple(task for task in tasks if task.level == level)
    if not kept:
        levels = ", ".join(str(found) for found in sorted({task.level for task in tasks}))
        raise TaskError(f"task set {name!r} is empty; levels of {tasks.name!r}: {levels}.")
    return TaskSet(name, kept)


def save_tasks(tasks: Iterable[Task], path: str | Path) -> None:
    """Writes a task file that `load_tasks` reads."""
    rows = [dataclasses.asdict(dataclasses.replace(t, params=dict(t.params))) for t in tasks]
    Path(path).write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _other_splits(name: str) -> list[str]:
    return sorted({t.split for t in family(name) if t.split != "train"})


def _read(path: Path) -> TaskSet:
    try:
        rows = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise TaskError(f"{path}: there is no such task file.") from None
    except (OSError, ValueError) as error:
        raise TaskError(f"{path} is not a JSON task file: {error}.") from None
    if not isinstance(rows, list) or not rows:
        raise TaskError(f"{path} lists no task; it must be a non-empty JSON list of tasks.")
    required = {f.name for f in dataclasses.fields(Task)} - {"params", "max_steps"}
    known = required | {"params", "max_steps"}
    tasks = []
    for number, row in enumerate(rows):
        if not isinstance(row, dict):
            raise TaskError(f"{path}: entry {number} is not an object with a task's fields.")
        wrong = sorted(set(row) - known) or sorted(required - set(row))
        if wrong:
            problem = "unknown" if set(row) - known else "missing"
            raise TaskError(
                f"{path}: entry {number} has {problem} field {wrong[0]!r}; a task has: {', '.join(sorted(known))}."
            )
        tasks.append(Task(**row))
    return TaskSet(path.name, tuple(tasks))
