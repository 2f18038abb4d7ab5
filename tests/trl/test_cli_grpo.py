"""The one line in an existing `trl grpo` configuration."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

pytest.importorskip("trl", reason="needs the extra `trl`")


def test_trl_grpo_finds_the_reward_by_dotted_path(policy, config_file, tmp_path, shown):
    data = tmp_path / "prompts.jsonl"
    data.write_text("".join(json.dumps({"prompt": f"write a note {i}"}) + "\n" for i in range(8)))
    judged = config_file(store={"path": "judged"})
    recipe = {
        "model_name_or_path": str(policy),
        "datasets": [{"path": "json", "data_files": str(data)}],
        "reward_funcs": ["spct_trl.grm_reward"],
        "env": {"SPCT_CONFIG": str(judged), "HF_HOME": str(tmp_path)},
        "output_dir": str(tmp_path / "out"),
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "report_to": "none",
        "max_steps": 1,
        "logging_steps": 1,
        "max_completion_length": 8,
        "per_device_train_batch_size": 8,
        "num_generations": 4,
    }
    path = tmp_path / "grpo.yaml"
    path.write_text(yaml.safe_dump(recipe))
    command = [str(Path(sys.executable).with_name("trl")), "grpo", "--config", str(path)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=240, check=False, cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert "atexit" not in done.stderr
    assert list(tmp_path.glob("**/judged/*.sqlite"))
    assert {len(group) for group in shown()} == {4}
    state = json.loads((tmp_path / "out/checkpoint-1/trainer_state.json").read_text())
    assert state["log_history"][0]["rewards/grm_reward/std"] > 0


def test_what_the_page_says_to_try_offline_trains(tmp_path):
    page = (Path(__file__).parents[2] / "docs/trl.md").read_text()
    commands = page.partition("## Try it offline")[2].split("```")[1]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euc", commands], capture_output=True, text=True, timeout=240, check=False,
        cwd=tmp_path, env=os.environ | {"PATH": path, "HF_HOME": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    [state] = (tmp_path / "out").glob("checkpoint-2/trainer_state.json")
    steps = json.loads(state.read_text())["log_history"][:2]
    assert any(step["rewards/grm_reward/std"] > 0 for step in steps)
