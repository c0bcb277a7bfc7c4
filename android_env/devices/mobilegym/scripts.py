"""Scripted players of MobileGym: one that knows some training tasks, one that acts at random, one that does nothing.

The first reads labels from the page and looks up what a task asks for among its drawn parameters. For a task that is
not in `PLANS` it declares the end and fails.
"""

from __future__ import annotations

import re
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from android_env.actions import Action, Direction
from android_env.appium.chromium import script
from android_env.appium.device import AppiumDevice
from android_env.devices.mobilegym import Phone
from android_env.devices.mobilegym.checkout import Episode

DIRECTIONS: tuple[Direction, ...] = ("up", "down", "left", "right")
LOOKS = 6
"""How often the player scrolls on to find a label."""


@dataclass(frozen=True)
class Tap:
    """Taps the element with this label (its text or its name), or by a CSS selector."""

    label: str
    css: bool = False
    part: bool = False
    """Whether the label may be only a part of the text."""
    last: bool = False
    """Whether the last of several elements is meant, instead of the first."""


@dataclass(frozen=True)
class Type:
    """Types into the focused field."""

    text: str


@dataclass(frozen=True)
class Press:
    """Presses a button."""

    action: Action


@dataclass(frozen=True)
class Open:
    """Opens an app."""

    app: str


@dataclass(frozen=True)
class Point:
    """Taps a point, fractions of the screen; for icons, which have no label."""

    y: float
    x: float


Step = Tap | Point | Type | Press | Open
BACK = Press(Action.back())

_SETTINGS = (Tap("我"), Tap("设置"))
_SWITCH = 0.9  # horizontal position of a switch in its row
PLANS: dict[str, Sequence[Step]] = {
    "wechat.OpenRadarAddFriend": (Point(0.07, 0.93), Tap("添加朋友"), Tap("雷达")),
    "wechat.OpenNewFriends": (Tap("通讯录"), Tap("新的朋友")),
    "wechat.OpenBlacklist": (*_SETTINGS, Tap("朋友权限"), Tap("通讯录黑名单")),
    "wechat.EnableDarkMode": (
        *_SETTINGS,
        Tap("通用"),
        Tap("深色模式"),
        Point(0.135, _SWITCH),
        Tap("深色模式", last=True),
        Tap("完成"),
    ),
    "wechat.SetPatText": (
        Tap("我"),
        Tap("小明"),
        Tap("拍一拍"),
        Tap("input", css=True),
        Type("{text}"),
        BACK,  # closes the keyboard
        Tap("完成"),
    ),
    "wechat.ToggleFriendConfirmation": (*_SETTINGS, Tap("朋友权限"), Point(0.14, _SWITCH)),
    "wechat.ToggleStrangerViewMoments": (*_SETTINGS, Tap("朋友权限"), Tap("朋友圈"), Point(0.27, _SWITCH)),
    "wechat.ToggleMobileAutoPlayMomentsVideo": (
        *_SETTINGS,
        Tap("通用"),
        Tap("照片、视频、文件和通话"),
        Point(0.66, _SWITCH),
    ),
    "wechat.ReadMyWxid": (
        Open("answer_sheet"),
        Tap("input", css=True),
        Type("xiaoming001"),
        BACK,
        Tap("提交答案"),
    ),
    "notes.AddNewTodo": (Tap("待办"), Point(0.82, 0.82), Type("{text}")),
    "notes.ChangeViewMode": (Point(0.10, 0.88), Tap("{mode|list=单列|grid=双列}")),
    "notes.CreateNewNote": (
        Point(0.82, 0.82),
        Tap("input", css=True),
        Type("{title}"),
        Point(0.08, 0.90),
    ),
    "sms.MarkAllConversationsRead": (Point(0.10, 0.80),),
    "alipay.EnableDarkMode": (
        Tap("我的"),
        Point(0.07, 0.93),
        Tap("通用"),
        Tap("深色模式"),
        Point(0.35, 0.5),
    ),
    "calendar.ToggleShowWeekNumber": (Point(0.09, 0.88), Tap("设置"), Point(0.52, _SWITCH)),
    "weather.SwitchTempUnit": (
        Point(0.07, 0.93),
        Tap("设置"),
        Tap("温度单位"),
        Tap("{unit|celsius=摄氏度°C|fahrenheit=华氏度°F}"),
    ),
}
"""Plans by MobileGym's name of the training task; `{name}` stands for a parameter, `{name|value=word}` for a word that
depends on it."""

_FIND = """
const [label, css, part, last] = arguments;
const [width, height] = [innerWidth, innerHeight];
const own = e => [...e.childNodes].filter(n => n.nodeType === 3).map(n => n.data).join('').trim();
const named = e => [own(e), e.getAttribute('aria-label'), e.placeholder, e.innerText?.trim(), e.value]
  .some(text => typeof text === 'string' && text && (part ? text.includes(label) : text === label));
const found = [];
for (const e of document.querySelectorAll(css ? label : '*')) {
  if (!css && !named(e)) continue;
  const box = e.getBoundingClientRect();
  const [y, x] = [box.top + box.height / 2, box.left + box.width / 2];
  if (!box.width || !box.height || y < 0 || x < 0 || y >= height || x >= width) continue;
  const top = document.elementFromPoint(x, y);
  if (!top || !(e.contains(top) || top.contains(e))) continue;
  found.push([y / height, x / width, box.width * box.height]);
}
found.sort((a, b) => a[2] - b[2]);
const least = found.filter(f => css || f[2] <= 4 * found[0][2]);
return least.length ? least[last ? least.length - 1 : 0] : null;
"""


@dataclass
class _Progress:
    step: int = 0
    looks: int = 0


_PROGRESS: weakref.WeakKeyDictionary[Episode, _Progress] = weakref.WeakKeyDictionary()


def oracle(device: AppiumDevice, rng: np.random.Generator | None = None) -> Action:
    """The next action of the plan.

    Raises:
        DeviceFault: the page does not answer.
    """
    phone = device.dialect
    assert isinstance(phone, Phone) and phone.episode is not None
    episode = phone.episode
    progress = _PROGRESS.setdefault(episode, _Progress())
    plan = PLANS.get(episode.name, ())
    if progress.step >= len(plan):
        return Action.complete()
    step = plan[progress.step]
    match step:
        case Tap():
            label = _filled(step.label, episode.task.params)
            at = device.ask(lambda driver: script(driver, _FIND, label, step.css, step.part, step.last))
            if at is None:
                progress.looks += 1
                return Action.swipe("up") if progress.looks <= LOOKS else Action.complete()
            action = Action.tap(at[0], at[1])
        case Point():
            action = Action.tap(step.y, step.x)
        case Type():
            action = Action.type_text(_filled(step.text, episode.task.params))
        case Press():
            action = step.action
        case Open():
            action = Action.open_app(_filled(step.app, episode.task.params))
    progress.step, progress.looks = progress.step + 1, 0
    return action


def _filled(text: str, params: Mapping[str, Any]) -> str:
    def value(gap: re.Match[str]) -> str:
        words = dict(pair.split("=", 1) for pair in gap[2].split("|")[1:])
        found = str(params[gap[1]])
        return words.get(found, found)

    return re.sub(r"\{(\w+)((?:\|[^|}]+=[^|}]*)*)\}", value, text)


def by_chance(device: AppiumDevice, rng: np.random.Generator) -> Action:
    """Taps anywhere (7 in 10), swipes (2 in 10), or goes back; never declares an end."""
    draw = rng.random()
    if draw < 0.7:
        return Action.tap(*rng.random(2))
    return Action.swipe(DIRECTIONS[rng.integers(4)]) if draw < 0.9 else Action.back()


def idle(device: AppiumDevice, rng: np.random.Generator) -> Action:
    """Declares the end at once."""
    return Action.complete()


SCRIPTED: dict[str, Callable[[AppiumDevice, np.random.Generator], Action]] = {
    "oracle": oracle,
    "random": by_chance,
    "idle": idle,
}
"""The players by name; each chooses the next action."""
