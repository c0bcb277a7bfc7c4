"""The ``probe`` command: which layer and pooling of a VLM hold what a critic needs.

For every layer of stored features (``featurize --layers all --pooling both`` computes them in one pass), two linear
probes are fitted to the rows of logged actions and tested on episodes that they have not seen. One predicts whether the
action changed the screen (actionability, by the rule of the authors' code), the other the return that followed. If a
linear probe cannot read a layer, a small critic is not likely to either. Chance is 0.5 for the first and 0 for the
second.
"""

import json
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import Field
from rich.console import Console
from rich.table import Table

from digiq import artifacts
from digiq.artifacts import Artifact
from digiq.config import configclass
from digiq.data.rewards import LabelledEpisodes
from digiq.data.schema import decode_png
from digiq.errors import DigiQError
from digiq.features.extract import open_features
from digiq.progress import progress
from digiq.statistics import auc
from digiq.vlm.tune import screen_changed

STAGE, VERSION = "probe", 1
RESULT, PLOT = "probe.json", "probe.png"
_STRENGTHS = 10.0 ** np.arange(-2, 6)


@configclass
class ProbeConfig:
    """How layers are compared."""

    split: str = ""
    """Use only episodes of this split; empty uses all."""
    folds: Annotated[int, Field(ge=2)] = 5
    """Number of folds of episodes; each is predicted from the others."""
    max_rows: Annotated[int, Field(ge=20)] = 4000
    """Most logged actions used, in whole episodes."""
    gamma: Annotated[float, Field(ge=0, le=1)] = 0.95
    """Discount of the return."""
    seed: int = 0
    """Seed of the folds."""


def run(
    config: ProbeConfig,
    *,
    episodes: Path,
    features: Path,
    rewards: Path | None = None,
    out: Path,
    overwrite: bool = False,
) -> Artifact:
    """Fits the probes, prints layers from best to worst, and writes ``probe.json`` and ``probe.png``.

    Args:
      config: see :class:`ProbeConfig`.
      episodes, rewards: the artefacts that the features were computed from.
      features: features with the layers and poolings to compare.
      out: where the two files go.
      overwrite: start anew.

    Raises:
      DigiQError: the features are of other episodes, or there are fewer than two episodes with actions.
    """
    inputs = {"episodes": episodes, "features": features, "rewards": rewards}
    with artifacts.write(
        out, stage=STAGE, version=VERSION, config=config, inputs=inputs, overwrite=overwrite
    ) as w:
        if w.done:
            return w.artifact
        targets = _targets(LabelledEpisodes(episodes, rewards), config)
        stored = open_features(features)
        if targets.states != len(stored.candidate_row):
            raise DigiQError(
                f"{features}: made for {len(stored.candidate_row)} observations, but the episodes have {targets.states}; run "
                "'featurize' on these episodes and rewards."
            )
        rows = stored.candidate_row[targets.state, 0]
        results = []
        with progress("probe", len(stored.pair), unit="layers") as bar:
            for layer, array in stored.pair.items():
                inputs_ = np.asarray(array[rows], np.float32)
                changed = cross_predict(inputs_, targets.changed * 2.0 - 1, targets.fold)
                returned = cross_predict(inputs_, targets.returns, targets.fold)
                results.append(
                    {
                        "layer": layer,
                        "actionability_auc": auc(changed, targets.changed.tolist()),
                        "return_correlation": _correlation(returned, targets.returns),
                    }
                )
                bar.advance(1)
        results.sort(
            key=lambda r: -(_score(r["actionability_auc"], 0.5) + _score(r["return_correlation"], 0))
        )
        with artifacts.atomic_path(w.path / RESULT) as temporary:
            temporary.write_text(
                json.dumps({"rows": len(rows), "layers": results}, indent=1), encoding="utf-8"
            )
        with artifacts.atomic_path(w.path / PLOT) as temporary:
            _plot(results, temporary)
        _print(results, len(rows))
        return w.complete(counts={"rows": len(rows), "layers": len(results)})


class _Targets:
    def __init__(
        self, states: int, state: list[int], changed: list[bool], returns: list[float], fold: list[int]
    ):
        self.states = states
        self.state = np.array(state, np.int64)
        """Rows in the features' observations."""
        self.changed = np.array(changed, bool)
        self.returns = np.array(returns, np.float64)
        self.fold = np.array(fold, np.int64)


def _targets(episodes: LabelledEpisodes, config: ProbeConfig) -> _Targets:
    """The targets of each logged action; copies of an episode share its fold, or they would give the answer away."""
    rng = np.random.default_rng(config.seed)
    outlines = episodes.outlines
    names = list(dict.fromkeys(o.source_id for o in outlines))
    fold_of = {
        name: int(f) for name, f in zip(names, rng.permutation(len(names)) % config.folds, strict=True)
    }
    state, changed, returns, fold, count = [], [], [], [], 0
    for episode in episodes:
        wanted = (not config.split or episode.split == config.split) and len(state) < config.max_rows
        screens = [decode_png(step.screenshot) for step in episode.steps] if wanted else []
        rest, later = 0.0, []
        for step in reversed(episode.steps[: episode.num_actions]):
            rest = step.reward + config.gamma * rest
            later.append(rest)
        later.reverse()
        for t, step in enumerate(episode.steps):
            if step.is_terminal:
                continue
            if (
                wanted
                and t < episode.num_actions
                and step.action is not None
                and not step.action.ends_episode
            ):
                state.append(count)
                changed.append(screen_changed(screens[t], screens[t + 1]))
                returns.append(later[t])
                fold.append(fold_of[episode.source_id])
            count += 1
    if len(set(fold)) < 2:
        raise DigiQError(
            "probe: fewer than two episodes with actions; probes need some to learn from and some to test on."
        )
    return _Targets(count, state, changed, returns, fold)


def cross_predict(
    inputs: npt.NDArray[np.float32], target: npt.NDArray[np.float64], fold: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    """Prediction of each row by ridge regression on the other folds.

    Args:
      inputs: [n, D]; standardised by the training rows.
      target: [n].
      fold: [n].

    Returns:
      float64 [n]. The ridge strength is chosen by leave-one-out error on the training rows (Golub et al., 1979).
    """
    out = np.zeros(len(target))
    for held in np.unique(fold):
        train, test = fold != held, fold == held
        mean, scale = inputs[train].mean(0), inputs[train].std(0) + 1e-6
        x, z = (((inputs[part] - mean) / scale).astype(np.float64) for part in (train, test))
        y = target[train] - target[train].mean()
        values, vectors = np.linalg.eigh(x @ x.T)
        values = np.maximum(values, 0)
        turned = vectors.T @ y
        best, chosen = np.inf, _STRENGTHS[-1]
        for strength in _STRENGTHS * x.shape[1]:
            kept = strength / (values + strength)
            left_out = (vectors @ (kept * turned)) / np.maximum((vectors**2) @ kept, 1e-12)
            error = float(np.mean(left_out**2))
            if error < best:
                best, chosen = error, strength
        out[test] = z @ (x.T @ (vectors @ (turned / (values + chosen)))) + target[train].mean()
    return out


def _correlation(one: npt.NDArray[np.float64], other: npt.NDArray[np.float64]) -> float:
    if one.std() == 0 or other.std() == 0:
        return float("nan")
    return float(np.corrcoef(one, other)[0, 1])


def _score(value: float, chance: float) -> float:
    return 0.0 if np.isnan(value) else abs(value - chance) / (1 - chance)


def _print(results: list[dict[str, Any]], rows: int) -> None:
    table = Table(title=f"linear probes of {rows} logged actions, on episodes they were not fitted to")
    for name in ("layer", "actionability (AUC)", "return (correlation)"):
        table.add_column(name, justify="left" if name == "layer" else "right")
    for result in results:
        table.add_row(
            result["layer"], f"{result['actionability_auc']:.3f}", f"{result['return_correlation']:.3f}"
        )
    Console().print(table)


def _plot(results: list[dict[str, Any]], path: Path) -> None:
    from matplotlib.figure import Figure

    ordered = sorted(results, key=lambda r: r["layer"])
    figure = Figure(figsize=(max(5, 0.4 * len(ordered)), 3.5), layout="constrained")
    axes = figure.subplots()
    places = np.arange(len(ordered))
    axes.plot(places, [r["actionability_auc"] for r in ordered], marker="o", label="actionability (AUC)")
    axes.plot(places, [r["return_correlation"] for r in ordered], marker="s", label="return (correlation)")
    axes.set_xticks(places, [r["layer"].removeprefix("layer_") for r in ordered], rotation=90)
    axes.set_xlabel("layer")
    axes.legend()
    figure.savefig(path, format="png", dpi=120)
