"""Graphs of recorded screens and the actions between them, from DroidBot's explorations or our own recordings."""

from __future__ import annotations

import collections
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from android_env.actions import NO_POINT, Action, ActionType, Point
from android_env.appium.settle import SETTLE
from android_env.errors import TaskError

Kind = Literal["tap", "long_press", "swipe", "type", "back", "home", "enter", "open_app"]
Region = tuple[float, float, float, float]
"""Top, left, bottom and right, fractions of the screen."""
EVERYWHERE: Region = (0.0, 0.0, 1.0, 1.0)

_KEYS: Mapping[ActionType, Kind] = {
    ActionType.PRESS_BACK: "back",
    ActionType.PRESS_HOME: "home",
    ActionType.PRESS_ENTER: "enter",
    ActionType.OPEN_APP: "open_app",
    ActionType.TYPE: "type",
    ActionType.LONG_PRESS: "long_press",
}
_ACTION: Mapping[str, ActionType] = {kind: action for action, kind in _KEYS.items()}
_DROIDBOT: Mapping[str, Kind] = {
    "touch": "tap",
    "long_touch": "long_press",
    "scroll": "swipe",
    "set_text": "type",
    "intent": "open_app",
}
_KEY_NAMES: Mapping[str, Kind] = {"BACK": "back", "HOME": "home", "ENTER": "enter"}
_POINT_SPREAD = 0.04
"""Half the side of the region that a recorded tap covers if no element is known there, fractions of the screen."""


@dataclass(frozen=True)
class Screen:
    """A recorded screen."""

    name: str
    image: Path
    activity: str
    ui_elements: str = "[]"


@dataclass(frozen=True)
class Edge:
    """A recorded transition: what an action did on a screen."""

    start: str
    end: str
    kind: Kind
    region: Region = EVERYWHERE
    """Where the action counts, if it has a position."""
    what: str = ""
    """The finger's direction for a swipe; what was typed or opened for text and apps."""

    @property
    def action(self) -> Action:
        """An action that follows this edge."""
        top, left, bottom, right = self.region
        middle: Point = ((top + bottom) / 2, (left + right) / 2)
        if self.kind == "tap":
            return Action.tap(*middle)
        if self.kind == "swipe":
            dy, dx = {"up": (-0.3, 0), "down": (0.3, 0), "left": (0, -0.3), "right": (0, 0.3)}[self.what]
            start = (_inside(middle[0] - dy / 2), _inside(middle[1] - dx / 2))
            return Action(ActionType.DUAL_POINT, start, (_inside(start[0] + dy), _inside(start[1] + dx)))
        return Action(_ACTION[self.kind], middle if self.kind == "long_press" else NO_POINT, text=self.what)


def _inside(value: float) -> float:
    return min(max(value, 0.0), 1.0)


@dataclass
class Graph:
    """Screens and edges; if equal actions led to different screens, the first recorded one counts.

    Raises:
        TaskError: there is no screen, or an edge leads from or to an unknown one.
    """

    screens: dict[str, Screen]
    edges: list[Edge]
    start: str
    """The screen on which episodes begin."""
    name: str = "replay"
    _out: dict[str, list[Edge]] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if self.start not in self.screens:
            raise TaskError(f"{self.name}: the recording has no first screen {self.start!r}.")
        for edge in self.edges:
            if not {edge.start, edge.end} <= self.screens.keys():
                raise TaskError(
                    f"{self.name}: an edge leads from {edge.start!r} to {edge.end!r}, but not both screens are known."
                )
            self._out.setdefault(edge.start, []).append(edge)

    def follow(self, at: str, action: Action) -> str | None:
        """Where an action leads from a screen; None if it was not recorded there.

        Of nested elements, the smallest touched one counts.
        """
        kind: Kind | None
        if action.type is ActionType.DUAL_POINT:
            kind = "tap" if action.is_tap else "swipe"
        else:
            kind = _KEYS.get(action.type)
        found = [edge for edge in self._out.get(at, ()) if edge.kind == kind and _meets(edge, action)]
        return min(found, key=lambda edge: _area(edge.region)).end if found else None

    def steps_to(self, target: str) -> dict[str, int]:
        """The distance of each screen to the target, in actions that `follow` takes where the recording did."""
        into: dict[str, list[str]] = {}
        for edge in self.edges:
            if self.follow(edge.start, edge.action) == edge.end:
                into.setdefault(edge.end, []).append(edge.start)
        steps, todo = {target: 0}, collections.deque([target])
        while todo:
            at = todo.popleft()
            for before in into.get(at, ()):
                if before not in steps:
                    steps[before] = steps[at] + 1
                    todo.append(before)
        return steps

    def next_action(self, at: str, steps: Mapping[str, int]) -> Action | None:
        """The first action of a shortest path, by `steps_to`; None if there is no path."""
        best = [
            edge
            for edge in self._out.get(at, ())
            if edge.end in steps and self.follow(at, edge.action) == edge.end
        ]
        edge = min(best, key=lambda edge: steps[edge.end], default=None)
        return None if edge is None or steps[edge.end] >= steps.get(at, 1 << 30) else edge.action


def _meets(edge: Edge, action: Action) -> bool:
    if edge.kind in ("tap", "long_press", "swipe"):
        (y, x), (top, left, bottom, right) = action.touch_yx, edge.region
        inside = top <= y <= bottom and left <= x <= right
        return inside and (edge.kind != "swipe" or action.swipe_direction == edge.what)
    if edge.kind in ("type", "open_app"):
        return action.text.strip().casefold() == edge.what.strip().casefold()
    return True


def _area(region: Region) -> float:
    return (region[2] - region[0]) * (region[3] - region[1])


def load(folder: str | Path) -> Graph:
    """Opens DroidBot's output (`utg.js`, `states/`, `events/`), or a folder of recorded episodes (`recording`).

    Raises:
        TaskError: the folder is neither, or is damaged.
    """
    folder = Path(folder)
    try:
        if (folder / "utg.js").is_file():
            return _droidbot(folder)
        return _recordings(folder)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TaskError(
            f"{folder}: the recording cannot be read ({type(error).__name__}: {error})."
        ) from None


def _droidbot(folder: Path) -> Graph:
    text = (folder / "utg.js").read_text(encoding="utf-8")
    about = json.loads(text[text.index("{") : text.rindex("}") + 1])
    states = {}
    for path in sorted((folder / "states").glob("state_*.json")):
        state = json.loads(path.read_text(encoding="utf-8"))
        states.setdefault(state["state_str"], state)
    screens = {}
    for node in about["nodes"]:
        name, image = str(node["id"]), folder / str(node["image"])
        if image.is_file():
            size = _image_size(image)
            activity = f"{node['package']}/{node['activity']}"
            screens[name] = Screen(name, image, activity, _elements(states.get(name, {}), size))
    edges, first = [], ""
    for path in sorted((folder / "events").glob("event_*.json")):
        row = json.loads(path.read_text(encoding="utf-8"))
        event, start, end = row["event"], str(row["start_state"]), str(row["stop_state"])
        edge = None
        if {start, end} <= screens.keys():
            edge = _event(event, start, end, _image_size(screens[start].image))
        if edge is not None:
            edges.append(edge)
            if not first and edge.kind == "open_app":
                first = end
    return Graph(screens, edges, first or next(iter(screens), ""), str(about.get("app_package", folder.name)))


def _event(event: Mapping[str, Any], start: str, end: str, size: tuple[int, int]) -> Edge | None:
    kind = _DROIDBOT.get(event["event_type"]) or _KEY_NAMES.get(str(event.get("name")))
    if kind is None:
        return None
    region, what = EVERYWHERE, ""
    height, width = size
    if kind in ("tap", "long_press", "swipe"):
        if event.get("view"):
            (x0, y0), (x1, y1) = event["view"]["bounds"]
        elif event.get("x") is not None:
            (x0, y0), (x1, y1) = (event["x"] - 40, event["y"] - 40), (event["x"] + 40, event["y"] + 40)
        else:
            return None
        region = (_inside(y0 / height), _inside(x0 / width), _inside(y1 / height), _inside(x1 / width))
        if _area(region) <= 0:
            return None
    if kind == "swipe":
        # DroidBot names the direction in which the view moves; the finger moves the other way.
        what = {"up": "down", "down": "up", "left": "right", "right": "left"}[str(event["direction"]).lower()]
    elif kind == "type":
        what = str(event.get("text", ""))
    elif kind == "open_app":
        what = str(event.get("intent", "")).split()[-1].partition("/")[0]
    return Edge(start, end, kind, region, what)


def _image_size(path: Path) -> tuple[int, int]:
    from PIL import Image

    with Image.open(path) as image:
        return image.height, image.width


def _elements(state: Mapping[str, Any], size: tuple[int, int]) -> str:
    height, width = size
    found = []
    for view in state.get("views", ()):
        text = view.get("text") or view.get("content_description") or ""
        (x0, y0), (x1, y1) = view["bounds"]
        counts = view.get("visible") and (text or view.get("clickable")) and x1 > x0 and y1 > y0
        if counts and not view.get("children"):
            bounds = (y0 / height, x0 / width, (y1 - y0) / height, (x1 - x0) / width)
            found.append(
                {
                    "text": str(text),
                    "role": str(view.get("class", "")).rpartition(".")[2],
                    "id": view.get("resource_id") or "",
                    "bounds": [round(value, 4) for value in bounds],
                }
            )
    return json.dumps(found, ensure_ascii=False, separators=(",", ":"))


def _recordings(folder: Path) -> Graph:
    from android_env.recording import read_recordings

    screens: dict[str, Screen] = {}
    edges: dict[tuple[str, str], Edge] = {}
    first: collections.Counter[str] = collections.Counter()

    def screen(moment: Any) -> str:
        name = hashlib.sha256(_below_the_clock(moment.image) + moment.activity.encode()).hexdigest()[:16]
        screens.setdefault(name, Screen(name, moment.image, moment.activity, moment.ui_elements))
        return name

    for recording in read_recordings(folder):
        names = [screen(moment) for moment in recording.moments]
        first.update(names[:1])
        for start, moment, end in zip(names, recording.moments, names[1:], strict=False):
            if moment.action is not None and (edge := _acted(start, end, moment)) is not None:
                edges.setdefault((start, repr(moment.action)), edge)
    begins = first.most_common(1)[0][0] if first else ""
    return Graph(screens, list(edges.values()), begins, folder.name)


def _below_the_clock(image: Path) -> bytes:
    """The pixels below the status bar, since a different clock does not make a different screen."""
    from PIL import Image

    with Image.open(image) as opened:
        pixels = np.asarray(opened.convert("RGB"))
    return pixels[round(SETTLE.status_bar * len(pixels)) :].tobytes()


def _acted(start: str, end: str, moment: Any) -> Edge | None:
    action: Action = moment.action
    if action.type is ActionType.DUAL_POINT:
        region = _touched(action.touch_yx, moment.ui_elements)
        kind: Kind = "tap" if action.is_tap else "swipe"
        return Edge(start, end, kind, EVERYWHERE if kind == "swipe" else region, action.swipe_direction or "")
    kind_of = _KEYS.get(action.type)
    if kind_of is None:
        return None
    region = _touched(action.touch_yx, moment.ui_elements) if kind_of == "long_press" else EVERYWHERE
    return Edge(start, end, kind_of, region, action.text)


def _touched(at: Point, ui_elements: str) -> Region:
    """The smallest element at a point; a small square if there is none."""
    y, x = at
    regions = [
        (top, left, top + tall, left + wide)
        for top, left, tall, wide in (element["bounds"] for element in json.loads(ui_elements))
    ]
    inside = [r for r in regions if r[0] <= y <= r[2] and r[1] <= x <= r[3]]
    spread = _POINT_SPREAD
    square = (_inside(y - spread), _inside(x - spread), _inside(y + spread), _inside(x + spread))
    return min(inside, key=_area, default=square)


def targets(graph: Graph, *, least: int = 2) -> Iterator[tuple[str, int]]:
    """Screens whose distance from the first one is at least `least` actions, each with that distance."""
    for name in graph.screens:
        steps = graph.steps_to(name).get(graph.start)
        if steps is not None and steps >= least:
            yield name, steps


def words_of(screen: Screen, others: Iterable[Screen], most: int = 3) -> list[str]:
    """Texts that distinguish a screen from others: the rarest first, then shorter before longer ones."""
    seen = collections.Counter(text for other in others for text in _texts(other))
    own = sorted(_texts(screen), key=lambda text: (seen[text], len(text)))
    return own[:most]


def _texts(screen: Screen) -> set[str]:
    texts = {" ".join(str(element["text"]).split()) for element in json.loads(screen.ui_elements)}
    return {text for text in texts if 1 < len(text) <= 40}
