"""Pages are self-contained and escape what episodes bring."""

from __future__ import annotations

import io
import re
import xml.etree.ElementTree as ET

import numpy as np
from PIL import Image

from android_env.actions import Action
from digiq.data.schema import Episode, Step
from digiq.drawing import figures
from digiq.drawing.page import Cell, Detail, Page, Row, Section, Table, Tile, render
from digiq.drawing.strips import candidate_strip, image_uri, plain_strip
from digiq.statistics import wilson

HOSTILE = "<script>alert('x')</script>"


def png(height=32, width=16, seed=0):
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(256, size=(height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def make_episode(actions):
    steps = tuple(
        Step(
            screenshot=png(seed=t), goal=HOSTILE, activity="", ui_elements="[]", action=action,
            behavior_log_prob=-1.0, reward=0.0, discount=1.0, is_first=t == 0, is_last=action is None,
            is_terminal=action is None,
        )
        for t, action in enumerate([*actions, None])
    )  # fmt: skip
    return Episode(
        episode_id="e", task_id="t", split="train", outcome="success", policy="p", device="d",
        screen_hw=(32, 16), seed=0, steps=steps,
    )  # fmt: skip


def test_candidates_are_ranked_by_q_with_copies_merged_and_the_logged_one_marked():
    tap, swipe, text = Action.tap(0.5, 0.25), Action.swipe("up"), Action.type_text("tea")
    episode = make_episode([tap])
    strip = candidate_strip(
        episode, [[tap, swipe, text, swipe, None]], np.array([[0.2, 0.9, 0.5, 0.9, np.nan]]), np.array([0.4]),
        title="x", threshold=0.3,
    )  # fmt: skip
    frame, last = strip.frames
    assert [(c.text, c.copies, c.logged) for c in frame.candidates] == [
        ("swipe up", 2, False), ("type “tea”", 1, False), ("tap y 0.50 x 0.25", 1, True),
    ]  # fmt: skip
    assert frame.candidates[0].chosen and frame.kept and abs(frame.advantage - 0.5) < 1e-9
    assert [(m.label, m.chosen, m.logged) for m in frame.marks] == [("3", False, True), ("1", True, False)]
    tapped = frame.marks[0]
    assert (tapped.x, tapped.y, tapped.x2) == (0.25 * 160, 0.5 * 320, None)
    assert last.candidates == () and last.caption == ""


def test_the_gate_is_strict():
    tap = Action.tap(0.5, 0.25)
    strip = candidate_strip(
        make_episode([tap]), [[tap]], np.array([[0.5]]), np.array([0.25]), title="x", threshold=0.25
    )
    assert strip.frames[0].kept is False


def test_what_extraction_leaves_out_is_shown_but_not_chosen():
    rare, usual = Action.swipe("up"), Action.tap(0.5, 0.25)
    strip = candidate_strip(
        make_episode([usual]), [[usual, rare]], np.array([[0.5, 0.9]]), np.array([0.3]), title="x",
        threshold=0.1, usable=np.array([[True, False]]),
    )  # fmt: skip
    first, second = strip.frames[0].candidates
    assert (first.text, first.chosen, first.usable) == ("swipe up", False, False)
    assert second.chosen and second.usable
    assert strip.frames[0].kept and strip.frames[0].advantage == 0.5 - 0.3


def test_a_page_fetches_nothing_and_escapes_every_text():
    tap = Action.tap(0.5, 0.25)
    scored = candidate_strip(
        make_episode([tap, Action.type_text(HOSTILE)]), [[tap], [Action.type_text(HOSTILE)]],
        np.array([[0.5], [0.1]]), np.array([0.1, 0.1]), title=HOSTILE,
    )  # fmt: skip
    svg = figures.success_bars([HOSTILE], {HOSTILE: [wilson(3, 9)]}, ["#123456"])
    page = Page(
        title=HOSTILE,
        subtitle=HOSTILE,
        tiles=(Tile(HOSTILE, HOSTILE, HOSTILE),),
        sections=(
            Section(
                anchor="a", name=HOSTILE, lead=HOSTILE, wide_figures=((svg, HOSTILE),), figures=((svg, ""),),
                tables=(Table((HOSTILE,), (Row((Cell(HOSTILE, HOSTILE),)),), note=HOSTILE),),
                strips=(scored, plain_strip([png(), png()], [tap], captions=[HOSTILE], goal=HOSTILE, outcome="failure", title="plain")),
                details=(Detail(HOSTILE, HOSTILE, HOSTILE),),
            ),
        ),
        footer=HOSTILE,
    )  # fmt: skip
    html = render(page)
    assert "<script" not in html and html.count("&lt;script&gt;") > 15
    sources = re.findall(r'(?:src|href)="([^"]*)"', html)
    assert len(sources) > 5 and all(s.startswith(("data:", "#")) for s in sources)
    assert "url(http" not in html and "@import" not in html


def test_large_screenshots_are_scaled_down():
    small, large = png(64, 32), png(2400, 1080)
    assert image_uri(small).startswith("data:image/png")
    assert image_uri(large).startswith("data:image/jpeg") and len(image_uri(large)) < 250_000


def test_figures_are_reproducible_svg():
    rng = np.random.default_rng(0)
    q, won = rng.random(200), rng.random(200) < 0.4
    drawn = {
        "calibration": lambda: figures.calibration(q, won.astype(float)),
        "values": lambda: figures.values_by_outcome(
            rng.integers(1, 9, 200) * 0 + np.arange(200) % 8 + 1, q, won
        ),
        "curves": lambda: figures.curves(
            {"loss": (np.arange(9), q[:9])}, title="t", xlabel="epoch", log=True
        ),
        "bars": lambda: figures.horizontal_bars(["a", "b"], [1, 2], title="t", xlabel="x"),
        "histogram": lambda: figures.histogram({"n": q}, title="t", xlabel="x", marks={"threshold": 0.5}),
    }
    for name, draw in drawn.items():
        svg = draw()
        assert ET.fromstring(svg).tag.endswith("svg"), name
        assert svg == draw(), name
