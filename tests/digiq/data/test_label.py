"""Shuffled outcomes: the same number of successes, dealt to other episodes of the same split."""

from digiq.data.label import shuffled
from digiq.data.rewards import Label


def labels(outcomes):
    return [
        Label(
            episode_id=f"e{n}",
            source_id=f"e{n}",
            goal=None,
            rewards=(0.0,) * (n % 3) + (reward,),
            provenance="recorded",
        )
        for n, reward in enumerate(outcomes)
    ]


def test_outcomes_are_dealt_out_again_within_each_split():
    before = labels([1.0] * 10 + [0.0] * 30 + [1.0] * 5)
    splits = ["train"] * 40 + ["test"] * 5
    after = shuffled(before, splits, seed=3)
    assert [len(a.rewards) for a in after] == [len(b.rewards) for b in before]
    won = [sum(label.rewards) for label in after]
    assert sum(won[:40]) == 10 and won[40:] == [1.0] * 5
    assert won[:10] != [1.0] * 10
    assert all(set(label.rewards[:-1]) <= {0.0} and label.provenance == "shuffled" for label in after)
    assert shuffled(before, splits, seed=3) == after != shuffled(before, splits, seed=4)
