"""What the trainer tests share: a tiny random policy, a scripted judge, short runs."""

import json
from pathlib import Path

import pytest

HERE = Path(__file__).parent

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


def pytest_collection_modifyitems(items):
    """TRL 1.16 on transformers 5.23 warns of renamed options of its own."""
    for item in items:
        if Path(item.fspath).is_relative_to(HERE):
            item.add_marker(pytest.mark.filterwarnings("ignore::FutureWarning"))
            item.add_marker(pytest.mark.filterwarnings("ignore::DeprecationWarning"))
            item.add_marker(pytest.mark.filterwarnings("ignore::UserWarning"))


@pytest.fixture(scope="session")
def policy(tmp_path_factory):
    """Make a policy of random weights and its tokenizer; give the folder."""
    from spct_plugin.tiny.model import build_model, build_tokenizer

    folder = tmp_path_factory.mktemp("policy")
    tokenizer = build_tokenizer(["write a note to anna about the park number 1 2 3 4"] * 50, 300)
    build_model(tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def config_file(tmp_path):
    """Write a configuration with the scripted judge; keyword arguments are more sections."""

    def write(fails="none", **sections):
        engine = {"kind": "scripted", "fails": fails, "trace": str(tmp_path / "trace")}
        data = {
            "plugins": [str(HERE / "scripted_plugin.py")],
            "engine": engine,
            "vote": {"k": 2},
            **sections,
        }
        path = tmp_path / "judge.yaml"
        path.write_text(json.dumps(data))
        return path

    return write


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


@pytest.fixture
def shown(tmp_path):
    """Read which completions each request to the scripted judge showed, by rank."""

    def read(rank=0):
        path = tmp_path / f"trace.{rank}"
        return [json.loads(line)["responses"] for line in path.read_text().splitlines()]

    return read
