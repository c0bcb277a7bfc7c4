"""A small run up to its proposals, which the tests of extraction distil from."""

import pytest

from digiq.agents import collect
from digiq.agents.build import AgentConfig
from digiq.data import label
from digiq.extraction import distill
from digiq.policies import fit
from digiq.policies.grid import Grid
from digiq.proposals import propose

SMALL = Grid(input_height=64, input_width=32, width=8, word_buckets=64, speller_width=4)
FIT = distill.DistillFitConfig(updates=2, batch_size=4)


@pytest.fixture(scope="package")
def run(tmp_path_factory):
    """Directories by artefact name."""
    root = tmp_path_factory.mktemp("run")
    made = {name: root / name for name in ("behavior", "episodes", "rewards", "proposals")}
    collect.run(
        collect.CollectConfig(agent=AgentConfig(kind="collector"), num_episodes=16, seed=1),
        out=made["episodes"],
    )
    fit.run(fit.FitPolicyConfig(grid=SMALL, fit=FIT), episodes=made["episodes"], out=made["behavior"])
    label.run(label.LabelConfig(), episodes=made["episodes"], out=made["rewards"])
    propose.run(
        propose.ProposeConfig(num_candidates=3),
        episodes=made["episodes"], rewards=made["rewards"], policy=made["behavior"], out=made["proposals"],
    )  # fmt: skip
    return made
