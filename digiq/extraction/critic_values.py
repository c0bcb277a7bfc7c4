"""Values by the learned critic, from stored features; the VLM does not run."""

from collections.abc import Mapping
from pathlib import Path

from digiq.config import configclass
from digiq.critics.critic import candidate_values, load_critic, member_values, state_values
from digiq.extraction.base import States, Values, check_sizes
from digiq.features.extract import open_features


@configclass
class CriticValues:
    """Values of a critic trained by ``train-q``."""

    @property
    def reads(self) -> tuple[str, ...]:
        return ("features", "critic")

    def read(self, states: States, needs: frozenset[str], paths: Mapping[str, Path], seed: int) -> Values:
        """See :class:`digiq.extraction.base.ValueSource`; features of candidates are read only if Q is needed."""
        features = open_features(paths["features"])
        check_sizes({paths["features"]: len(features.candidate_row)}, len(states))
        critic = load_critic(paths["critic"])
        deviation = None
        if "members" in needs:
            qs, vs = member_values(critic, features)
            q, v = critic.aggregate(qs), critic.aggregate(vs)
            deviation = (qs - vs[:, None]).std(axis=-1)
        elif "q" in needs:
            q, v = candidate_values(critic, features, baseline="v")
        else:
            q, v = None, state_values(critic, features)
        config = critic.config
        return Values(
            q=q,
            v=v,
            baseline=config.baseline,
            discount=config.gamma,
            bootstraps=config.timeout == "bootstrap",
            deviation=deviation,
        )
