"""TRL's own trainer, rewarded through a server by nothing but a line in the configuration."""

import asyncio

import pytest
import yaml
from scripted_plugin import content_score

pytest.importorskip("trl", reason="needs the extra `trl`")
pytestmark = [
    pytest.mark.filterwarnings(f"ignore::{category}")
    for category in ("FutureWarning", "DeprecationWarning", "UserWarning")
]


async def test_grpo_trains_on_a_servers_rewards(serve, judge, policy, tmp_path):
    server = await serve(vote={"k": 4})
    path = tmp_path / "client.yaml"
    path.write_text(yaml.safe_dump({"server": {"url": server.url, "run": "grpo"}}))
    trainer = await asyncio.to_thread(train, path, policy, tmp_path)
    completions = list(trainer._logs["completion"])
    assert len(completions) == 8
    rewards = list(trainer._logs["rewards"]["grm_reward"])
    assert rewards == [content_score(text) for text in completions]
    assert {len(shown) for shown in judge.asked} == {4}
    [step] = [entry for entry in trainer.state.log_history if "reward" in entry]
    assert step["grm_reward/votes"] == 4
    assert step["grm_reward/failed/engine_error"] == 0


def train(config, policy, folder):
    """Run one step of GRPO on two groups of four."""
    from datasets import Dataset
    from transformers import AutoTokenizer
    from trl import GRPOConfig, GRPOTrainer

    import spct_trl

    arguments = GRPOConfig(
        output_dir=str(folder / "out"), use_cpu=True, bf16=False, gradient_checkpointing=False,
        report_to="none", disable_tqdm=True, save_strategy="no", logging_steps=1, max_steps=1,
        max_completion_length=8, per_device_train_batch_size=8, num_generations=4,
    )  # fmt: skip
    trainer = GRPOTrainer(
        model=str(policy),
        reward_funcs=spct_trl.make_reward(config),
        args=arguments,
        train_dataset=Dataset.from_list([{"prompt": f"write a note {i}"} for i in range(8)]),
        processing_class=AutoTokenizer.from_pretrained(policy),
    )
    trainer.train()
    return trainer
