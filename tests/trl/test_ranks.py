"""Two processes under `accelerate launch`, with a group that straddles them."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("trl", reason="needs the extra `trl`")

from scripted_plugin import content_score

HERE = Path(__file__).parent


def launch(*arguments, timeout=240):
    """Start two ranks on this CPU; give the finished process and its seconds.

    accelerate starts several processes on one CPU machine only by its launcher for GPUs; with
    ACCELERATE_USE_CPU they run on the CPU with gloo.
    """
    command = [
        sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2",
        "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no",
        "--main_process_port", "0", str(HERE / "rank_script.py"), *map(str, arguments),
    ]  # fmt: skip
    environment = os.environ | {
        "ACCELERATE_USE_CPU": "true",
        "PYTHONPATH": str(HERE),
        "OMP_NUM_THREADS": "1",
    }
    start = time.monotonic()
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=timeout, check=False
    )
    return done, time.monotonic() - start


def reports(out):
    return [json.loads(out.with_name(f"{out.name}.{rank}").read_text()) for rank in (0, 1)]


def test_a_group_that_straddles_ranks_is_judged_whole(policy, config_file, tmp_path, shown):
    done, _ = launch(policy, config_file(), tmp_path / "out")
    assert done.returncode == 0, done.stderr[-3000:]
    groups = shown(0) + shown(1)
    assert {len(group) for group in groups} == {4}
    # 3 groups a step, 2 orders each, 2 steps; rank 0 holds the first row of two of them.
    assert (len(shown(0)), len(shown(1))) == (8, 4)
    for report in reports(tmp_path / "out"):
        assert len(report["given"]) == 2
        for call in report["given"]:
            assert len(call["completions"]) == 6
            assert call["rewards"] == [content_score(text) for text in call["completions"]]
    first, second = reports(tmp_path / "out")
    judged = [
        {k: v for k, v in step.items() if k.startswith("grm_reward/")} for step in first["log"]
    ]
    assert len(judged) == 2
    assert all(step["grm_reward/votes"] == 2 for step in judged)
    assert first["advantages"] == second["advantages"]


def test_a_rank_whose_judging_raises_stops_both_at_once(policy, config_file, tmp_path):
    done, seconds = launch(policy, config_file("rank1"), tmp_path / "out")
    assert done.returncode != 0
    stopped = "stopped on every rank: rank 1: RuntimeError: this rank's judging is broken"
    assert done.stderr.count(f"RewardError: {stopped}") == 2
    assert seconds < 120


def test_the_breaker_counts_all_ranks_and_stops_both(policy, config_file, tmp_path):
    done, _ = launch(policy, config_file("all"), tmp_path / "out")
    assert done.returncode != 0
    assert done.stderr.count("RewardError: stopped: 6 of 6 judgements of this step failed") == 2


def test_two_of_our_functions_meet_their_peers_in_the_same_order(policy, config_file, tmp_path):
    first = config_file()
    second = first.with_name("second.yaml")
    second.write_text(first.read_text().replace('"k": 2', '"k": 1'))
    done, _ = launch(policy, first, tmp_path / "out", second)
    assert done.returncode == 0, done.stderr[-3000:]
    for report in reports(tmp_path / "out"):
        assert [step["second/votes"] for step in report["log"]] == [1, 1] or not report["log"]
        for call in report["given"]:
            assert call["rewards"] == [content_score(text) for text in call["completions"]]
