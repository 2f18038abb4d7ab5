"""The effect of every failure policy on the advantages that TRL's own trainers compute.

docs/failures.md holds the same table; this test computes it anew and compares.
"""

import re
from pathlib import Path

import pytest

pytest.importorskip("trl", reason="needs the extra `trl`")

from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

from spct_plugin.shaping import apply_on_failure

DOCUMENT = Path(__file__).parents[2] / "docs/failures.md"
CASES = {"one failed": [2.0, 4.0, 9.0, None], "all but one": [2.0, None, None, None]}
TRAINERS = {"GRPO": (GRPOTrainer, GRPOConfig), "RLOO": (RLOOTrainer, RLOOConfig)}


class Fixed:
    """A reward function that gives every group the same rewards."""

    __name__ = "fixed"

    def __init__(self, rewards):
        self.rewards = rewards

    def __call__(self, completions, **_):
        return self.rewards * (len(completions) // len(self.rewards))


def documented():
    """Read the table: (case, policy, trainer) to advantages."""
    rows = re.findall(
        r"^\| ([a-z ]+) \| `(\w+)` \| [^|]+ \| ([-\d., ]+) \| ([-\d., ]+) \|$",
        DOCUMENT.read_text(),
        re.MULTILINE,
    )
    return {
        (case, policy, trainer): [float(number) for number in cell.split(",")]
        for case, policy, grpo, rloo in rows
        for trainer, cell in (("GRPO", grpo), ("RLOO", rloo))
    }


@pytest.mark.parametrize("on_failure", ["abstain", "group_mean", "drop_group"])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("trainer", TRAINERS)
def test_the_documented_advantages_are_those_of_the_trainer(train, trainer, case, on_failure):
    trainer_class, config_class = TRAINERS[trainer]
    rewards = apply_on_failure(CASES[case], on_failure)
    done = train(trainer_class, config_class, Fixed(rewards), beta=0.0)
    advantages = list(done._logs["advantages"])
    assert advantages[:4] == pytest.approx(advantages[4:])
    assert documented()[case, on_failure, trainer] == pytest.approx(advantages[:4], abs=0.005), [
        round(advantage, 2) for advantage in advantages[:4]
    ]
