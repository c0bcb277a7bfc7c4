"""The safety list: what it refuses, and that nothing refused reaches the device."""

from __future__ import annotations

import numpy as np
import pytest

from android_env.actions import Action, ActionType
from android_env.devices import Observation
from android_env.devices.simulated.phone import SimulatedPhone
from android_env.env import AndroidEnv
from android_env.errors import EpisodeError
from android_env.safety import SafetyList
from android_env.tasks import load_tasks

TASKS = load_tasks("webshop/train")
LIST = SafetyList(
    packages=("com.android.vending", "com.bank.*"),
    urls=("evil.com", "shop.org/pay*"),
    texts=(r"\d{16}", "password"),
)


def seen(activity="com.android.settings/.Main"):
    return Observation(np.zeros((4, 4, 3), np.uint8), "goal", activity, "[]")


@pytest.mark.parametrize(
    "text",
    [
        "evil.com",
        "http://EVIL.com/x",
        "go to www.evil.com now",
        "https://a.b.evil.com:8080/",
        "shop.org/payment",
        "my Password",
        "4111111111111111",
    ],
)
def test_refused_texts(text):
    assert "safety list" in LIST.refusal(Action.type_text(text), seen())


@pytest.mark.parametrize(
    "text", ["evil", "notevil.com", "evil.com.au", "shop.org/cart", "shop.org", "12345", ""]
)
def test_allowed_texts(text):
    assert LIST.refusal(Action.type_text(text), seen()) == ""


def test_a_refused_app_may_be_left_but_not_used_or_opened():
    bank = seen("com.bank.app/.Pay")
    for action in (Action.tap(0.5, 0.5), Action.swipe("up"), Action.type_text("x"), Action.enter()):
        assert "com.bank.*" in LIST.refusal(action, bank)
        assert LIST.refusal(action, seen()) == ""
    for action in (Action.back(), Action.home(), Action.complete(), Action.impossible()):
        assert LIST.refusal(action, bank) == ""
    assert LIST.refusal(Action(ActionType.OPEN_APP, text="com.android.vending"), seen())
    assert not LIST.refusal(Action(ActionType.OPEN_APP, text="com.android.deskclock"), seen())


def test_an_empty_list_refuses_nothing_and_a_wrong_pattern_is_an_error():
    assert SafetyList().refusal(Action.type_text("evil.com password"), seen("com.bank.app/")) == ""
    with pytest.raises(ValueError, match="not a regular expression"):
        SafetyList(texts=("(",))


def test_nothing_refused_reaches_the_device():
    class Watched(SimulatedPhone):
        executed: list = []  # noqa: RUF012

        def execute(self, action):
            self.executed.append(action)
            super().execute(action)

    env = AndroidEnv(Watched(render=False), TASKS, safety=LIST)
    env.reset(seed=0)
    assert env.step(Action.type_text("a word"))[4]["refused"] == ""
    _, reward, terminated, truncated, info = env.step(Action.type_text("my password"))
    assert (reward, terminated, truncated, info["outcome"]) == (0.0, True, False, "failure")
    assert info["executed"] is None and info["step"] == 1 and "password" in info["refused"]
    assert Watched.executed == [Action.type_text("a word")]
    with pytest.raises(EpisodeError):
        env.step(Action.back())
    assert env.reset(seed=1)[1]["refused"] == ""
