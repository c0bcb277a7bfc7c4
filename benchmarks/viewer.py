"""How long the viewer takes from a key press to the painted image, on a run of 5,000 steps in a headless Chromium.

The run is recorded on the embedded phone and has eight candidates per state; their Q is random, which makes no
difference to the page. The page is served as by ``digiq view``. Keys go through the browser's own input. The time runs
from the event's own timestamp to the second animation frame after the image was decoded and inserted into the page.

``key_p95_ms``     for arrow keys and j, k: the 95th percentile (and the median, and the longest)
``jump_p95_ms``    for clicks on episodes anywhere in the list, whose images are not prefetched
``load_s``         from opening the page to its first painted image, the longest of five
``server_mb``      resident memory of the serving process beyond what it had before the run was opened
``page_mb``        the page's JavaScript heap at the end

    .venv/bin/python benchmarks/viewer.py
    .venv/bin/python benchmarks/viewer.py --quick

The last line is one JSON object. It needs chromium and chromedriver on PATH.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from digiq import artifacts
from digiq.agents import collect
from digiq.agents.build import AgentConfig
from digiq.data import label
from digiq.data.rewards import LabelledEpisodes
from digiq.proposals import propose
from digiq.report.viewer import gather
from digiq.report.viewer.serve import ViewServer

sys.path.insert(0, str(Path(__file__).parents[1]))
from tools.browser import headless

WATCH = """
window.keyed = 0; window.took = null; window.first = null;
for (const kind of ['keydown', 'click']) document.addEventListener(kind, e => { window.keyed = e.timeStamp; window.took = null; }, true);
document.addEventListener('digiq:painted', e => {
  if (window.first === null) window.first = e.detail.time;
  if (window.keyed) window.took = e.detail.time - window.keyed;
});
"""


def make_run(root: Path, steps: int) -> int:
    """Makes a run of roughly ``steps`` steps; returns their exact number."""
    number = max(8, steps // 11)
    config = collect.CollectConfig(agent=AgentConfig(kind="collector"), num_episodes=number, seed=1)
    collect.run(config, out=root / "episodes")
    label.run(label.LabelConfig(), episodes=root / "episodes", out=root / "rewards")
    chosen = propose.ProposeConfig(source="elements", num_candidates=8)
    propose.run(chosen, episodes=root / "episodes", rewards=root / "rewards", out=root / "proposals")
    for name, stage in (("features", "featurize"), ("critic", "train-q")):
        with artifacts.write(root / name, stage=stage, version=1, config={}) as writer:
            writer.complete()
    return sum(o.num_actions for o in LabelledEpisodes(root / "episodes").outlines)


def random_scores(run: Any) -> tuple[Any, np.ndarray, np.ndarray]:
    """Random scores in place of a critic's."""
    proposals = propose.load_proposals(run.proposals)
    q = np.random.default_rng(0).uniform(size=proposals.valid.shape)
    return proposals, np.where(proposals.valid, q, np.nan), np.full(len(q), 0.5)


def press(driver: Any, key: str) -> float:
    """Milliseconds from the key to the painted image."""
    for kind in ("keyDown", "keyUp"):
        driver.execute_cdp_cmd("Input.dispatchKeyEvent", {"type": kind, "key": key})
    return waited(driver, "window.took")


def click(driver: Any, place: int) -> float:
    driver.execute_script("window.keyed = 0; window.took = null")
    box = driver.execute_script(
        "const r = document.querySelectorAll('#list li')[arguments[0]]; r.scrollIntoView(); const b = r.getBoundingClientRect();"
        "return [b.x + 20, b.y + 10]",
        place,
    )
    for kind in ("mousePressed", "mouseReleased"):
        at = {"type": kind, "x": box[0], "y": box[1], "button": "left", "clickCount": 1}
        driver.execute_cdp_cmd("Input.dispatchMouseEvent", at)
    return waited(driver, "window.took")


def waited(driver: Any, expression: str) -> float:
    end = time.monotonic() + 20
    while time.monotonic() < end:
        found = driver.execute_script(f"return {expression}")
        if found is not None:
            return float(found)
        time.sleep(0.005)
    raise SystemExit(f"nothing was painted in 20 s ({expression})")


def measure(url: str, presses: int, episodes: int) -> dict[str, float]:
    rng = np.random.default_rng(0)
    with headless(script=WATCH) as driver:
        loads = []
        for _ in range(5):
            driver.get("about:blank")
            driver.get(url)
            loads.append(waited(driver, "window.first") / 1000)
        keys = []
        for n in range(presses):
            # As people browse: mostly one step forward, sometimes back, or to the next episode.
            key = "j" if n % 9 == 8 else "ArrowLeft" if n % 9 == 5 else "ArrowRight"
            keys.append(press(driver, key))
        jumps = [click(driver, int(rng.integers(episodes))) for _ in range(max(10, presses // 10))]
        heap = driver.execute_script("return performance.memory.usedJSHeapSize") / 2**20
    return {
        "key_p50_ms": float(np.median(keys)),
        "key_p95_ms": float(np.quantile(keys, 0.95)),
        "key_max_ms": max(keys),
        "jump_p95_ms": float(np.quantile(jumps, 0.95)),
        "load_s": max(loads),
        "page_mb": heap,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="500 steps and 60 keys")
    quick = parser.parse_args().quick
    gather.candidate_scores = random_scores
    with tempfile.TemporaryDirectory() as scratch:
        steps = make_run(Path(scratch), 500 if quick else 5000)
        process = psutil.Process()
        before = process.memory_info().rss
        started = time.monotonic()
        view = gather.RunView(gather.find(Path(scratch)), "benchmark")
        server = ViewServer(view)
        opened = time.monotonic() - started
        threading.Thread(target=server.serve, daemon=True).start()
        metrics = measure(server.url, 60 if quick else 400, len(view))
        metrics |= {"server_mb": (process.memory_info().rss - before) / 2**20, "open_s": opened}
        server.close()
    print(f"{steps} steps in {len(view)} episodes")
    for name, value in metrics.items():
        print(f"  {name:<12} {value:10.2f}")
    about = {
        "benchmark": "viewer",
        "metrics": {"steps": steps, **{name: round(value, 3) for name, value in metrics.items()}},
        "hardware": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": {"python": platform.python_version(), "numpy": np.__version__},
    }
    print(json.dumps(about))


if __name__ == "__main__":
    main()
