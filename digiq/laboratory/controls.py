"""Controls for studies: members that know nothing, or more than is allowed. Recipes name them like the user's own."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from android_env.actions import Action
from digiq import artifacts
from digiq.config import configclass, load
from digiq.data.labels import Unlabelled
from digiq.data.labels.outcome import Outcome
from digiq.data.rewards import Label
from digiq.data.schema import Episode
from digiq.data.transitions import outlines_of
from digiq.errors import DigiQError
from digiq.extraction.base import States, Values, check_sizes
from digiq.features.engines.base import Kind, Request, layer_name
from digiq.features.engines.plain import Plain, PlainEngine, open_plain
from digiq.laboratory.elements import Source, observation_features, pair_features
from digiq.laboratory.exact_values import ExactValuesConfig
from digiq.proposals.values import load_exact

if TYPE_CHECKING:
    from digiq.features.extract import FeaturizeConfig


@configclass
class ShuffledOutcomes:
    """The episodes' outcomes, permuted at random within each split.

    Which episode succeeded is lost, but not when each ended. Where success ends an episode, its length still tells
    something about its outcome. :class:`ShuffledEnds` loses that as well.
    """

    seed: int = 0
    """Seed of the permutation."""

    def rewards(self, episodes: Sequence[Episode]) -> Iterator[Label]:
        """Total rewards, permuted within each split, each paid with the last action."""
        labels = list(Outcome().rewards(episodes))
        splits = np.array([episode.split for episode in outlines_of(episodes)])
        rng = np.random.default_rng(self.seed)
        totals = np.array([sum(label.rewards) for label in labels])
        for split in sorted(set(splits)):
            members = np.flatnonzero(splits == split)
            totals[members] = totals[rng.permutation(members)]
        for label, total in zip(labels, totals, strict=True):
            paid = (*(0.0,) * (len(label.rewards) - 1), float(total))[: len(label.rewards)]
            yield dataclasses.replace(label, rewards=paid, provenance="shuffled")


@configclass
class ShuffledEnds:
    """The ends of episodes and what each paid, dealt out together over the steps of all episodes of a split.

    Every step is equally likely to be an end, and every end to be paid, whatever is on the screen. So all states have
    the same value in expectation, and a critic can learn neither which states lead to success nor which come before an
    end. There are as many ends as recorded episodes, and as many of them are paid.

    A recorded end leads nowhere, so its action would have to be an end again. It is left out: an episode is cut off at its
    last screen before. Set ``train_q.critic.timeout: bootstrap``, or cutting off counts as an end without reward.
    """

    seed: int = 0
    """Seed of the deal."""

    def rewards(self, episodes: Sequence[Episode]) -> Iterator[Label | Unlabelled]:
        """Rewards and step discounts (0 at an end) of all actions that lead to a screen."""
        outlines = outlines_of(episodes)
        kept = np.array([outline.num_actions - outline.is_terminated for outline in outlines])
        splits = np.array([outline.split for outline in outlines])
        of_split = np.repeat(splits, kept)
        paid, discounts = np.zeros(kept.sum()), np.ones(kept.sum())
        rng = np.random.default_rng(self.seed)
        for split in sorted(set(splits)):
            totals = [outline.total_reward for outline in outlines if outline.split == split]
            steps = rng.permutation(np.flatnonzero(of_split == split))[: len(totals)]
            paid[steps] = rng.permutation(totals)[: len(steps)]
            discounts[steps] = 0.0
        parts = np.cumsum(kept)[:-1]
        for outline, its, follows in zip(
            outlines, np.split(paid, parts), np.split(discounts, parts), strict=True
        ):
            if not len(its):
                yield Unlabelled(outline.episode_id, "its only action ends it")
                continue
            yield Label(
                episode_id=outline.episode_id,
                source_id=outline.episode_id,
                goal=None,
                rewards=tuple(its.tolist()),
                discounts=tuple(follows.tolist()),
                length=len(its) if outline.is_terminated else None,
                provenance="shuffled",
            )


@configclass
class RandomVlm:
    """The plain engine with the same network but random weights."""

    packages: ClassVar = Plain.packages
    seed: int = 0
    """Seed of the weights."""

    def open(self, reading: FeaturizeConfig, vlm: Path) -> RandomEngine:
        engine = open_plain(reading, vlm, lambda model: randomise(model, self.seed))
        return RandomEngine(**vars(engine), seed=self.seed)


@dataclasses.dataclass(frozen=True)
class RandomEngine(PlainEngine):
    seed: int

    def identity(self, kind: Kind) -> dict[str, Any]:
        return {**super().identity(kind), "source": "random_vlm", "seed": self.seed}


@configclass
class PermutedFeatures:
    """The plain engine's rows, assigned to the wrong observations and actions, so that they carry no information."""

    packages: ClassVar = Plain.packages
    seconds_a_row: ClassVar[float] = 0.0  # they are already stored wherever there is an arm to compare with
    seed: int = 0
    """Seed of the permutation."""

    def open(self, reading: FeaturizeConfig, vlm: Path) -> PermutedEngine:
        return PermutedEngine(**vars(open_plain(reading, vlm)), seed=self.seed)


@dataclasses.dataclass(frozen=True)
class PermutedEngine(PlainEngine):
    seed: int

    def deal(self, keys: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        return keys[np.random.default_rng([self.seed, len(keys)]).permutation(len(keys))]


@configclass
class TextFeatures:
    """Features of the goal and the action alone, without VLM or screen (:mod:`digiq.laboratory.elements`)."""

    seconds_a_row: ClassVar[float] = 0.0

    def open(self, reading: FeaturizeConfig, vlm: Path) -> TableEngine:
        return TableEngine("text")


@configclass
class ElementFeatures:
    """Features of the device's elements, without VLM: an oracle of perception (:mod:`digiq.laboratory.elements`)."""

    seconds_a_row: ClassVar[float] = 0.0

    def open(self, reading: FeaturizeConfig, vlm: Path) -> TableEngine:
        return TableEngine("elements")


@dataclasses.dataclass(frozen=True)
class TableEngine:
    """Features that are computed without a model, in one layer."""

    source: Source
    layers: tuple[str, ...] = (layer_name(1),)

    def dim(self, kind: Kind) -> int:
        return self._row(Request.build(b"", "", _ACTION[kind], "text", activity="", ui_elements="[]")).size

    def identity(self, kind: Kind) -> dict[str, Any]:
        return {"source": self.source, "version": 1}

    def rows(
        self, requests: Sequence[Request]
    ) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]]:
        if requests:
            yield np.arange(len(requests)), np.stack([self._row(request)[None] for request in requests])

    def _row(self, request: Request) -> npt.NDArray[np.float32]:
        activity, elements = request.activity, request.ui_elements
        if activity is None or elements is None:
            if self.source == "elements":
                raise DigiQError("ElementFeatures: the device's own elements are not available at test time.")
            activity, elements = "", "[]"
        if request.action is None:
            return observation_features(self.source, request.goal, activity, elements)
        return pair_features(self.source, request.goal, request.action, activity, elements)


_ACTION: dict[Kind, Action | None] = {"observation": None, "pair": Action.back()}


def randomise(model: Any, seed: int) -> None:
    """Re-draws every weight of a network in place: matrices with standard deviation 1/√fan-in, gains 1, biases 0."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim >= 2:
                fan_in = parameter[0].numel()
                drawn = torch.randn(parameter.shape, generator=generator) / fan_in**0.5
                parameter.copy_(drawn.to(parameter.dtype))
            else:
                parameter.fill_(1.0 if name.endswith("weight") else 0.0)


@configclass
class ExactValues:
    """The simulator's own Q* and V*, the upper bound for any critic."""

    @property
    def reads(self) -> tuple[str, ...]:
        return ("exact",)

    def read(self, states: States, needs: frozenset[str], paths: Mapping[str, Path], seed: int) -> Values:
        """See :class:`digiq.extraction.base.ValueSource`.

        V* is the value of the best action, which no candidate exceeds, so by default the baseline is the mean of the
        candidates, which are drawn from the behaviour policy.
        """
        return _exact("best", "candidate_mean", len(states), needs, paths["exact"])


@configclass
class CollectorValues:
    """The exact Q and V of the scripted collector, which the behaviour policy imitates.

    They are what a critic that evaluates the behaviour policy would learn if it made no mistake, so gates that compare Q
    with V mean the same here as there. Under Q*, they do not: no action is better than V*.
    """

    @property
    def reads(self) -> tuple[str, ...]:
        return ("exact",)

    def read(self, states: States, needs: frozenset[str], paths: Mapping[str, Path], seed: int) -> Values:
        """See :class:`digiq.extraction.base.ValueSource`.

        Raises:
          DigiQError: the values were computed without ``exact.collector``.
        """
        return _exact("collector", "v", len(states), needs, paths["exact"])


def _exact(
    whose: str, baseline: Literal["v", "candidate_mean"], count: int, needs: frozenset[str], path: Path
) -> Values:
    exact = load_exact(path)
    if f"{whose}_q" not in exact:
        raise DigiQError(f"{path}: holds no values of the {whose}; set exact.{whose} to true.")
    check_sizes({path: len(exact[f"{whose}_q"])}, count)
    config = load(ExactValuesConfig, artifacts.read_manifest(path).config, where=str(path), recorded=True)
    q = exact[f"{whose}_q"].astype(np.float32)
    return Values(
        q=q,
        v=exact[f"{whose}_v"].astype(np.float32),
        baseline=baseline,
        discount=config.discount,
        bootstraps=False,
        deviation=np.zeros_like(q) if "members" in needs else None,  # exact values are certain
    )


@configclass
class RandomValues:
    """Random values: Q uniform in [0, 1), V its mean. A method that is as good with them learns nothing from Q."""

    @property
    def reads(self) -> tuple[str, ...]:
        return ()

    def read(self, states: States, needs: frozenset[str], paths: Mapping[str, Path], seed: int) -> Values:
        """See :class:`digiq.extraction.base.ValueSource`."""
        q = None
        if "q" in needs:
            assert states.proposals is not None
            q = np.random.default_rng([seed, 7]).random(states.proposals.valid.shape, np.float32)
        v = np.full(len(states), 0.5, np.float32)
        surely = np.zeros_like(q) if q is not None and "members" in needs else None
        return Values(q=q, v=v, baseline="v", discount=1.0, bootstraps=False, deviation=surely)
