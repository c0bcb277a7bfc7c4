"""Small recordings in each known format, as its own publication lays it out; one episode of them broken if asked for.

android_control: google-research/android_control/README.md. aitz: IMNearth/CoAT, ``data-example``. digirl:
DigiRL-agent/digirl, ``env_utils.py``. rlds: as TFDS lays ``steps`` out in a ``tf.train.Example``. jsonl: docs/data_formats.md.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from digiq.data.schema import encode_png
from tests.digiq.data import test_aitw as aitw

HEIGHT, WIDTH = 80, 40


def png(name: str, t: int, hw: tuple[int, int] = (HEIGHT, WIDTH)) -> bytes:
    pixels = np.random.default_rng([ord(name[0]), t]).integers(0, 255, (*hw, 3), np.uint8)
    return encode_png(pixels)


def jsonl_line(name: str, **changes: Any) -> dict[str, Any]:
    taps = [{"action_type": "click", "x": 10, "y": 20}, {"action_type": "status", "goal_status": "complete"}]
    steps = [{"screenshot": f"screens/{name}{t}.png", "action": action} for t, action in enumerate(taps)]
    return {"episode_id": name, "goal": f"open {name}", "steps": steps} | changes


def make_jsonl(root: Path, names: tuple[str, ...], broken: str = "") -> dict[str, Any]:
    (root / "screens").mkdir(parents=True)
    for name in names:
        for t in range(3):
            (root / "screens" / f"{name}{t}.png").write_bytes(png(name, t))
        line = json.dumps(jsonl_line(name))
        (root / f"{name}.jsonl").write_text(line[:-9] if name == broken else line + "\n")
    return {"source": str(root)}


def android_control_record(name: str, **changes: Any) -> dict[str, Any]:
    actions = [{"action_type": "click", "x": 10, "y": 20}]
    return {
        "episode_id": [name.encode()],
        "goal": [f"open {name}".encode()],
        "screenshots": [png(name, 0), png(name, 1)],
        "accessibility_trees": [b"", b""],
        "screenshot_widths": [WIDTH] * 2,
        "screenshot_heights": [HEIGHT] * 2,
        "actions": [json.dumps(action).encode() for action in actions],
        "step_instructions": [b"tap it"],
    } | changes


def make_android_control(root: Path, names: tuple[str, ...], broken: str = "") -> dict[str, Any]:
    for n, name in enumerate(names):
        wrong = {"actions": [b'{"action_type": "fly"}']} if name == broken else {}
        path = root / f"android_control-{n:05d}-of-{len(names):05d}"
        aitw.write_shard(path, [android_control_record(name, **wrong)])
    return {"source": str(root)}


def aitz_step(name: str, t: int, length: int, kind: int, **changes: Any) -> dict[str, Any]:
    return {
        "episode_id": name,
        "episode_length": length,
        "step_id": t,
        "instruction": f"open {name}",
        "ui_positions": "[[8, 4, 16, 20]]",
        "ui_text": '["Set"]',
        "ui_types": '["TEXT"]',
        "result_action_type": kind,
        "result_action_text": "",
        "result_touch_yx": "[0.25, 0.5]" if kind == 4 else "[-1.0, -1.0]",
        "result_lift_yx": "[0.25, 0.5]" if kind == 4 else "[-1.0, -1.0]",
        "image_path": f"general/{name}/{name}_{t}.png",
        "image_full_path": f"elsewhere/general/{name}/{name}_{t}.png",
        "coat_action_desc": "tap it",
    } | changes


def make_aitz(root: Path, names: tuple[str, ...], broken: str = "") -> dict[str, Any]:
    for name in names:
        folder = root / "train/general" / name
        folder.mkdir(parents=True)
        steps = [aitz_step(name, t, 2, kind) for t, kind in enumerate((4, 10))]
        for t in range(2):
            (folder / f"{name}_{t}.png").write_bytes(png(name, t))
        if name == broken:
            del steps[1]["result_touch_yx"], steps[1]["result_action_type"]
        (folder / f"{name}.json").write_text(json.dumps(steps))
    return {"source": str(root)}


TAP = '"action_type": "DUAL_POINT", "touch_point": "[0.2500, 0.5000]", "lift_point": "[0.2500, 0.5000]", "typed_text": ""'
HOME = '"action_type": "PRESS_HOME", "touch_point": "[-1.0, -1.0]", "lift_point": "[-1.0, -1.0]", "typed_text": ""'


def digirl_step(name: str, t: int, **changes: Any) -> dict[str, Any]:
    return {
        "observation": f"Previous Actions: {HOME} Goal: open {name}</s>",
        "next_observation": f"Previous Actions: {TAP} Goal: open {name}</s>",
        "image_features": np.full(4, t, np.float32),
        "next_image_features": np.full(4, t + 1, np.float32),
        "image_path": f"/gone/images/{name}{t}.png",
        "task": f"open {name}",
        "reward": np.float64(t),
        "done": t == 1,
        "action": f"Action Plan: [] ; Action Decision: {TAP if t == 0 else HOME}",
        "mc_return": np.float64(0.95 ** (1 - t)),
        "traj_id": name,
    } | changes


def make_digirl(root: Path, names: tuple[str, ...], broken: str = "") -> dict[str, Any]:
    root.mkdir(parents=True)
    for name in names:
        wrong = {"action": "I do not know."} if name == broken else {}
        torch.save([[digirl_step(name, 0, **wrong), digirl_step(name, 1)]], root / f"{name}.pt")
        for t in range(2):
            (root / f"{name}{t}.png").write_bytes(png(name, t))
    return {"source": str(root)}


def rlds_record(name: str, **changes: Any) -> dict[str, Any]:
    """Three steps: a tap, pressing home, and the last observation, whose action counts for nothing."""
    return {
        "episode_id": [name.encode()],
        "steps/observation/screenshot": [png(name, t) for t in range(3)],
        "steps/observation/goal": [f"open {name}".encode()] * 3,
        "steps/action/type": [4, 6, 0],
        "steps/action/touch_yx": [0.25, 0.5, -1.0, -1.0, -1.0, -1.0],
        "steps/action/lift_yx": [0.25, 0.5, -1.0, -1.0, -1.0, -1.0],
        "steps/action/text": [b"", b"", b""],
        "steps/reward": [0.0, 1.0, 0.0],
        "steps/discount": [1.0, 0.0, 0.0],
        "steps/is_first": [1, 0, 0],
        "steps/is_last": [0, 0, 1],
        "steps/is_terminal": [0, 0, 1],
    } | changes


def make_rlds(root: Path, names: tuple[str, ...], broken: str = "") -> dict[str, Any]:
    for n, name in enumerate(names):
        wrong = {"steps/reward": [0.0]} if name == broken else {}
        path = root / f"logs-train.tfrecord-{n:05d}-of-{len(names):05d}"
        aitw.write_shard(path, [rlds_record(name, **wrong)])
    (root / "features.json").write_text("{}")
    (root / "dataset_info.json").write_text("{}")
    return {"source": str(root)}


MAKERS = {
    "jsonl": make_jsonl,
    "android_control": make_android_control,
    "aitz": make_aitz,
    "digirl": make_digirl,
    "rlds": make_rlds,
}
"""By format, as :data:`tests.digiq.data.test_importers.SOURCES` wants them."""
