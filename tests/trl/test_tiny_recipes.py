"""The recipe of the tiny models runs from end to end, every stage short."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

RECIPE = Path(__file__).parents[2] / "recipes" / "tiny"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    command = ["make", "-C", str(RECIPE), "all", "SHORT=1", f"OUT={folder}"]
    done = subprocess.run(
        [*command, f"PYTHON={sys.executable}"], capture_output=True, text=True, timeout=900,
        check=False, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    return folder / "0", done.stdout


def test_every_stage_leaves_what_the_next_one_reads(run):
    folder, _ = run
    for name in ("short_cold", "rft", "rl", "meta_rm", "policy"):
        assert (folder / name / "model.safetensors").exists()
    for stage, field in (("rft", "loss"), ("rl", "outcome_reward/accuracy"), ("meta_rm", "loss")):
        state = json.loads((folder / stage / "trainer_state.json").read_text())
        assert any(field in row for row in state["log_history"])


def test_every_judge_is_measured(run):
    folder, output = run
    for judge in ("cold", "rft", "rl"):
        assert json.loads((folder / f"eval_{judge}.json").read_text())["groups"]
        assert f'"file": "eval_{judge}.jsonl"' in output
    assert (folder / "eval_rl.png").stat().st_size > 1000


def test_seeds_are_put_side_by_side(run):
    folder, _ = run
    command = [sys.executable, str(RECIPE / "summary.py"), str(folder), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    lines = done.stdout.splitlines()
    assert lines[0].startswith("| judge | n | greedy | k = 1 |")
    assert {len(line.split("|")) for line in lines} == {11}
    assert [line.split("|")[1].strip() for line in lines if "| all |" in line] == [
        *("cold", "rft", "rft, meta RM", "rl", "rl, meta RM")
    ]


def test_the_models_can_be_bundled(run, tmp_path):
    folder, _ = run
    command = [sys.executable, str(RECIPE / "bundle.py"), str(folder), str(tmp_path)]
    subprocess.run(command, check=True, timeout=120)
    for name in ("grm", "meta_rm", "policy"):
        assert (tmp_path / name / "model.safetensors").stat().st_size < 3_000_000
        assert (tmp_path / name / "log.jsonl").read_text()
