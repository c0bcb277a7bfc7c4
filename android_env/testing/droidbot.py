"""A small exploration in DroidBot's format, for tests: a few screens of one app."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

SIZE = (400, 200)
"""Height and width of the screens, pixels."""
_SCREENS = {
    "main": ("Main", "Settings", "About"),
    "settings": ("Settings", "Sound", "Display"),
    "sound": ("Sound", "Volume", "Ringtone"),
    "about": ("About", "Version 1.2", "Licence"),
    "licence": ("Licence", "Free for all", "Thanks"),
    "ringtone": ("Ringtone", "Bell", "Chime"),
    "island": ("Island", "Nobody", "comes here"),
}
_TOP, _BOTTOM = [[20, 100], [180, 180]], [[20, 240], [180, 320]]
_MOVES = (
    ("launcher", "main", {"event_type": "intent", "intent": "am start org.example/.Main"}),
    ("main", "settings", {"event_type": "touch", "view": {"bounds": _TOP}}),
    ("settings", "sound", {"event_type": "touch", "view": {"bounds": _TOP}}),
    ("sound", "ringtone", {"event_type": "touch", "view": {"bounds": _BOTTOM}}),
    ("sound", "settings", {"event_type": "key", "name": "BACK"}),
    ("settings", "main", {"event_type": "key", "name": "BACK"}),
    ("main", "about", {"event_type": "touch", "view": {"bounds": _BOTTOM}}),
    (
        "about",
        "licence",
        {"event_type": "scroll", "direction": "DOWN", "view": {"bounds": [[0, 0], [200, 400]]}},
    ),
    ("licence", "about", {"event_type": "set_text", "view": {"bounds": _TOP}, "text": "hello"}),
    ("about", "main", {"event_type": "intent", "intent": "am start org.example/.Main"}),
    ("main", "main", {"event_type": "long_touch", "view": {"bounds": _TOP}}),
    ("main", "gone", {"event_type": "touch", "view": {"bounds": _BOTTOM}}),
)


def write_exploration(folder: Path) -> Path:
    """Writes the exploration into a folder and returns the folder."""
    (folder / "states").mkdir(parents=True)
    (folder / "events").mkdir()
    nodes = []
    for number, (name, (title, first, second)) in enumerate(
        {"launcher": ("Home", "Apps", "Clock"), **_SCREENS}.items()
    ):
        pixels = np.full((*SIZE, 3), 30 * number + 10, np.uint8)
        Image.fromarray(pixels).save(folder / "states" / f"screen_{number}.png")
        texts = [(title, [[0, 0], [200, 60]]), (first, _TOP), (second, _BOTTOM)]
        views = [
            {
                "text": text,
                "bounds": bounds,
                "visible": True,
                "class": "android.widget.TextView",
                "children": [],
            }
            for text, bounds in texts
        ]
        (folder / "states" / f"state_{number}.json").write_text(
            json.dumps({"state_str": name, "views": views}), encoding="utf-8"
        )
        package, activity = "org.example", f".{title}"
        nodes.append(
            {"id": name, "image": f"states/screen_{number}.png", "package": package, "activity": activity}
        )
    graph = {"nodes": nodes, "edges": [], "app_package": "org.example"}
    (folder / "utg.js").write_text(f"var utg = \n{json.dumps(graph)};\n", encoding="utf-8")
    for number, (start, end, event) in enumerate(_MOVES):
        row = {"event": event, "start_state": start, "stop_state": end}
        (folder / "events" / f"event_{number:02d}.json").write_text(json.dumps(row), encoding="utf-8")
    return folder
