"""Compares the ways to show a VLM where a tap lands: their cost, and what a critic learns from them.

It works on runs of ``digiq run`` that have candidates (the simulator's, the held-out app of
``configs/aitw_sample.yaml``). For each grounding, the VLM is tuned, the candidates are featurised and a critic is
trained, all by the run's own recipe. The following is measured on held-out episodes, with 95 % intervals over distinct
screens:

- AUC of the VLM's Yes against No on whether a logged action changed the screen;
- ranking accuracy: how often the logged action ranks first among its state's candidates, and its mean rank;
- processor seconds per candidate, with an interval over blocks of states.

In a run without episodes of the split, the episodes of every fourth task are assigned to it.

    .venv/bin/python benchmarks/grounding.py runs/small runs/aitw_sample
    .venv/bin/python benchmarks/grounding.py runs/small --vlm DIR --engine plain --directory /somewhere

``cursor`` shares no prefix between taps, so only the others benefit from ``--engine shared``. The last line is one JSON
object.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

GROUNDINGS = ("cursor", "text", "crop")
_STATES, _BLOCKS = 8, 12  # states per block, and blocks after the first, which warms up


def measure(run: Path, grounding: str, out: Path, options: argparse.Namespace) -> dict[str, Any]:
    """One line of the table."""
    from digiq.config import load
    from digiq.critics import train
    from digiq.features import extract
    from digiq.pipeline.recipe import Recipe
    from digiq.pipeline.run import RECIPE
    from digiq.report.ranking import RankingConfig, held_out_rows, rank
    from digiq.report.run_report import RunArtifacts, logged_values
    from digiq.vlm import TINY_VLM_PATH, tune

    parts: dict[str, Any] = {name: run / name for name in ("rewards", "proposals")}
    parts["rewards"] = parts["rewards"] if parts["rewards"].is_dir() else None
    parts["episodes"] = held_out(run / "episodes", options.split, out / "episodes")
    parts["vlm"] = options.vlm or TINY_VLM_PATH
    recipe = load(Recipe, json.loads((run / RECIPE).read_text(encoding="utf-8")), where=str(run / RECIPE))
    if recipe.tune_vlm is not None:
        tuning = dataclasses.replace(recipe.tune_vlm, grounding=grounding)
        tune.run(tuning, episodes=parts["episodes"], vlm=parts["vlm"], out=out / "vlm")
        parts["vlm"] = out / "vlm"
    config = dataclasses.replace(recipe.featurize, grounding=grounding, engine=options.engine)
    found = extract.run(config, **parts, out=out / "features")
    train.run(
        recipe.train_q,
        episodes=parts["episodes"],
        rewards=parts["rewards"],
        features=out / "features",
        out=out / "critic",
    )
    ranking = RankingConfig(split=options.split, resamples=options.resamples)
    made: dict[str, Any] = {**parts, "features": out / "features", "critic": out / "critic"}
    values = logged_values(RunArtifacts(**made))
    if values is None:
        raise SystemExit(f"{run}: holds no logged actions to rank.")
    ranked = rank(values, held_out_rows(values, options.split), ranking)
    return {
        "grounding": grounding,
        "auc": change_auc(parts["vlm"], values.episodes, grounding, config, options),
        "rank_at_1": ranked["rank_at_1"]["critic"],
        "rank_at_1_random": ranked["rank_at_1"]["random"],
        "mean_rank": ranked["mean_rank_distinct"]["critic"],
        "states": ranked["states"],
        "screens": ranked["screens"],
        "milliseconds": cost(parts, config, options),
        "pairs": found.manifest.counts["pairs"],
    }


def held_out(episodes: Path, split: str, out: Path) -> Path:
    """Episodes of which some are in the split: the run's, or a copy that assigns every fourth task to it."""
    from digiq import artifacts
    from digiq.data.store import EpisodeStore, EpisodeWriter

    store = EpisodeStore(episodes)
    if any(outline.split == split for outline in store.outlines):
        return episodes
    chosen = set(sorted({outline.task_id for outline in store.outlines})[::4])
    with artifacts.write(out, stage="collect", version=1, config={"held out": sorted(chosen)}) as w:
        with EpisodeWriter(w.path) as writer:
            for number in range(len(store)):
                episode = store[number]
                here = split if episode.task_id in chosen else episode.split
                writer.write(dataclasses.replace(episode, split=here))
        w.complete()
    return out


def change_auc(
    vlm: Path, episodes: Any, grounding: Any, config: Any, options: argparse.Namespace
) -> dict[str, float]:
    """The AUC on the held-out split: estimate, and low and high ends of its interval."""
    from digiq.statistics import auc, bootstrap_statistic
    from digiq.vlm.backbone import load_backbone
    from digiq.vlm.tune import actionability_examples, change_scores

    split = [e for e in episodes if e.split == options.split and not e.copy_of]
    examples = actionability_examples(split)[: options.most]
    backbone = load_backbone(vlm, device=config.device, dtype=config.dtype)
    scores = change_scores(backbone, examples, grounding=grounding, prompt=config.prompt)
    changed = np.array([example.changed for example in examples], bool)
    screens = [hashlib.sha256(example.png).digest() for example in examples]
    found = bootstrap_statistic(
        lambda rows: auc(scores[rows], changed[rows]), screens, resamples=options.resamples, seed=0
    )
    return found._asdict()


def cost(parts: dict[str, Any], config: Any, options: argparse.Namespace) -> dict[str, float]:
    """Processor milliseconds per candidate: mean, and low and high ends of its interval over blocks of states."""
    from digiq.data.rewards import LabelledEpisodes
    from digiq.features.plan import Plan
    from digiq.proposals.propose import load_proposals

    config = config.resolved(parts["vlm"])
    engine = config.chosen.open(config, parts["vlm"])
    labelled = LabelledEpisodes(parts["episodes"], parts["rewards"])
    plan = Plan(labelled, load_proposals(parts["proposals"]), config, {"observation": "", "pair": ""})
    rows, rng = plan.candidate_row, np.random.default_rng(0)
    states = rng.permutation(len(rows))[: _STATES * (_BLOCKS + 1)]
    found = []
    for block in np.array_split(states, max(2, len(states) // _STATES)):
        wanted = rows[block]
        requests = plan.requests("pair", np.unique(wanted[wanted >= 0]))
        before = time.process_time()
        for _ in engine.rows(requests):
            pass
        found.append(1e3 * (time.process_time() - before) / len(requests))
    blocks = np.array(found[1:])
    means = rng.choice(blocks, (options.resamples, len(blocks))).mean(axis=1)
    low, high = np.quantile(means, (0.025, 0.975))
    return {"mean": float(blocks.mean()), "low": float(low), "high": float(high)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", help="directories of runs")
    parser.add_argument("--split", default="test", help="the held-out episodes")
    parser.add_argument("--groundings", nargs="+", default=GROUNDINGS, choices=GROUNDINGS)
    parser.add_argument("--engine", default="shared", choices=("plain", "shared"))
    parser.add_argument("--vlm", type=Path, help="a model directory, in place of the embedded model")
    parser.add_argument("--most", type=int, default=2000, help="transitions of the AUC")
    parser.add_argument("--resamples", type=int, default=1000, help="of the bootstrap")
    parser.add_argument("--directory", type=Path, help="where everything is written, and removed")
    options = parser.parse_args()
    found: dict[str, list[dict[str, Any]]] = {}
    print(
        "| run | grounding | AUC of change | logged action on top | by chance | mean rank | ms a candidate |"
    )
    print("|---|---|---|---|---|---|---|")
    for run in options.runs:
        found[run.name] = []
        for grounding in options.groundings:
            with tempfile.TemporaryDirectory(dir=options.directory) as folder:
                row = measure(run, grounding, Path(folder), options)
            found[run.name].append(row)
            cells = [f"`{run.name}`", f"`{grounding}`"]
            cells += [shown(row[n]) for n in ("auc", "rank_at_1", "rank_at_1_random", "mean_rank")]
            print(f"| {' | '.join(cells)} | {shown(row['milliseconds'], 1)} |", flush=True)
    print(json.dumps(found, default=float), file=sys.stdout)


def shown(estimate: dict[str, float], digits: int = 2) -> str:
    """An estimate with its interval, as text."""
    mean, low, high = list(estimate.values())[:3]
    return f"{mean:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


if __name__ == "__main__":
    main()
