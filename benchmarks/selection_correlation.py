"""Does the score of ``digiq select`` rank critics as the truth does?

On a finished run on the simulated phone (``digiq run configs/quickstart.yaml``), it trains critics for objectives ×
seeds, each evaluated after several epochs. Every critic gets a selection score, from held-out data alone, and a true
value that selection never sees:

``--truth picks``   mean exact value, over the logged states, of the candidates that Best-of-N picks with this critic
                    (that action first, then the optimal policy); milliseconds per critic.
``--truth policy``  success in rollouts on the run's test tasks of a policy distilled with this critic exactly as in the
                    run's recipe; a minute per critic. This is the figure that counts.

It prints Spearman's correlation between score and truth with a 95 % interval. Epochs of one training run resemble each
other, so the bootstrap resamples training runs. The correlation of each single criterion is printed below.

    .venv/bin/python benchmarks/selection_correlation.py --run runs/quickstart --truth policy
    .venv/bin/python benchmarks/selection_correlation.py --run runs/small --quick

Trained critics are kept in ``--out`` and reused by the next call. The last line is one JSON object.
"""

import argparse
import dataclasses
import importlib.metadata
import json
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr

OBJECTIVES = ("td", "td_max", "mc", "nstep", "td_lambda", "iql", "cql", "cal_ql")
"""Objectives of the library; ``td_max`` is ``td`` with the maximum over the candidates as its backup."""


@dataclasses.dataclass(frozen=True)
class Trained:
    """One critic: a training run after a number of epochs."""

    run: str
    """Objective and seed; the unit that the bootstrap resamples."""
    path: Path
    epoch: int

    @property
    def name(self) -> str:
        return f"{self.run} epoch {self.epoch}"


def train_critics(recipe: Any, out: Path, objectives: Sequence[str], seeds: int) -> list[Trained]:
    """Trains the critics that ``out`` lacks, with the recipe's settings except objective and seed."""
    from digiq.critics import train
    from digiq.critics.diagnose import checkpoint_epochs

    found = []
    for objective in objectives:
        for seed in range(seeds):
            name, backup = objective.removesuffix("_max"), "max" if objective.endswith("_max") else None
            critic = dataclasses.replace(recipe.train_q.critic, objective=name)
            if backup:
                changed = dataclasses.replace(getattr(critic, name), backup=backup)
                critic = dataclasses.replace(critic, **{name: changed})
            # With this backup V follows the best candidate, so the gate needs another baseline.
            baseline = "candidate_mean" if backup else critic.baseline
            critic = dataclasses.replace(critic, baseline=baseline)
            config = dataclasses.replace(recipe.train_q, critic=critic, seed=seed)
            path = out / f"{objective}-{seed}"
            train.run(config, **inputs(recipe, "features", "episodes", "rewards"), out=path)
            found += [Trained(path.name, path, epoch) for epoch in checkpoint_epochs(path)]
    return found


def inputs(recipe: Any, *names: str) -> dict[str, Path]:
    """The run's artefacts, by name."""
    return {name: recipe.directory / name for name in names}


def selection(
    recipe: Any, critics: Sequence[Trained]
) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """The score that ``digiq select`` gives every critic, and each single criterion."""
    from digiq.critics.diagnose import judge_checkpoint, training_data_of
    from digiq.critics.measures import Reference
    from digiq.critics.select import AGREEMENT, CRITERIA, agreement, choose

    found: dict[str, Any] = {}
    values: dict[str, np.ndarray] = {}
    data = reference = last = None
    for critic in critics:
        if critic.path != last:
            data = training_data_of(critic.path, **inputs(recipe, "features", "episodes", "rewards"))
            reference, last = Reference.of(data), critic.path
        assert data is not None
        assert reference is not None
        judged = judge_checkpoint(critic.path, critic.epoch, data, 0.0, reference)
        found[critic.name], values[critic.name] = judged
    single = {name: {k: float(f(d)) for k, d in found.items()} for name, f in CRITERIA.items()}
    single[AGREEMENT] = dict(zip(values, agreement(list(values.values())), strict=True))
    return choose(found, values).scores, single


def value_of_picks(recipe: Any, critics: Sequence[Trained]) -> dict[str, float]:
    """Mean exact Q* of Best-of-N's picks at the logged states; the states are evaluated once for all critics."""
    from digiq.critics import candidate_values, load_critic
    from digiq.data.rewards import LabelledEpisodes
    from digiq.data.transitions import observation_index
    from digiq.extraction.best_of_n import best_of_n
    from digiq.features import load_features
    from digiq.laboratory.truth import replay
    from digiq.proposals.propose import load_proposals

    episodes = LabelledEpisodes(recipe.directory / "episodes", recipe.directory / "rewards")
    proposals = load_proposals(recipe.directory / "proposals")
    features = load_features(recipe.directory / "features")

    def candidates(row: int) -> list[Any]:
        valid = proposals.valid[row]
        return [proposals.action(row, n) if valid[n] else None for n in range(len(valid))]

    truth = replay(
        recipe.directory / "episodes",
        list(episodes),
        observation_index(episodes),
        candidates,
        discount=recipe.train_q.critic.gamma,
    )
    extraction = next(d.best_of_n for d in recipe.distill.values() if d.objective == "best_of_n")
    rows = truth.rows
    values = {}
    for critic in critics:
        q, baseline = candidate_values(
            load_critic(critic.path, critic.epoch), features, baseline=extraction.baseline
        )
        chosen = best_of_n(
            q[rows], baseline[rows], proposals.valid[rows], extraction, proposals.log_prob[rows]
        )
        possible = np.flatnonzero(chosen.choice >= 0)
        values[critic.name] = float(np.nanmean(truth.q[possible, chosen.choice[possible]]))
    return values


def success_of_policies(
    recipe: Any, critics: Sequence[Trained], out: Path, episodes: int
) -> dict[str, float]:
    """Success on test tasks of a policy distilled with each critic, all on the same episodes; cached in ``out``."""
    from digiq.critics import load_critic, save_critic
    from digiq.evaluation import evaluate
    from digiq.extraction import distill

    name, config = next((n, d) for n, d in recipe.distill.items() if d.objective == "best_of_n")
    agent = recipe.agents.get(name, recipe.evaluate.agent)
    test = dataclasses.replace(recipe.evaluate, agent=agent, episodes=episodes, records=0, seed=1)
    values = {}
    for critic in critics:
        one = out / "policies" / f"{critic.run}-{critic.epoch}"
        if not (one / "critic" / "critic.json").is_file():
            save_critic(load_critic(critic.path, critic.epoch), one / "critic")
        distill.run(
            config,
            **inputs(recipe, "behavior", "episodes", "rewards", "proposals", "features"),
            critic=one / "critic",
            out=one / "policy",
        )
        played = evaluate.run(test, policy=one / "policy", out=one / "evaluation")
        values[critic.name] = played.manifest.counts.get("success", 0) / episodes
        print(f"{critic.name:<24} success {values[critic.name]:.3f}", flush=True)
    return values


def correlation(
    score: np.ndarray, truth: np.ndarray, runs: Sequence[str], resamples: int = 2000
) -> tuple[float, float, float]:
    """Spearman's ρ and its 95 % interval over resampled training runs; resamples without variation are left out."""
    score = np.where(np.isnan(score), -np.inf, score)
    members = [np.flatnonzero(np.array(runs) == run) for run in dict.fromkeys(runs)]
    rng, draws = np.random.default_rng(0), []
    for _ in range(resamples):
        rows = np.concatenate([members[k] for k in rng.integers(len(members), size=len(members))])
        if np.ptp(truth[rows]) > 0 and len(set(score[rows].tolist())) > 1:
            draws.append(float(spearmanr(score[rows], truth[rows]).statistic))
    low, high = np.quantile(draws, [0.025, 0.975]) if draws else (np.nan, np.nan)
    rho = float(spearmanr(score, truth).statistic) if len(set(score.tolist())) > 1 else float("nan")
    return rho, float(low), float(high)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", type=Path, default=Path("runs/small"), help="a finished run")
    parser.add_argument("--out", type=Path, help="where critics go (build/selection/NAME by default)")
    parser.add_argument("--truth", choices=("picks", "policy"), default="picks")
    parser.add_argument("--objectives", default=",".join(OBJECTIVES), help="comma-separated")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", help="comma-separated: only these checkpoints; all by default")
    parser.add_argument("--episodes", type=int, default=600, help="roll-outs of --truth policy")
    parser.add_argument(
        "--quick", action="store_true", help="two objectives, one seed, eight epochs: a trial"
    )
    arguments = parser.parse_args()

    from digiq.config import load
    from digiq.pipeline.recipe import Recipe
    from digiq.pipeline.run import RECIPE

    recipe = load(
        Recipe,
        json.loads((arguments.run / RECIPE).read_text(encoding="utf-8")),
        where=str(arguments.run / RECIPE),
    )
    recipe = dataclasses.replace(recipe, output=arguments.run.parent, name=arguments.run.name)
    objectives, seeds = arguments.objectives.split(","), arguments.seeds
    if arguments.quick:
        objectives, seeds = ["td", "mc"], 1
        critic = dataclasses.replace(recipe.train_q.critic, epochs=8, steps_per_epoch=20)
        recipe = dataclasses.replace(
            recipe, train_q=dataclasses.replace(recipe.train_q, critic=critic, checkpoint_every=2)
        )
    kind = "quick" if arguments.quick else "full"
    out = arguments.out or Path("build") / "selection" / f"{recipe.name}-{kind}"
    out.mkdir(parents=True, exist_ok=True)
    critics = train_critics(recipe, out, objectives, seeds)
    if arguments.epochs:
        wanted = set(map(int, arguments.epochs.split(",")))
        critics = [critic for critic in critics if critic.epoch in wanted]
    scores, single = selection(recipe, critics)
    truth = (
        value_of_picks(recipe, critics)
        if arguments.truth == "picks"
        else success_of_policies(recipe, critics, out, arguments.episodes)
    )
    names = [c.name for c in critics]
    runs, true = [c.run for c in critics], np.array([truth[name] for name in names])
    print(f"{'critic':<24}{'score':>8}{arguments.truth:>10}")
    for name in sorted(names, key=lambda name: -scores[name]):
        print(f"{name:<24}{scores[name]:>8.3f}{truth[name]:>10.4f}")
    rows = {"selection score": scores, **single}
    found = {
        label: correlation(np.array([values[name] for name in names]), true, runs)
        for label, values in rows.items()
    }
    print(f"\nSpearman with the truth over {len(critics)} critics of {len(set(runs))} training runs:")
    for label, (rho, low, high) in found.items():
        print(f"{label:<26}{rho:>7.2f}  [{low:.2f}, {high:.2f}]")
    best = max(names, key=scores.__getitem__)
    print(f"chosen: {best}, truth {truth[best]:.4f}; best {true.max():.4f}, mean {true.mean():.4f}")
    rho, low, high = found["selection score"]
    metrics = {
        "spearman": rho,
        "spearman_low": low,
        "spearman_high": high,
        "critics": len(critics),
        "chosen_truth": truth[best],
        "best_truth": float(true.max()),
        "mean_truth": float(true.mean()),
    }
    print(
        json.dumps(
            {
                "benchmark": "selection_correlation",
                "metrics": {name: round(value, 4) for name, value in metrics.items()},
                "hardware": f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores",
                "versions": {name: importlib.metadata.version(name) for name in ("jax", "scipy")},
            }
        )
    )


if __name__ == "__main__":
    main()
