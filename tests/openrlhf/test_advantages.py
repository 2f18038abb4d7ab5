"""The effect of every failure policy on the advantages that OpenRLHF's own code computes.

docs/openrlhf.md holds the same table; this test computes it anew and compares.
"""

import itertools
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("openrlhf.cli", reason="needs the extra `openrlhf`")

from spct_plugin.shaping import apply_on_failure

HERE = Path(__file__).parent
DOCUMENT = HERE.parents[1] / "docs/openrlhf.md"
MIDDLE = 5.5
CASES = {
    "one failed": [2.0, 4.0, 9.0, None],
    "all but one": [2.0, None, None, None],
    "all": [None] * 4,
}
FALLBACKS = ["group_mean", "drop_group"]
ESTIMATORS = ["group_norm", "rloo", "reinforce_baseline", "gae"]
# Beside the group in the batch: two of the estimators normalise over the whole batch.
CLEAN = [2.0, 4.0, 6.0, 8.0]
KEYS = list(itertools.product(CASES, [*FALLBACKS, "alone"], ESTIMATORS))


def rewards_of(case, fallback):
    """What the adapters give OpenRLHF; "alone" is the reward file, which sees no siblings."""
    policy = "abstain" if fallback == "alone" else fallback
    return [MIDDLE if r is None else r for r in apply_on_failure(CASES[case], policy)]


@pytest.fixture(scope="module")
def computed():
    asked = [(estimator, rewards_of(case, fallback) + CLEAN) for case, fallback, estimator in KEYS]
    done = subprocess.run(
        [sys.executable, HERE / "advantages_script.py"],
        input=json.dumps(asked),
        env=os.environ | {"PYTHONPATH": str(HERE / "stand_ins"), "DS_ACCELERATOR": "cpu"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    found = re.search(r"^ADVANTAGES (.*)$", done.stdout, re.MULTILINE)
    assert found, done.stderr
    return dict(zip(KEYS, json.loads(found[1]), strict=True))


def numbers(cell):
    return [float(number) for number in cell.split(",")]


def documented():
    """Read the table: (case, fallback) to rewards, and with an estimator to advantages."""
    row = r"^\| ([a-z ]+) \| `?(\w+)`? \| ([-\d., ]+) \|" + r" ([-\d., ]+) \|" * 4 + "$"
    found = {}
    for case, fallback, rewards, *cells in re.findall(row, DOCUMENT.read_text(), re.MULTILINE):
        found[case, fallback] = numbers(rewards)
        for estimator, cell in zip(ESTIMATORS, cells, strict=True):
            found[case, fallback, estimator] = numbers(cell)
    return found


@pytest.mark.parametrize(("case", "fallback", "estimator"), KEYS)
def test_the_documented_advantages_are_those_of_openrlhf(case, fallback, estimator, computed):
    table = documented()
    advantages = computed[case, fallback, estimator]
    assert table[case, fallback] == rewards_of(case, fallback)
    assert table[case, fallback, estimator] == pytest.approx(advantages[:4], abs=0.005)


@pytest.mark.parametrize("estimator", ["group_norm", "rloo"])
@pytest.mark.parametrize("case", CASES)
def test_a_dropped_group_gives_no_gradient(case, estimator, computed):
    assert computed[case, "drop_group", estimator][:4] == [0] * 4
