"""Synthetic screens: a search box that is empty, focused or filled, and one goal word that must be typed."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from android_env.actions import Action
from digiq.policies.base import PolicyInput

HEIGHT, WIDTH = 64, 64
SEEN = ("lamp", "cable", "mouse", "chair", "usb hub", "red shoes", "dog bed", "yoga mat")
UNSEEN = ("guitar", "rice cooker", "zxqv tent")


def box_screen(rng: np.random.Generator, queries: tuple[str, ...]) -> tuple[PolicyInput, Action]:
    """A screen with a white box: empty → tap it, blue → type the query, green → enter."""
    image = Image.new("RGB", (WIDTH, HEIGHT), (90, 90, 90))
    draw = ImageDraw.Draw(image)
    y, x = int(rng.integers(4, 44)), int(rng.integers(4, 36))
    state = int(rng.integers(3))
    draw.rectangle((x, y, x + 20, y + 12), fill=((255, 255, 255), (40, 40, 255), (40, 220, 40))[state])
    query = queries[int(rng.integers(len(queries)))]
    goal = f"Go to shop.com, search for {query}, and select the first entry"
    action = (Action.tap((y + 6) / HEIGHT, (x + 10) / WIDTH), Action.type_text(query), Action.enter())[state]
    return PolicyInput(np.asarray(image), goal), action
