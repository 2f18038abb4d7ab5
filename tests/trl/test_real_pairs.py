"""The bundled tiny GRM over real preference pairs: it knows nothing of them, and nothing breaks."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from spct_plugin.cli import app
from spct_plugin.failures import FAILURES

SHARED = Path(__file__).parents[3] / "shared" / "data"

pytestmark = pytest.mark.skipif(
    not SHARED.is_dir(), reason="the samples of public data sets are not at ../shared/data"
)


def hh_turns(dialogue):
    """Split "Human: ... Assistant: ..." into the turns before the last answer, and that answer."""
    head, _, answer = dialogue.rpartition("\n\nAssistant:")
    turns = []
    for part in head.split("\n\nHuman:")[1:]:
        human, *answers = part.split("\n\nAssistant:")
        turns.append({"role": "user", "content": human.strip()})
        turns += [{"role": "assistant", "content": text.strip()} for text in answers]
    return turns, answer.strip()


def hh_pair(row):
    turns, chosen = hh_turns(row["chosen"])
    return turns, [chosen, hh_turns(row["rejected"])[1]]


PAIRS = {
    "llmbar_pairs": lambda row: (row["input"], [row["output_1"], row["output_2"]]),
    "judgebench_pairs": lambda row: (row["question"], [row["response_A"], row["response_B"]]),
    "rmbench": lambda row: (row["prompt"], [row["chosen"][0], row["rejected"][0]]),
    "hh_rlhf_harmless": hh_pair,
}


def judge(folder, name, count):
    with (SHARED / f"{name}.jsonl").open(encoding="utf-8") as file:
        pairs = [PAIRS[name](json.loads(line)) for line in file][:count]
    tasks, rewards = folder / "tasks.jsonl", folder / "rewards.jsonl"
    tasks.write_text(
        "".join(
            json.dumps({"id": str(i), "prompt": prompt, "completions": completions}) + "\n"
            for i, (prompt, completions) in enumerate(pairs)
        )
    )
    result = CliRunner().invoke(
        app, ["judge", str(tasks), "-o", str(rewards), "-k", "2"], catch_exceptions=False
    )
    assert result.exit_code == 0, result.output
    rows = [json.loads(line) for line in rewards.read_text().splitlines()]
    assert [row["id"] for row in rows] == [str(i) for i in range(len(pairs))]
    return rows


def is_told(row):
    """Tell whether a row has rewards on the scale, or names why one is missing."""
    known = all(reward is None or 1 <= reward <= 10 for reward in row["rewards"])
    named = set(row["failures"]) <= set(FAILURES)
    return known and named and (None not in row["rewards"] or bool(row["failures"]))


@pytest.mark.parametrize("name", PAIRS)
def test_real_pairs_get_rewards_or_named_failures(tmp_path, name):
    assert all(map(is_told, judge(tmp_path, name, 8)))


@pytest.mark.slow
@pytest.mark.parametrize("name", PAIRS)
def test_all_real_pairs_get_rewards_or_named_failures(tmp_path, name):
    assert all(map(is_told, judge(tmp_path, name, None)))
