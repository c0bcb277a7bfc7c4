"""Everyday tasks on the phone itself: 12 templates of 3 to 5 steps over launcher, settings, clock, mail and browser.

Each template asks for one of several values; some values are reserved for the test split.
"""

from __future__ import annotations

from typing import NamedTuple

from android_env.tasks.task import Task

MAX_STEPS = 10


class Template(NamedTuple):
    """A kind of task: its goal with a gap, and the values that may fill it."""

    goal: str
    level: int
    """Steps without mishaps, minus two: 1 (3 steps) to 3 (5 steps)."""
    train: tuple[str, ...]
    test: tuple[str, ...]


SETTINGS: dict[str, tuple[str, ...]] = {
    "Network": ("Wi-Fi", "Mobile data", "Hotspot", "Airplane mode"),
    "Devices": ("Bluetooth", "NFC", "Printing", "Casting"),
    "Display": ("Dark theme", "Auto-rotate", "Night light", "Screen saver"),
}
"""Switches, by page of the settings app."""
SWITCHES = tuple(name for page in SETTINGS.values() for name in page)
LANGUAGES = ("English", "German", "Spanish", "Turkish", "Polish")
RINGTONES = ("Chime", "Pulse", "Drift", "Spark", "Echoes")
ALARMS = ("6:00", "7:30", "8:15", "9:45")
TIMES = ("5:20", "6:45", "7:10", "8:40", "10:05")
MINUTES = ("1 min", "3 min", "5 min", "10 min", "20 min")
SENDERS = ("Bank", "Library", "Airline", "School", "Dentist")
ANSWERS = ("thank you", "see you soon", "not today", "sounds good", "call me")
TOPICS = ("train times", "chess rules", "bread recipe", "moon phases", "tax forms")
PAGES = ("Weather", "Sports", "News")

TEMPLATES: dict[str, Template] = {
    "turn_on": Template("Turn on {}", 1, SWITCHES[0:11:2], SWITCHES[1:12:4]),
    "turn_off": Template("Turn off {}", 1, SWITCHES[1:12:2], SWITCHES[0:11:4]),
    "language": Template("Change the language to {}", 2, LANGUAGES[1:4], LANGUAGES[4:]),
    "ringtone": Template("Set the ringtone to {}", 2, RINGTONES[1:4], RINGTONES[4:]),
    "alarm_off": Template("Switch off the {} alarm", 1, ALARMS[:3], ALARMS[3:]),
    "alarm_new": Template("Set an alarm for {}", 3, TIMES[:4], TIMES[4:]),
    "timer": Template("Start a timer of {}", 2, MINUTES[:4], MINUTES[4:]),
    "star_mail": Template("Star the mail from {}", 1, SENDERS[:4], SENDERS[4:]),
    "delete_mail": Template("Delete the mail from {}", 2, SENDERS[:4], SENDERS[4:]),
    "reply_mail": Template("Open the newest mail and reply {}", 3, ANSWERS[:4], ANSWERS[4:]),
    "web_search": Template("Search the web for {}", 2, TOPICS[:4], TOPICS[4:]),
    "bookmark": Template("Bookmark the page {} in the browser", 1, PAGES[:2], PAGES[2:]),
}
"""The templates by name."""


def tasks() -> tuple[Task, ...]:
    """All tasks of the family; `test_query` has the values that training never asks for in that template."""
    every = []
    for name, template in TEMPLATES.items():
        for split, values in (("train", template.train), ("test_query", template.test)):
            for value in values:
                params = {"template": name, "query": value}
                goal = template.goal.format(value)
                every.append(
                    Task(f"general/{name}/{value}", goal, "general", template.level, split, params, MAX_STEPS)
                )
    return tuple(every)
