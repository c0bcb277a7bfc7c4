"""Simulated foreign agents: programs behind an OpenAI-compatible server, each with its own text dialect.

They stand for agents of other authors. A server is sent a screenshot and a goal over HTTP, and answers in words;
nothing of DigiQ reaches it. As it cannot see, the simulator tells it what a screenshot shows (:class:`Eyes`). Errors
are systematic: on a kind of screen that an agent gets wrong, it always prefers the same mistake, so that voting among
its answers does not help. These agents imply nothing about any real model.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import hashlib
import io
import json
import math
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
from PIL import Image

from android_env.actions import Action
from android_env.devices import Observation
from android_env.devices.simulated import kernel
from android_env.devices.simulated.collector import mistakes
from android_env.devices.simulated.display import Display
from android_env.devices.simulated.phone import SimulatedPhone
from digiq.dialects.base import Dialect
from digiq.dialects.mobile_use import MobileUse
from digiq.dialects.ui_tars import UiTars

_GOAL = re.compile(r"^Goal: (.*)$", re.MULTILINE)


@dataclasses.dataclass(frozen=True)
class Character:
    """The character of a simulated agent."""

    name: str
    dialect: Dialect
    confused: float
    """Share of the kinds of screen that the agent gets wrong."""
    stubborn: float
    """Probability of its favourite mistake on those screens."""
    right: float
    """Probability of the right action on those screens."""
    sure: float
    """Probability of the right action on other screens."""
    mumbles: float = 0.01
    """Share of its answers that contain no action."""


# On the screens that they get wrong, the favourite mistake is likelier than the right action, so that neither greedy
# choice nor voting helps.
WEAK = Character("weak", UiTars(), confused=0.4, stubborn=0.5, right=0.4, sure=0.92)
STRONG = Character(
    "strong", MobileUse(coordinates="pixels"), confused=0.25, stubborn=0.5, right=0.42, sure=0.97
)
CHARACTERS = {"weak": WEAK, "strong": STRONG}


class Eyes:
    """The content of all screens that a phone has shown, by screenshot and goal."""

    def __init__(self) -> None:
        self._shown: dict[tuple[bytes, str], Display] = {}
        self._lock = threading.Lock()

    def see(self, screenshot: np.ndarray, display: Display) -> None:
        """Remembers the content of a screenshot."""
        with self._lock:
            self._shown[_digest(screenshot), display.task.goal] = display

    def recognise(self, screenshot: np.ndarray, goal: str) -> Display | None:
        """The content of a screenshot; None if no phone has shown it under this goal."""
        return self._shown.get((_digest(screenshot), goal))


class WatchedPhone(SimulatedPhone):
    """The embedded phone, with a record of what it shows."""

    eyes: Eyes

    def observe(self) -> Observation:
        """The current screen of the phone."""
        seen = super().observe()
        self.eyes.see(seen.screenshot, self.display)
        return seen


def watched(eyes: Eyes) -> WatchedPhone:
    """A phone whose screens ``eyes`` can recognise."""
    phone = WatchedPhone()
    phone.eyes = eyes
    return phone


def choices(character: Character, display: Display) -> list[tuple[Action, float]]:
    """The agent's possible actions on a screen, with probabilities."""
    state, task = display.state, display.task
    best = kernel.oracle(state, task)
    # The kind of a screen does not depend on the shop, so the agent errs in all shops alike.
    kind = (state.page, state.overlay, bool(state.text), state.loading, best[0])
    found = mistakes(display)
    wrong = sorted(
        (action for kind, them in found.items() if kind != "complete" for action in them), key=repr
    )
    confused = bool(wrong) and _number(character.name, kind) < character.confused
    options: dict[Action, float] = {}

    def add(action: Any, p: float) -> None:
        concrete = display.concrete(action)
        options[concrete] = options.get(concrete, 0.0) + p

    right = character.right if confused else character.sure
    add(best, right if wrong else 1.0)
    if wrong:
        # The favourite mistake depends only on the kind of screen, and is chosen by its meaning, not its position.
        favourite = min(wrong, key=lambda action: _number(character.name, kind, _what(action)))
        left = 1 - right
        if confused:
            add(favourite, character.stubborn)
            left -= character.stubborn
        # Sometimes the agent wrongly believes that it is done.
        early = 0.1 * left if "complete" in found else 0.0
        add(("complete",), early)
        for action in wrong:
            add(action, (left - early) / len(wrong))
    total = sum(options.values())
    return [(action, p / total) for action, p in options.items()]


def _what(action: tuple[Any, ...]) -> str:
    return f"{action[0]} {str(action[1]).partition('-')[0] if action[0] == 'tap' and len(action) > 1 else ''}"


def say(character: Character, display: Display, rng: np.random.Generator, greedy: bool) -> tuple[str, float]:
    """An answer, and its log-probability."""
    options = choices(character, display)
    if not greedy and rng.random() < character.mumbles:
        return "I am not sure what to do here.", math.log(character.mumbles)
    p = np.array([share for _, share in options])
    chosen = int(p.argmax()) if greedy else int(rng.choice(len(p), p=p / p.sum()))
    action, share = options[chosen]
    return f"Thought: on we go.\n{character.dialect.write(action, SimulatedPhone.screen_hw)}", math.log(share)


@contextlib.contextmanager
def serving(character: Character, eyes: Eyes) -> Iterator[str]:
    """Serves the agent on 127.0.0.1; yields the base URL."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            payload = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            body = json.dumps(answer(character, eyes, payload)).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    finally:
        server.shutdown()
        server.server_close()


def answer(character: Character, eyes: Eyes, payload: dict[str, Any]) -> dict[str, Any]:
    """The body of a chat completion."""
    image, text = payload["messages"][-1]["content"]
    data = base64.b64decode(image["image_url"]["url"].partition(",")[2])
    with Image.open(io.BytesIO(data)) as opened:
        screenshot = np.asarray(opened.convert("RGB"))
    goal = _GOAL.search(text["text"])
    display = eyes.recognise(screenshot, goal[1] if goal else "")
    rng = np.random.default_rng(int(payload.get("seed", 0)))
    said = []
    for _ in range(int(payload.get("n", 1))):
        words, log_prob = "I see nothing that I know.", -1.0
        if display is not None:
            words, log_prob = say(character, display, rng, payload.get("temperature", 1.0) == 0)
        said.append(
            {
                "message": {"role": "assistant", "content": words},
                "logprobs": {"content": [{"logprob": log_prob}]},
            }
        )
    return {"choices": said, "usage": {"prompt_tokens": 300, "completion_tokens": 20 * len(said)}}


def _digest(screenshot: np.ndarray) -> bytes:
    return hashlib.blake2b(np.ascontiguousarray(screenshot).tobytes(), digest_size=12).digest()


def _number(*key: object) -> float:
    """A number in [0, 1) that depends only on the key."""
    return int.from_bytes(hashlib.blake2b(repr(key).encode(), digest_size=7).digest(), "big") / 2**56
