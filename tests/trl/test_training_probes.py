"""Probes inside TRL's own trainer: at which steps they are measured, and how they end a run."""

import json
from pathlib import Path

import pytest

pytest.importorskip("trl", reason="needs the extra `trl`")

from judging_helpers import box, reward_model, shown
from test_ranks import launch, reports
from trl import GRPOConfig, GRPOTrainer

import spct_trl
from spct_plugin import JudgeTask, RewardError
from spct_plugin.testing import ScriptedEngine

# An engine that goes blind after the first measurement: rank 0 then has judged the gold task once.
PLUGIN = """
import os
from typing import Literal
from judging_helpers import box, shown
from spct_plugin import JudgeTask, hookimpl
from spct_plugin.engines import EngineConfig
from spct_plugin.testing import ScriptedEngine

GOLD = JudgeTask("Which?", ["weak", "good"]).digest()

class FadingConfig(EngineConfig):
    kind: Literal["fading"] = "fading"

    def build(self):
        seen = []
        def answer(request):
            seen.extend([1] * (request.task == GOLD))
            assert not seen or os.environ["RANK"] == "0"
            texts = shown(request.prompt)
            return box(*(8 if text == "good" and len(seen) < 2 else 4 for text in texts))
        return ScriptedEngine(answer)

@hookimpl
def spct_register_engines(register):
    register("fading", FadingConfig)
"""
GOLD = {"id": "a", "prompt": "Which?", "completions": ["weak", "good"], "label": 1}


@pytest.fixture
def reward(tmp_path):
    """Make a reward whose judge goes blind when it has seen the gold task so often."""

    def make(blind_after, **probes):
        path = tmp_path / "gold.jsonl"
        path.write_text(json.dumps(GOLD))
        gold = JudgeTask(GOLD["prompt"], GOLD["completions"]).digest()
        seen = []

        def judge(request):
            texts = shown(request.prompt)
            if request.task == gold:
                seen.append(texts)
            if len(seen) > blind_after:
                return box(*(5 for _ in texts))
            return box(*(8 if text == "good" else 4 for text in texts))

        model = reward_model(ScriptedEngine(judge), vote={"k": 1}, probes={"gold": path, **probes})
        function = spct_trl.make_reward(model.config)
        function._model = model
        return function

    return make


def test_metrics_appear_at_their_steps(train, reward, caplog):
    # Every batch serves two steps. The gold task is the twin of many attacks, and judged once.
    trainer = train(GRPOTrainer, GRPOConfig, reward(1, every=4), max_steps=8, num_iterations=2)
    log = [entry for entry in trainer.state.log_history if "reward" in entry]
    measured = {
        entry["step"]: entry["grm_reward/probe/gold_accuracy"]
        for entry in log
        if "grm_reward/probe/gain" in entry
    }
    assert measured == {1: 1.0, 5: 0.0}
    [*_, last] = [entry for entry in log if entry["step"] in measured]
    assert last["grm_reward/probe/drift_gold"] == -1.0
    assert "judged right fell from 1.00 to 0.00" in caplog.text


def test_they_end_the_run_where_they_shall(train, reward):
    with pytest.raises(RewardError, match=r"more than probes\.max_fall"):
        train(GRPOTrainer, GRPOConfig, reward(1, every=1, stop=True), max_steps=3)


def test_evaluation_measures_nothing(train, reward):
    trainer = train(
        GRPOTrainer, GRPOConfig, reward(9, every=1),
        per_device_eval_batch_size=4, num_generations_eval=2,
    )  # fmt: skip
    assert not [name for name in trainer.evaluate() if "probe" in name]


@pytest.mark.parametrize("stop", [False, True])
def test_the_first_rank_measures_and_all_log_or_stop(stop, policy, tmp_path):
    helpers = Path(__file__).parents[1]
    (tmp_path / "fading.py").write_text(f"import sys\nsys.path.append({str(helpers)!r})\n{PLUGIN}")
    (tmp_path / "gold.jsonl").write_text(json.dumps(GOLD))
    config = tmp_path / "judge.yaml"
    probes = {"every": 1, "gold": str(tmp_path / "gold.jsonl"), "stop": stop}
    engine = {"kind": "fading"}
    sections = {"plugins": ["fading.py"], "engine": engine, "vote": {"k": 1}, "probes": probes}
    config.write_text(json.dumps(sections))
    done, _ = launch(policy, config, tmp_path / "out")
    if stop:
        assert done.returncode != 0
        said = "stopped on every rank: rank 0: RewardError: probes: the share of gold tasks"
        assert done.stderr.count(f"RewardError: {said}") == 2
        return
    assert done.returncode == 0, done.stderr[-3000:]
    logs = [report["log"] for report in reports(tmp_path / "out")]
    found = [[step["grm_reward/probe/gold_accuracy"] for step in log] for log in logs if log]
    assert found
    assert all(accuracy == [1.0, 0.0] for accuracy in found)
