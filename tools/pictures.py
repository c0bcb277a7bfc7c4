"""Makes the pictures of the docs from a finished run, in a headless Chromium: the viewer and the report.

    python tools/pictures.py runs/quickstart [FOLDER]

What is shown follows rules that know nothing of how it looks: the first logged episode that succeeded, at the step with
the most candidates to draw; and, of behaviour policy and Digi-Q, the first recorded test episode that both played, whatever came
of it. Bars come from the records of the registered study, so they are made without a run as well (leave it out).
"""

from __future__ import annotations

import base64
import io
import sys
import threading
import time
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from digiq import artifacts  # noqa: E402
from digiq.drawing import figures  # noqa: E402
from digiq.evaluation.records import recorded_by_id  # noqa: E402
from digiq.report.viewer.gather import RunView, find  # noqa: E402
from digiq.report.viewer.serve import ViewServer  # noqa: E402
from digiq.studies.analysis import mean_success  # noqa: E402
from digiq.studies.records import CellRecord, read_records  # noqa: E402
from tools.browser import emulate, headless  # noqa: E402

FONT = ROOT / "android_env/devices/simulated/fonts/Roboto-Regular.ttf"
ARMS = {
    "behavior": ("behaviour policy", "#98a2b3"),
    "filtered_bc": ("filtered BC", "#e39b2d"),
    "digirl": ("DigiRL's offline filter", "#7c5cdb"),
    "td_bon8": ("Digi-Q, N = 8", "#2f6fed"),
    "device_bon8": ("ceiling: best of 8 by true Q", "#12a594"),
}
"""Of docs/results/core: titles and colours."""


def main() -> None:
    out = Path(sys.argv[2]) if len(sys.argv) > 2 else ROOT / "docs" / "pictures"
    out.mkdir(parents=True, exist_ok=True)
    bars(out)
    if len(sys.argv) < 2:
        return
    run = Path(sys.argv[1])
    film(run / "evaluation", out / "behaviour_and_digiq.gif")
    view = RunView(find(run), f"DigiQ · {run.name}")
    server = ViewServer(view)
    threading.Thread(target=server.serve, daemon=True).start()
    episodes = view.index["episodes"]
    first = next(k for k, e in enumerate(episodes) if e["source"] == 0 and e["outcome"] == "success")
    steps = view.episode(first)["steps"]
    step = max(
        range(len(steps)), key=lambda n: sum("p" in c and c["q"][:1] != [None] for c in steps[n]["cand"])
    )
    shown = f"{server.url}#e={first}&s={step}"
    pair = beside(episodes, view.index["sources"])
    with headless() as driver:
        shoot(driver, shown, out / "viewer.png", width=1280, height=800)
        shoot(driver, shown, out / "viewer_dark.png", width=1280, height=800, dark=True)
        shoot(driver, shown, out / "viewer_phone.png", width=390, height=844, phone=True)
        if pair is not None:
            anchor = f"e={pair[0]}&s=1&b=e{pair[1]}"
            shoot(driver, f"{server.url}#{anchor}", out / "viewer_arms.png", width=1280, height=800)
        report = run / "report.html"
        if report.is_file():
            url = report.resolve().as_uri()
            shoot(driver, url, out / "report.png", width=1280, height=1000)
            shoot(driver, url, out / "report_dark.png", width=1280, height=1000, dark=True)
            shoot(driver, url, out / "report_phone.png", width=390, height=844, phone=True)
    server.close()


def beside(episodes: list[dict[str, Any]], sources: list[dict[str, Any]]) -> tuple[int, int] | None:
    """The first recorded test episode that behaviour policy and Digi-Q both played."""
    played = {(e["source"], e["id"]): k for k, e in enumerate(episodes)}
    named = {source["arm"]: number for number, source in enumerate(sources)}
    if not {"behavior", "digiq"} <= set(named):
        return None
    ids = [e["id"] for e in episodes if e["source"] == named["behavior"]]
    pairs = [(played[named["behavior"], i], played.get((named["digiq"], i))) for i in ids]
    return next(((one, other) for one, other in pairs if other is not None), None)


def bars(out: Path) -> None:
    """Success of the registered study's arms, the ceiling hatched; in the light and in the dark."""
    groups: dict[str, list[CellRecord]] = {}
    for record in read_records(ROOT / "docs" / "results" / "core"):
        if not record.sweep:
            groups.setdefault(record.arm, []).append(record)
    arms = {title: [mean_success(groups[arm])] for arm, (title, _) in ARMS.items()}
    colors = [color for _, color in ARMS.values()]
    svg = figures.success_bars(
        ["held-out test tasks, five seeds"], arms, colors, hatched=["ceiling: best of 8 by true Q"]
    )
    artifacts.atomic_write_text(out / "success.svg", svg)
    print(out / "success.svg")


def film(evaluations: Path, out: Path) -> None:
    """Behaviour policy and Digi-Q on one task, side by side, a step a frame; whoever ends first waits."""
    both = [recorded_by_id(evaluations / arm) for arm in ("behavior", "digiq")]
    episode = next(i for i in both[0] if i in both[1])
    strips = [of[episode] for of in both]
    font = ImageFont.truetype(str(FONT), 13)
    frames = []
    for number in range(max(len(s.frames) for s in strips)):
        canvas = Image.new("RGB", (2 * 180 + 36, 320 + 66), "white")
        draw = ImageDraw.Draw(canvas)
        draw.text((12, 8), f"“{strips[0].goal}”", "#1c2430", font)
        for place, (name, strip) in enumerate(zip(("Behaviour policy", "Digi-Q"), strips, strict=True)):
            frame = strip.frames[min(number, len(strip.frames) - 1)]
            left, ended = 12 + place * 192, number >= len(strip.frames) - 1
            with Image.open(io.BytesIO(base64.b64decode(frame.image.partition(",")[2]))) as screen:
                canvas.paste(screen.convert("RGB").resize((180, 320), Image.Resampling.LANCZOS), (left, 30))
            for mark in frame.marks:
                x, y = left + mark.x * 180 / frame.width, 30 + mark.y
                draw.ellipse((x - 7, y - 7, x + 7, y + 7), fill="#2f6fed", outline="white", width=2)
            said = strip.end if ended else f"{number}: {frame.caption}"
            draw.text((left, 354), name, "#667085", font)
            color = "#0f8a7c" if ended and strip.outcome == "success" else "#1c2430"
            draw.text((left, 369), said[:26], color, font)
        frames.append(canvas.quantize(128, dither=Image.Dither.NONE))
    times = [700] * (len(frames) - 1) + [3000]
    frames[0].save(out, save_all=True, append_images=frames[1:], duration=times, loop=0, optimize=True)
    print(out)


def shoot(
    driver: Any, url: str, out: Path, *, width: int, height: int, phone: bool = False, dark: bool = False
) -> None:
    emulate(driver, width, height, scale=2 if phone else 1, phone=phone, dark=dark)
    driver.get("about:blank")
    driver.get(url)
    time.sleep(1.5)  # fonts and images
    with Image.open(io.BytesIO(driver.get_screenshot_as_png())) as image:
        image.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(out, optimize=True)
    print(out)


if __name__ == "__main__":
    main()
