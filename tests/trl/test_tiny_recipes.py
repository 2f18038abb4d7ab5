"""The recipe of the tiny models runs, two steps of each part."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

RECIPE = Path(__file__).parents[2] / "recipes" / "tiny"


def run(script, *arguments):
    subprocess.run([sys.executable, script, *map(str, arguments)], cwd=RECIPE, check=True)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    run("cold_start.py", "--out", folder / "grm", "--steps", 2)
    run("policy.py", "--tokenizer", folder / "grm", "--out", folder / "policy", "--steps", 2)
    return folder


def test_every_part_runs_and_logs(models):
    run("evaluate.py", "judge", models / "grm", "--tasks", 2, "--sizes", 2, "--temperatures", 1)
    run(
        *("evaluate.py", "reward", models / "grm", models / "policy"),
        *("--tasks", 2, "--sizes", 2, "--temperatures", 1),
    )
    log = [json.loads(line) for line in (models / "grm" / "log.jsonl").read_text().splitlines()]
    assert [line["evaluation"] for line in log if "evaluation" in line] == ["judge", "reward"]
    assert any("loss" in line for line in log)
