"""What the trainer tests share: short runs."""

import pytest

TRAINING = {
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
    "report_to": "none",
    "disable_tqdm": True,
    "save_strategy": "no",
    "logging_steps": 1,
    "max_steps": 1,
    "max_completion_length": 8,
    "per_device_train_batch_size": 8,
    "num_generations": 4,
}


@pytest.fixture
def train(policy, tmp_path):
    """Run a trainer for a step or a few on one column of prompts; give the trainer back."""

    def run(trainer_class, config_class, reward_funcs, rows=None, **arguments):
        from datasets import Dataset
        from transformers import AutoTokenizer

        rows = rows or [{"prompt": f"write a note {i}"} for i in range(8)]
        trainer = trainer_class(
            model=str(policy),
            reward_funcs=reward_funcs,
            args=config_class(output_dir=str(tmp_path / "out"), **{**TRAINING, **arguments}),
            train_dataset=Dataset.from_list(rows),
            eval_dataset=Dataset.from_list(rows[:4]),
            processing_class=AutoTokenizer.from_pretrained(policy),
        )
        trainer.train()
        return trainer

    return run
