"""Makes the pictures of the docs from a finished run, in a headless Chromium: the viewer and the report.

    python tools/pictures.py runs/quickstart [FOLDER]

What is shown follows rules that know nothing of how it looks: the first logged episode that succeeded, at the step with
the most candidates to draw; and the first recorded test episode of the first two arms but the ceiling, at its second step.
"""

from __future__ import annotations

import io
import sys
import threading
import time
from pathlib import Path
from typing import Any

from PIL import Image

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from digiq.report.viewer.gather import RunView, find  # noqa: E402
from digiq.report.viewer.serve import ViewServer  # noqa: E402
from tools.browser import emulate, headless  # noqa: E402


def main() -> None:
    run = Path(sys.argv[1])
    out = Path(sys.argv[2]) if len(sys.argv) > 2 else ROOT / "docs" / "pictures"
    out.mkdir(parents=True, exist_ok=True)
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
    pair = beside(episodes)
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


def beside(episodes: list[dict[str, Any]]) -> tuple[int, int] | None:
    """The first recorded test episode of the first arm, and the same of the third: behaviour policy and Digi-Q."""
    played = {(e["source"], e["id"]): k for k, e in enumerate(episodes) if e["source"] > 0}
    sources = sorted({source for source, _ in played})
    for source, episode in played:
        if source == sources[0]:
            for other in sources[1:]:
                if (other, episode) in played:
                    return played[source, episode], played[other, episode]
    return None


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
