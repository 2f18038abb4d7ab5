"""OpenRLHF's own trainers end to end on a CPU, with the stand-ins for flash-attn and vLLM."""

import asyncio
import json
import math
import re
import statistics
from dataclasses import dataclass
from itertools import chain

import pytest

# Not "openrlhf", which would be found: it is the name of this folder, too.
pytest.importorskip("openrlhf.cli", reason="needs the extra `openrlhf`")

from cpu_runs import Run, run_cli
from ppo_runs import (
    AGENT,
    ASYNC,
    GROUPS_PER_STEP,
    GRPO,
    PPO_RAY,
    REWARD_FILE,
    N,
    chats,
    moved,
    write_rows,
)
from scripted_plugin import __file__ as SCRIPTED_PLUGIN
from scripted_plugin import content_score

from spct_plugin import Judgement, JudgeTask
from spct_plugin.meta_rm import meta_messages
from spct_plugin.meta_rm.builtin import TransformersMetaConfig
from spct_plugin.templates import load_meta_template
from spct_plugin.tiny import MODELS

pytestmark = pytest.mark.slow

N_EVAL = 3
# Groups whose voted scores differ less than this are filtered out, about one in three.
LEAST_SPREAD = 0.2253

PPO = {
    "--algo.advantage.estimator": "gae",
    "--algo.kl.estimator": "k1",
    "--algo.kl.init_coef": 0.01,
}
LOGPROBS = {"--algo.advantage.is_correction_level": "token"}
EVALUATION = {
    "--eval.dataset": "eval.jsonl",
    "--eval.steps": 1,
    "--eval.n_samples_per_prompt": N_EVAL,
    "--ckpt.best_metric_key": "none",
}
HYBRID_ENGINE = {"--train.colocate_all": True, "--vllm.enable_sleep": True}
PARTIAL_ROLLOUT = {
    "--train.partial_rollout_enable": True,
    "--rollout.vllm_generate_batch_size": 3,
    "--algo.dynamic_filtering_enable": True,
    "--algo.dynamic_filtering_range": (LEAST_SPREAD, 1),
    # Generation must take longer than a step, or nothing is under way when weights change.
    "--rollout.max_new_tokens": 48,
}

RUNS = {
    "grpo-reward-file": GRPO | REWARD_FILE,
    "grpo": GRPO | AGENT | LOGPROBS | EVALUATION,
    "ppo": PPO | AGENT | HYBRID_ENGINE,
    "grpo-async": GRPO | AGENT | ASYNC | EVALUATION,
    "ppo-async": PPO | AGENT | ASYNC,
    "grpo-partial-rollout": GRPO | AGENT | LOGPROBS | ASYNC | PARTIAL_ROLLOUT,
}


@dataclass
class PolicyRun:
    """A finished training of a policy, and what its judge was shown: a list of texts per call."""

    name: str
    run: Run
    policy: object
    shown: list

    @property
    def scalars(self):
        return self.run.scalars

    def rewards(self, n):
        """Compute our rewards anew, a list per call of the judge that showed n completions."""
        groups = [texts for texts in self.shown if len(texts) == n]
        return [[(content_score(text) - 1) / 9 for text in texts] for texts in groups]


@pytest.fixture(scope="module", params=RUNS)
def policy_run(request, tmp_path_factory, policy):
    """Train a policy once for all tests that look at it."""
    folder = tmp_path_factory.mktemp(request.param)
    partial = request.param == "grpo-partial-rollout"
    flags = PPO_RAY | RUNS[request.param]
    if partial:
        # Of random weights, it never stops early.
        flags["--actor.model_name_or_path"] = policy
    # Two steps; half of what is generated may be filtered out.
    prompts = range(16 if partial else 2 * GROUPS_PER_STEP)
    flags["--data.prompt_dataset"] = write_rows(folder / "rows.jsonl", chats(prompts))
    write_rows(folder / "eval.jsonl", chats(range(100, 102)))
    config = {
        "plugins": [SCRIPTED_PLUGIN],
        "engine": {"kind": "scripted", "trace": str(folder / "trace")},
        "vote": {"k": 1},
        "reward": {"scale": "unit"},
        "openrlhf": {
            "fallback": "group_mean",
            "tokenizer": str(MODELS / "policy"),
            "scores": "spread" if partial else "mean",
        },
    }
    (folder / "judge.yaml").write_text(json.dumps(config))
    run = run_cli("train_ppo_ray", folder, flags, SPCT_CONFIG=str(folder / "judge.yaml"))
    assert run.exit_code == 0, run.log[-5000:]
    calls = (folder / "trace.0").read_text().splitlines()
    shown = [json.loads(call)["responses"] for call in calls]
    return PolicyRun(request.param, run, flags["--actor.model_name_or_path"], shown)


def only(*names):
    """Run a test for some of the runs, each of which is made once."""
    return pytest.mark.parametrize("policy_run", names, indirect=True, scope="module")


def test_two_steps_are_done_and_the_policy_moves(policy_run):
    steps = policy_run.scalars["train/actor_grad_norm"]
    assert {1, 2} <= set(steps)
    assert all(math.isfinite(norm) and norm > 0 for norm in steps.values())
    assert moved(policy_run.policy, policy_run.run.model) > 0.5


def test_a_group_is_one_call_of_the_judge(policy_run):
    n = 1 if policy_run.name == "grpo-reward-file" else N
    rows = (policy_run.run.folder / "rows.jsonl").read_text().count("\n")
    assert len(policy_run.rewards(n)) == rows * N // n
    assert {len(texts) for texts in policy_run.shown} <= {n, N_EVAL}


def test_rewards_in_openrlhfs_log_are_ours(policy_run):
    means = policy_run.scalars["train/rollout/reward_mean"]
    if policy_run.name == "grpo-partial-rollout":
        # Samples are buffered in the order in which they were done, and not all of them are kept.
        kept = [g for g in policy_run.rewards(N) if statistics.pstdev(g) > LEAST_SPREAD]
        sizes = policy_run.scalars["train/rollout/num_samples"]
        assert sum(sizes.values()) == len(kept) * N
        total = sum(means[step] * sizes[step] for step in means)
        assert total / len(kept) / N == pytest.approx(statistics.mean(chain(*kept)), abs=1e-6)
        return
    n = 1 if policy_run.name == "grpo-reward-file" else N
    ours = list(chain(*policy_run.rewards(n)))
    size = GROUPS_PER_STEP * N
    for step in (1, 2):
        rewards = ours[(step - 1) * size : step * size]
        assert means[step] == pytest.approx(statistics.mean(rewards), abs=1e-6)
        assert policy_run.scalars["train/reward"][step] == pytest.approx(means[step], abs=1e-6)
        spread = policy_run.scalars["train/rollout/reward_std"][step]
        assert spread == pytest.approx(statistics.stdev(rewards), abs=1e-6)


def test_our_numbers_are_logged_in_every_step(policy_run):
    logged = {name for name in policy_run.scalars if name.startswith("train/spct_")}
    assert len(logged) == 7
    assert set(policy_run.scalars["train/spct_votes"].values()) == {1.0}
    assert set(policy_run.scalars["train/spct_failed"].values()) == {0.0}


@only("grpo", "grpo-async")
def test_evaluation_with_another_n_is_judged_in_groups_and_logged(policy_run):
    logged = policy_run.scalars["eval/eval_default_pass1"]
    best = policy_run.scalars[f"eval/eval_default_pass{N_EVAL}"]
    groups = policy_run.rewards(N_EVAL)
    assert len(groups) == 2 * len(logged) > 0
    for at, step in enumerate(sorted(logged)):
        two = groups[2 * at : 2 * at + 2]
        assert logged[step] == pytest.approx(statistics.mean(chain(*two)), abs=1e-6)
        assert best[step] == pytest.approx(statistics.mean(map(max, two)), abs=1e-6)


@only("grpo")
def test_the_engine_generates_with_the_trainers_weights(policy_run):
    """Without the broadcast it would be 0.03 in step 2."""
    assert max(map(abs, policy_run.scalars["train/vllm_kl"].values())) < 1e-4


@only("grpo-partial-rollout")
def test_groups_without_spread_are_filtered_out(policy_run):
    filtered = policy_run.run.log.count("Filtered out: ")
    spreads = [statistics.pstdev(rewards) for rewards in policy_run.rewards(N)]
    assert filtered == sum(spread <= LEAST_SPREAD for spread in spreads) > 0


@only("grpo-partial-rollout")
def test_weights_change_while_requests_are_under_way(policy_run):
    held = re.findall(r"paused with (\d+) requests under way", policy_run.run.log)
    assert any(int(requests) > 0 for requests in held)


@only("ppo", "ppo-async")
def test_the_critic_learns(policy_run):
    assert all(norm > 0 for norm in policy_run.scalars["train/critic_grad_norm"].values())


def texts(folder, **row):
    return write_rows(folder / "rows.jsonl", [row] * 16)


def test_supervised_fine_tuning_on_rendered_text(tmp_path):
    rows = texts(tmp_path, prompt="<|user|>hello<|assistant|>", completion="we met ed.<|end|>")
    flags = {
        "--model.model_name_or_path": MODELS / "grm",
        "--data.dataset": rows,
        "--data.input_key": "prompt",
        "--data.output_key": "completion",
        "--data.input_template": "",
        "--train.max_epochs": 1,
        "--adam.lr": 1e-3,
        "--lr_scheduler": "constant",
    }
    run = run_cli("train_sft", tmp_path, flags)
    assert run.exit_code == 0, run.log[-5000:]
    losses = run.scalars["train/loss_mean"]
    assert set(losses) == {1, 2}
    assert losses[2] < losses[1] < 20
    assert moved(MODELS / "grm", run.model) > 0.5
    from transformers import AutoModelForCausalLM, AutoTokenizer

    AutoModelForCausalLM.from_pretrained(run.model)
    assert AutoTokenizer.from_pretrained(run.model).chat_template


def test_a_reward_model_of_openrlhf_is_a_meta_rm_of_ours(tmp_path):
    prompt = "<|user|>hello<|assistant|>"
    rows = texts(tmp_path, prompt=prompt, chosen="we met ed.<|end|>", rejected="no.")
    flags = {
        "--model.model_name_or_path": MODELS / "grm",
        "--data.dataset": rows,
        # Without it a hundredth of the rows is taken, which may be none, and that fails.
        "--eval.dataset": rows,
        "--data.prompt_key": "prompt",
        "--train.max_epochs": 1,
        "--adam.lr": 1e-3,
        "--lr_scheduler": "constant",
    }
    run = run_cli("train_rm", tmp_path, flags)
    assert run.exit_code == 0, run.log[-5000:]
    assert set(run.scalars["train/loss"]) == {1, 2}
    task = JudgeTask("Name a prime.", ["7", "8"])
    said = [Judgement((0, 1), (1, 0), (7, 3), text=f"\\boxed{{{n}, 3}}") for n in (7, 8)]
    template = load_meta_template("meta", {})
    # The trainer's bfloat16 rounds differently when rows are padded.
    meta_rm = TransformersMetaConfig(model=str(run.model), dtype="float32").build(template)
    found = asyncio.run(meta_rm.score(task, said))
    assert found == pytest.approx(plain_logits(run.model, template, task, said), abs=1e-5)


def plain_logits(model, template, task, said):
    """Classify one by one with transformers alone."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    classifier = AutoModelForSequenceClassification.from_pretrained(
        model, num_labels=1, dtype=torch.float32
    )
    chats = [meta_messages(template, task, j.order, j.text) for j in said]
    encoded = [
        tokenizer.apply_chat_template(chat, return_tensors="pt", return_dict=True) for chat in chats
    ]
    with torch.inference_mode():
        return [float(classifier(**row).logits) for row in encoded]
