"""The group agent in OpenRLHF's RolloutRayActor on a real vLLM, rollout only: its weights cannot be
synchronised without CUDA (trainer/ray/vllm_worker_wrap.py)."""

import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

pytest.importorskip("openrlhf.cli", reason="needs the extra `openrlhf`")

HERE = Path(__file__).parent
pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(find_spec("vllm") is None, reason="needs vLLM: make setup-vllm"),
]


@pytest.fixture
def groups(tmp_path, policy, config_file, spct):
    """Roll out three groups; only flash-attn is a stand-in."""
    alone = tmp_path / "stand_ins"
    alone.mkdir()
    for name in ("flash_attn", "on_cpu.py"):
        (alone / name).symlink_to(HERE / "stand_ins" / name)
    config = config_file(vote={"k": 1}, openrlhf={"fallback": "drop_group"})
    _, agent_file, _ = spct("path", "openrlhf-agent")
    done = subprocess.run(
        [sys.executable, HERE / "vllm_script.py", policy, agent_file.strip()],
        env=os.environ
        | {
            "PYTHONPATH": str(alone),
            "SPCT_CONFIG": str(config),
            "DS_ACCELERATOR": "cpu",
            "OMP_NUM_THREADS": "1",
            # In process, without pinning: the actor is the engine's process.
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "VLLM_CPU_KVCACHE_SPACE": "1",
        },
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    found = re.search(r"^GROUPS (.*)$", done.stdout, re.MULTILINE)
    assert found, (done.stdout + done.stderr)[-5000:]
    return json.loads(found[1])


def test_groups_are_judged_whole_and_once(groups, shown):
    assert [len(group) for group in groups] == [4, 4, 4]
    assert [len(judged) for judged in shown()] == [4, 4, 4]
    for sample in (sample for group in groups for sample in group):
        [(start, end)] = sample["action_ranges"]
        assert 1 <= sample["reward"] <= 10
        assert sample["extra_logs"]["spct_failed"] == 0
        assert all(logprob < 0 for logprob in sample["rollout_log_probs"][start:end])
