"""SPCT on OpenRLHF's own trainers, from sampled judgements on: the texts are ours, as rejected."""

import json
import math

import pytest

# Not "openrlhf", which would be found: it is the name of this folder, too.
pytest.importorskip("openrlhf.cli", reason="needs the extra `openrlhf`")

from cpu_runs import run_cli
from ppo_runs import GRPO, PPO_RAY, REWARD_FILE, moved, write_rows

from spct_plugin.tiny import MODELS
from spct_plugin.tiny.tasks import labelled_tasks

pytestmark = pytest.mark.slow

# Holds the prompts of these tasks and 64 tokens more.
MAX_LEN = 640
# What was rendered is not rendered again.
TEXTS = {flag: value for flag, value in PPO_RAY.items() if flag != "--data.apply_chat_template"}


def sampled(row):
    """Add two judgements to a task, one right and one wrong."""
    right = [9 if i == row["label"] else 2 for i in (0, 1)]
    judgements = [
        {
            **{"vote": vote, "indices": [0, 1], "order": [0, 1], "scores": scores},
            "text": f"Analysis: clear.\nScores: \\boxed{{{scores[0]}, {scores[1]}}}",
        }
        for vote, scores in enumerate([right, right[::-1]])
    ]
    return row | {"judgements": judgements}


@pytest.fixture
def rejected(spct, tmp_path):
    """Reject for OpenRLHF: sft.jsonl and rl.jsonl."""
    rows = [sampled(row) for row in labelled_tasks(5, 16, 2)]
    write_rows(tmp_path / "trajectories.jsonl", rows)
    for stage, name in (("rft", "sft.jsonl"), ("rl", "rl.jsonl")):
        line = ("reject", "trajectories.jsonl", "--stage", stage, "--for", "openrlhf", "-o", name)
        assert spct(*line)[0] == 0
    return tmp_path


def test_rejective_fine_tuning_and_rule_based_rl(rejected):
    for folder in ("sft", "rl"):
        (rejected / folder).mkdir()
    sft = run_cli(
        "train_sft",
        rejected / "sft",
        {
            "--model.model_name_or_path": MODELS / "grm",
            "--data.dataset": rejected / "sft.jsonl",
            "--data.input_key": "prompt",
            "--data.output_key": "completion",
            "--data.input_template": "",
            "--data.max_len": MAX_LEN,
            "--train.max_epochs": 1,
            "--adam.lr": 1e-4,
            "--lr_scheduler": "constant",
        },
    )
    assert sft.exit_code == 0, sft.log[-5000:]
    assert len(sft.scalars["train/loss_mean"]) == 2
    assert moved(MODELS / "grm", sft.model) > 0.5

    config = rejected / "judge.yaml"
    section = {"fallback": "drop_group", "tokenizer": str(sft.model)}
    config.write_text(json.dumps({"openrlhf": section}))
    rl = run_cli(
        "train_ppo_ray",
        rejected / "rl",
        TEXTS
        | GRPO
        | REWARD_FILE
        | {
            "--actor.model_name_or_path": sft.model,
            "--data.prompt_dataset": rejected / "rl.jsonl",
            "--data.label_key": "label",
            "--data.max_len": MAX_LEN,
            "--data.max_samples": 4,
            "--rollout.max_new_tokens": 64,
        },
        SPCT_CONFIG=str(config),
    )
    assert rl.exit_code == 0, rl.log[-5000:]
    correct = rl.scalars["train/spct_correct"]
    assert len(correct) == 2
    for step, reward in rl.scalars["train/reward"].items():
        assert reward == pytest.approx(2 * correct[step] - 1, abs=1e-6)
    assert all(math.isfinite(norm) for norm in rl.scalars["train/actor_grad_norm"].values())
