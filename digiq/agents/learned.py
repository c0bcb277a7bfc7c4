"""The learned scorer at test time: the VLM reads each candidate, and the critic values it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from android_env.actions import Action
from digiq import artifacts
from digiq.agents.agent import Past, Turn
from digiq.config import load
from digiq.critics.critic import Critic, candidate_values, load_critic
from digiq.critics.training_data import concatenate_layers
from digiq.errors import ArtifactError, DigiQError
from digiq.features.engines import Engine, Request
from digiq.features.extract import IMPORTED, FeaturizeConfig, History
from digiq.policies.base import PolicyInput
from digiq.vlm.prompts import Grounding, Template, describe_history, prompt_file

_WIDTH = 8  # candidates are padded to a multiple of this, to compile few shapes


@dataclasses.dataclass(frozen=True)
class LearnedScorer:
    """Extracts features during play, for a trained critic to value; the baseline is the critic's (``baseline``)."""

    critic: Critic
    engine: Engine
    """The engine that made the features that the critic was trained on."""
    grounding: Grounding
    """Likewise."""
    template: Template | None = None
    """Likewise."""
    history: History = dataclasses.field(default_factory=History)
    """Likewise: which of the earlier steps the prompt shows."""

    @property
    def reads_past(self) -> bool:
        """Whether it needs the episode's earlier actions."""
        return self.history.actions > 0 or self.history.screenshot

    @classmethod
    def open(cls, *, critic: Path, features: Path, vlm: Path) -> LearnedScorer:
        """Opens a scorer from the artefacts of a run.

        Args:
          critic: the artefact of ``train-q``.
          features: the features that the critic was trained on; only their configuration is read.
          vlm: the model that the features came from.

        Raises:
          DigiQError: an artefact is missing or does not open, or ``vlm`` is not the model of the features.
        """
        if artifacts.read_manifest(features).stage == IMPORTED:
            raise DigiQError(
                f"{features}: computed elsewhere, so new screens have no such features; distill a policy from the critic, or "
                "train a critic on features of 'featurize'."
            )
        manifest = artifacts.read_manifest(features, stage="featurize")
        config = load(
            FeaturizeConfig, manifest.config, where=str(features / artifacts.MANIFEST), recorded=True
        )
        if artifacts.content_digest(vlm) != manifest.inputs["vlm"]:
            raise ArtifactError(
                f"{vlm}: not the model that {features} came from (its content differs); name that model."
            )
        if (vlm / artifacts.MANIFEST).is_file():
            artifacts.open(vlm)
        own = prompt_file(config.prompt)
        if own is not None and artifacts.content_digest(own) != manifest.inputs["prompt"]:
            raise ArtifactError(
                f"{own}: not the prompt that {features} were made with; restore its content, or run 'featurize' again."
            )
        config = config.resolved(vlm)
        engine = config.chosen.open(config, vlm)
        return cls(load_critic(critic), engine, config.grounding, config.template, config.remembered)

    def score(self, observation: PolicyInput, candidates: Sequence[Action]) -> tuple[np.ndarray, float]:
        """Q of each candidate, float32[N], and the baseline of the observation.

        If the critic reads :attr:`history`, the observation must carry its ``past``
        (:class:`digiq.agents.proposers.Seen`); one without a ``past`` is taken for an episode's first.
        """
        past = getattr(observation, "past", ())
        return self._values(self._arrays([observation], [past], [candidates]), [candidates])[0]

    def score_turns(
        self, turns: Sequence[Turn], candidates: Sequence[Sequence[Action]]
    ) -> list[tuple[np.ndarray, float]]:
        """:meth:`score` for many turns, whose pairs share VLM batches."""
        return self._values(self._of_turns(turns, candidates), candidates)

    def score_with_distance(
        self, turns: Sequence[Turn], candidates: Sequence[Sequence[Action]]
    ) -> list[tuple[np.ndarray, float, np.ndarray]]:
        """:meth:`score_turns`, and the distance of each pair from the critic's training data, float32[N].

        The distance is the root mean square of the pair's standardised features: about 1 for pairs like the training
        data. For a critic that was trained on unstandardised features it is always 0, and tells nothing.
        """
        features = self._of_turns(turns, candidates)
        scores = self._values(features, candidates)
        s = self.critic.standardizer
        pairs = concatenate_layers(features["pair"], self.critic.pair_layers).astype(np.float32)
        plain = not np.any(s.pair_mean) and np.all(np.asarray(s.pair_inverse_scale) == 1)
        far = (
            np.zeros(len(pairs)) if plain else np.sqrt(np.mean(np.square(np.asarray(s.pair(pairs))), axis=1))
        )
        ends = np.cumsum([len(actions) for actions in candidates])[:-1]
        return [(q, v, d) for (q, v), d in zip(scores, np.split(far, ends), strict=True)]

    def _values(
        self, features: dict[str, Any], candidates: Sequence[Sequence[Action]]
    ) -> list[tuple[np.ndarray, float]]:
        q, v = candidate_values(self.critic, features)
        return [(q[s, : len(actions)], float(v[s])) for s, actions in enumerate(candidates)]

    def _of_turns(self, turns: Sequence[Turn], candidates: Sequence[Sequence[Action]]) -> dict[str, Any]:
        return self._arrays([turn.observation for turn in turns], [turn.past for turn in turns], candidates)

    def _arrays(
        self,
        observations: Sequence[PolicyInput],
        pasts: Sequence[Sequence[Past]],
        candidates: Sequence[Sequence[Action]],
    ) -> dict[str, Any]:
        seen = list(zip(observations, pasts, strict=True))
        pairs = [(s, action) for s, actions in enumerate(candidates) for action in actions]
        width = -(-max(map(len, candidates)) // _WIDTH) * _WIDTH
        rows = np.full((len(observations), width), -1, np.int32)
        start = 0
        for s, actions in enumerate(candidates):
            rows[s, : len(actions)] = np.arange(start, start + len(actions))
            start += len(actions)
        return {
            "observation": self._features([self._request(o, None, past) for o, past in seen]),
            "pair": self._features([self._request(seen[s][0], action, seen[s][1]) for s, action in pairs]),
            "candidate_row": rows,
        }

    def _request(self, observation: PolicyInput, action: Action | None, past: Sequence[Past]) -> Request:
        before = past[-1].screenshot if past and self.history.screenshot else None
        if past and self.history.screenshot and before is None:
            raise DigiQError(
                "the critic needs the screen before the last action (featurize.history.screenshot), but the last 'Past' has no "
                "screenshot; give it one."
            )
        return Request.build(
            observation.screenshot,
            observation.goal,
            action,
            self.grounding,
            template=self.template,
            history=describe_history([one.action for one in past], self.history.actions),
            before=before,
        )

    def _features(self, requests: Sequence[Request]) -> dict[str, Any]:
        """Features by layer name, [len(requests), D], rounded as the feature store rounds them."""
        found: dict[int, np.ndarray] = {}
        for positions, block in self.engine.rows(requests):
            found |= dict(zip(positions.tolist(), block, strict=True))
        stacked = np.stack([found[i] for i in range(len(requests))]).astype(ml_dtypes.bfloat16)
        return {layer: stacked[:, i] for i, layer in enumerate(self.engine.layers)}
