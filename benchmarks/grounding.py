"""How the ways to show a VLM where a tap lands compare: what they cost, and what a critic reads of them.

On finished runs of ``digiq run`` (the simulator's quickstart, the held-out app of ``configs/aitw_sample.yaml``), with the
VLM as the run has it. For each grounding the run's candidates are featurised, a critic is trained with the run's own settings,
and on the held-out split are measured, with 95 % intervals over distinct screens:

- AUC of the VLM's Yes against No on whether a logged action changed the screen;
- ranking accuracy: how often the logged action comes out on top of its state's candidates, and its mean rank;
- processor seconds a candidate, where none of its rows was stored.

    .venv/bin/python benchmarks/grounding.py runs/quickstart runs/aitw_sample
    .venv/bin/python benchmarks/grounding.py runs/quickstart --split test --engine shared --directory /somewhere

``cursor`` shares no prefix between taps, so with ``--engine shared`` only ``text`` gains by it. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

GROUNDINGS = ("cursor", "text")


def measure(run: Path, grounding: str, out: Path, options: argparse.Namespace) -> dict[str, Any]:
    """One line of the table."""
    from digiq import artifacts
    from digiq.config import load
    from digiq.critics import train
    from digiq.features import extract
    from digiq.report.ranking import RankingConfig, held_out_rows, rank
    from digiq.report.run_report import RunArtifacts, logged_values

    parts: dict[str, Any] = {name: run / name for name in ("episodes", "rewards", "proposals", "vlm")}
    parts["vlm"] = options.vlm or parts["vlm"]
    told = artifacts.read_manifest(run / "features", stage="featurize").config
    config = load(extract.FeaturizeConfig, told, where=f"{run}/features", recorded=True)
    config = dataclasses.replace(config, grounding=grounding, engine=options.engine)
    before = sum(os.times()[:4])
    found = extract.run(config, **parts, out=out / "features")
    spent = sum(os.times()[:4]) - before
    heads = artifacts.read_manifest(run / "critic", stage="train-q").config
    settings = load(train.TrainQConfig, heads, where=f"{run}/critic", recorded=True)
    train.run(
        settings,
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
    rows = held_out_rows(values, options.split)
    if not len(rows):
        raise SystemExit(f"{run}: no episode of split '{options.split}'; name another with --split.")
    ranked = rank(values, rows, ranking)
    pairs = found.manifest.counts["pairs"]
    return {
        "grounding": grounding,
        "auc": change_auc(parts["vlm"], values.episodes, grounding, config, options),
        "rank_at_1": ranked["rank_at_1"]["critic"],
        "rank_at_1_random": ranked["rank_at_1"]["random"],
        "mean_rank": ranked["mean_rank_distinct"]["critic"],
        "states": ranked["states"],
        "screens": ranked["screens"],
        "seconds_a_candidate": spent / max(pairs, 1),
        "pairs": pairs,
    }


def change_auc(
    vlm: Path, episodes: Any, grounding: Any, config: Any, options: argparse.Namespace
) -> dict[str, float]:
    """Estimate, low and high of the AUC on the held-out split."""
    from digiq.statistics import auc, bootstrap_statistic
    from digiq.vlm.backbone import load_backbone
    from digiq.vlm.tune import actionability_examples, change_scores

    held_out = [e for e in episodes if e.split == options.split and not e.copy_of]
    examples = actionability_examples(held_out)[: options.most]
    backbone = load_backbone(vlm, device=config.device, dtype=config.dtype)
    scores = change_scores(backbone, examples, grounding=grounding, prompt=config.prompt)
    changed = np.array([example.changed for example in examples], bool)
    screens = [hashlib.sha256(example.png).digest() for example in examples]
    found = bootstrap_statistic(
        lambda rows: auc(scores[rows], changed[rows]), screens, resamples=options.resamples, seed=0
    )
    return found._asdict()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", help="directories of finished runs")
    parser.add_argument("--split", default="test", help="the held-out episodes")
    parser.add_argument("--groundings", nargs="+", default=GROUNDINGS, choices=GROUNDINGS)
    parser.add_argument("--engine", default="plain", choices=("plain", "shared"))
    parser.add_argument("--vlm", type=Path, help="a model directory, where it is not the run's own")
    parser.add_argument("--most", type=int, default=2000, help="transitions of the AUC")
    parser.add_argument("--resamples", type=int, default=1000, help="of the bootstrap")
    parser.add_argument("--directory", type=Path, help="where features and critics are written, and removed")
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
            cells = [
                run.name,
                grounding,
                *(shown(row[n]) for n in ("auc", "rank_at_1", "rank_at_1_random", "mean_rank")),
            ]
            print(f"| {' | '.join(cells)} | {1e3 * row['seconds_a_candidate']:.1f} |", flush=True)
    print(json.dumps(found, default=float), file=sys.stdout)


def shown(estimate: dict[str, float]) -> str:
    """An estimate with its interval."""
    mean, low, high = list(estimate.values())[:3]
    return f"{mean:.3f} ({low:.3f} to {high:.3f})"


if __name__ == "__main__":
    main()
