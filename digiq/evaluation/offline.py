"""The ``offline`` stage: how often a policy matches the logged actions, and its estimated value, without a device.

The first is matching, not success; the second is an estimate from logged rewards (:mod:`digiq.evaluation.off_policy`).

Rules: Android in the Wild's action matching (``action_matching.py``; partial match is the share of an episode's actions
that match, complete match means that all do) and AndroidControl's step accuracy (Li et al. 2024: the action's type and
its arguments; a tap must hit the element that was tapped).
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from android_env.actions import TAP_MATCH_DISTANCE, Action, ActionType, actions_match
from digiq import artifacts
from digiq.artifacts import Artifact
from digiq.config import configclass
from digiq.data.rewards import LabelledEpisodes
from digiq.data.schema import Episode, Step, decode_png, element_boxes
from digiq.data.store import EpisodeStore
from digiq.data.transitions import build_transitions, observation_index, outlines_of
from digiq.errors import DigiQError
from digiq.evaluation import off_policy
from digiq.features.extract import Features, load_features
from digiq.policies.base import HasSupport, Policy, PolicyInput, load_policy
from digiq.progress import progress
from digiq.proposals.propose import Proposals, load_proposals
from digiq.statistics import cluster_bootstrap

STAGE, VERSION = "offline", 1
RESULT = "offline.json"
_BATCH = 64


@configclass
class OfflineConfig:
    """Which actions are compared, and how."""

    rule: Literal["aitw", "android_control"] = "aitw"
    """When two actions match: by the rule of Android in the Wild, or of AndroidControl."""
    level: Literal["high", "low"] = "high"
    """What the policy is told: the episode's goal, or each step's own instruction, if the recording has one."""
    split: str = "test"
    """Only episodes of this split."""
    seed: int = 0
    """Seed of the sampling from policies that cannot name their likeliest action."""
    estimate: tuple[Literal["fqe", "wis", "dr"], ...] = ()
    """Also estimate the value of the policy, sampled at temperature 1: by fitted Q evaluation, weighted importance
    sampling or doubly robust. ``wis`` and ``dr`` need the log-probabilities of logged actions; ``fqe`` and ``dr`` need
    proposals and features."""
    gamma: Annotated[float, Field(gt=0, lt=1)] = 0.95
    """Discount per action of the estimated return."""
    ridge: Annotated[float, Field(gt=0)] = 1e-3
    """Penalty per row of the linear Q of ``fqe`` and ``dr``, on standardised features."""

    @property
    def reads(self) -> tuple[str, ...]:
        """The artefacts that the estimates need besides episodes and policy."""
        model = ("proposals", "features") if {"fqe", "dr"} & {*self.estimate} else ()
        return ("rewards", *model) if self.estimate else ()


def run(
    config: OfflineConfig,
    *,
    episodes: Path,
    policy: Path,
    rewards: Path | None = None,
    proposals: Path | None = None,
    features: Path | None = None,
    out: Path,
    overwrite: bool = False,
) -> Artifact:
    """Writes ``offline.json``: step accuracy, partial and complete match, each with intervals over episodes, accuracy
    by type of action, and the requested estimates.

    Args:
      config: see :class:`OfflineConfig`.
      episodes: the logged episodes.
      policy: the policy to evaluate.
      rewards: rewards for estimates; without them, the recorded rewards are used.
      proposals: candidates, over which the estimates take expectations.
      features: features of the same candidates.
      out: the artefact.
      overwrite: start afresh.

      Raises:
        DigiQError: the split has no episode, with ``level: low`` none has instructions, or an estimate lacks an input.
    """
    inputs = {"episodes": episodes, "policy": policy}
    if config.estimate:
        inputs |= {"rewards": rewards, "proposals": proposals, "features": features}
    with artifacts.write(
        out, stage=STAGE, version=VERSION, config=config, inputs=inputs, overwrite=overwrite
    ) as w:
        if w.done:
            return w.artifact
        chosen = [e for e in EpisodeStore(episodes) if e.split == config.split]
        if not chosen:
            raise DigiQError(f"{episodes}: no episodes in split '{config.split}'; set split.")
        asked = [(e, step, told) for e, step, told in _steps(chosen, config.level)]
        if not asked:
            raise DigiQError(
                f"{episodes}: no step has an instruction of its own; use level 'high', or import android_control."
            )
        same: list[bool] = []
        opened = load_policy(policy)
        with progress("offline", len(asked), unit="steps") as bar:
            for batch in _batches(asked):
                seen = [PolicyInput(decode_png(step.screenshot), told) for _, step, told in batch]
                for (_, step, _), action in zip(batch, predicted(opened, seen, config.seed), strict=True):
                    assert step.action is not None
                    same.append(matches(config.rule, action, step.action, step.ui_elements))
                bar.advance(len(batch))
        result = scores([e.episode_id for e, _, _ in asked], [s.action for _, s, _ in asked], same)
        if config.estimate:
            result["estimates"] = estimates(
                config,
                LabelledEpisodes(episodes, rewards),
                opened,
                None if proposals is None else load_proposals(proposals),
                None if features is None else load_features(features),
            )
        artifacts.atomic_write_json(w.path / RESULT, result | {"rule": config.rule, "level": config.level})
        counts = {"episodes": len(chosen), "steps": len(asked), "matched": sum(same)}
        return w.complete(counts=counts)


def estimates(
    config: OfflineConfig,
    episodes: Sequence[Episode],
    policy: Policy,
    proposals: Proposals | None,
    features: Features | None,
) -> dict[str, Any]:
    """Estimates the policy's value by each of ``config.estimate``: value, low and high of the discounted return.

    Copies of episodes under other goals are left out, as nobody acted for those goals. ``logged`` is the return of the
    log itself, ``effective_episodes`` the effective number of its episodes after weighting.

    Args:
      config: which estimates, on which split.
      episodes: the labelled episodes.
      policy: the policy, which is sampled at temperature 1.
      proposals, features: for the rows of :func:`digiq.data.transitions.observation_index`; for ``fqe`` and ``dr``.

    Raises:
      DigiQError: log-probabilities, proposals or features are missing.
    """
    all_rows = build_transitions(episodes)
    outlines = outlines_of(episodes)
    wanted = np.array([e.split == config.split and not e.copy_of for e in outlines])
    kept = wanted[all_rows.episode]
    if not kept.any():
        raise DigiQError(f"estimate: no recorded actions in split '{config.split}'; set split.")
    obs, episode = all_rows.obs[kept], all_rows.episode[kept]
    reward = all_rows.reward[kept].astype(np.float64)
    discount = config.gamma * all_rows.discount[kept].astype(np.float64)
    found: dict[str, Any] = {}
    weighed = None
    if {"wis", "dr"} & {*config.estimate}:
        read = functools.lru_cache(maxsize=2)(episodes.__getitem__)
        logged = [read(int(e)).steps[t] for e, t in zip(episode, all_rows.step[kept], strict=True)]
        behavior = np.array([step.behavior_log_prob for step in logged])
        off_policy.ratios(behavior, behavior)  # checked before the policy is asked, which takes longer
        seen = [(PolicyInput(decode_png(step.screenshot), step.goal), step.action) for step in logged]
        ratio = off_policy.ratios(_log_probs(policy, seen, "estimate"), behavior)
        weighed = off_policy.weights(episode, discount, ratio)
        found["effective_episodes"] = off_policy.effective_episodes(weighed)
    model = None
    if {"fqe", "dr"} & {*config.estimate}:
        if proposals is None or features is None:
            raise DigiQError("estimate: 'fqe' and 'dr' need --proposals and their --features.")
        if len(proposals) != len(features.candidate_row):
            raise DigiQError(
                "estimate: proposals and features are of different observations; name those of the same run."
            )
        taken, expected = _model_features(episodes, policy, proposals, features, wanted)
        # V after the end of an episode is not used.
        following = expected[np.where(all_rows.next_obs[kept] < 0, obs, all_rows.next_obs[kept])]
        model = taken[obs], following, expected[obs]
    same = off_policy.weights(episode, discount, np.ones(len(reward)))
    told = {"logged": off_policy.weighted_importance(same, reward)}
    if "wis" in config.estimate and weighed is not None:
        told["wis"] = off_policy.weighted_importance(weighed, reward)
    if "fqe" in config.estimate and model is not None:
        w = off_policy.fitted_q(model[0], model[1], reward, discount, ridge=config.ridge)
        told["fqe"] = off_policy.model_value(episode, model[2] @ w)
    if "dr" in config.estimate and model is not None and weighed is not None:
        q, v = off_policy.cross_fitted(episode, *model, reward, discount, ridge=config.ridge)
        told["dr"] = off_policy.doubly_robust(weighed, reward, q, v)
    return found | {name: estimate._asdict() for name, estimate in told.items()} | {"gamma": config.gamma}


def _model_features(
    episodes: Sequence[Episode], policy: Policy, proposals: Proposals, features: Features, wanted: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """For each observation, the features of the logged pair and their mean over the candidates, float64[S, D].

    The candidates are weighted by the policy's probabilities, scaled to sum to 1 over the distinct ones; if the policy
    gives all of them probability 0, the weights are equal. Rows of episodes that are not wanted stay 0.
    """
    index = observation_index(episodes)
    rows = [s for s, (e, _) in enumerate(index) if wanted[e]]
    observation, pair = (
        np.concatenate([np.asarray(a, np.float64) for a in arrays.values()], axis=1)
        for arrays in (features.observation, features.pair)
    )
    observation, pair = _standardised(observation), _standardised(pair)
    shape = (len(observation), observation.shape[1] + pair.shape[1] + 1)
    taken, expected = np.zeros(shape), np.zeros(shape)
    asked: list[tuple[PolicyInput, Action]] = []
    owner: list[tuple[int, int]] = []
    read = functools.lru_cache(maxsize=2)(episodes.__getitem__)
    for s in rows:
        e, t = index[s]
        step = read(int(e)).steps[t]
        here = {
            proposals.action(s, n): n
            for n in reversed(range(proposals.valid.shape[1]))
            if proposals.valid[s, n] and features.candidate_row[s, n] >= 0
        }
        seen = PolicyInput(decode_png(step.screenshot), step.goal)
        asked += [(seen, action) for action in here]
        owner += [(s, n) for n in here.values()]
    log_prob = _log_probs(policy, asked, "estimate candidates")
    states = np.array([s for s, _ in owner])
    chance = np.exp(log_prob)
    mass, count = (np.bincount(states, weights=w, minlength=shape[0]) for w in (chance, np.ones(len(chance))))
    for (s, n), p in zip(owner, chance, strict=True):
        weight = p / mass[s] if mass[s] > 0 else 1 / count[s]
        expected[s] += weight * np.concatenate([observation[s], pair[features.candidate_row[s, n]], [1.0]])
    for s in rows:
        if (row := features.candidate_row[s, 0]) >= 0:
            taken[s] = np.concatenate([observation[s], pair[row], [1.0]])
    return taken, expected


def _standardised(x: np.ndarray) -> np.ndarray:
    spread = x.std(axis=0)
    return (x - x.mean(axis=0)) / np.where(spread > 1e-6, spread, 1.0)


def _log_probs(policy: Policy, asked: Sequence[tuple[PolicyInput, Any]], what: str) -> np.ndarray:
    found: list[np.ndarray] = []
    with progress(what, len(asked), unit="actions") as bar:
        for batch in _batches(asked):
            seen, actions = zip(*batch, strict=True)
            found.append(np.asarray(policy.log_prob(seen, actions), np.float64))
            bar.advance(len(batch))
    return np.concatenate(found)


def matches(rule: str, predicted: Action, logged: Action, ui_elements: str) -> bool:
    """Whether a prediction matches the logged action.

    Args:
      rule: ``aitw`` or ``android_control``.
      predicted, logged: the actions.
      ui_elements: JSON of the screen's elements; see :func:`digiq.data.schema.element_boxes`.
    """
    boxes = [box for _, box in element_boxes(ui_elements)]
    if rule == "aitw":
        return actions_match(predicted, logged, boxes)
    if predicted.type is not logged.type or predicted.is_tap is not logged.is_tap:
        return False
    if logged.is_swipe:
        return predicted.swipe_direction == logged.swipe_direction
    if logged.type in (ActionType.DUAL_POINT, ActionType.LONG_PRESS):
        tapped = [box for box in boxes if _inside(logged.touch_yx, box)]
        if tapped:
            return _inside(predicted.touch_yx, min(tapped, key=lambda box: box[2] * box[3]))
        far = np.hypot(*np.subtract(predicted.touch_yx, logged.touch_yx))
        return bool(far <= TAP_MATCH_DISTANCE)
    return predicted.text.strip().lower() == logged.text.strip().lower()


def predicted(policy: Policy, seen: Sequence[PolicyInput], seed: int) -> list[Action]:
    """The likeliest action for each observation; a sample if the policy cannot name its likeliest."""
    if isinstance(policy, HasSupport):
        return [row[0][0] for row in policy.support(seen, 1)]
    return [row[0].action for row in policy.sample(seen, 1, np.random.default_rng(seed))]


def scores(episodes: Sequence[str], logged: Sequence[Any], same: Sequence[bool]) -> dict[str, Any]:
    """Step accuracy, partial and complete match.

    Args:
      episodes: the episode of each step.
      logged: the logged actions.
      same: whether each was matched.

    Returns:
      ``step_accuracy``, ``partial_match`` and ``complete_match`` as value, low and high (95 %, bootstrap over
      episodes), and ``by_type``: accuracy and number of steps by type of action.
    """
    by_episode: dict[str, list[bool]] = {}
    for name, matched in zip(episodes, same, strict=True):
        by_episode.setdefault(name, []).append(matched)
    names = list(by_episode)
    partial = [float(np.mean(by_episode[name])) for name in names]
    complete = [float(all(by_episode[name])) for name in names]
    by_type: dict[str, list[bool]] = {}
    for action, matched in zip(logged, same, strict=True):
        kind = "SWIPE" if action.is_swipe else "TAP" if action.is_tap else action.type.name
        by_type.setdefault(kind, []).append(matched)
    told = {
        "step_accuracy": cluster_bootstrap([float(s) for s in same], episodes),
        "partial_match": cluster_bootstrap(partial, names),
        "complete_match": cluster_bootstrap(complete, names),
    }
    shares = {
        kind: {"accuracy": float(np.mean(found)), "steps": len(found)} for kind, found in by_type.items()
    }
    return {name: estimate._asdict() for name, estimate in told.items()} | {"by_type": shares}


def _steps(episodes: Sequence[Episode], level: str) -> Iterator[tuple[Episode, Step, str]]:
    for episode in episodes:
        for step in episode.steps[:-1]:
            told = step.goal if level == "high" else json.loads(step.extras).get("step_instruction", "")
            if told:
                yield episode, step, told


def _batches(items: Sequence[Any]) -> Iterator[Sequence[Any]]:
    return (items[start : start + _BATCH] for start in range(0, len(items), _BATCH))


def _inside(point: tuple[float, float], box: Sequence[float]) -> bool:
    top, left, height, width = box
    return top <= point[0] <= top + height and left <= point[1] <= left + width
