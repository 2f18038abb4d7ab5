"""The group agent in OpenRLHF's own rollout actors, on Ray without a GPU."""

import importlib.util
import json
from types import SimpleNamespace

import pytest

# Not "openrlhf", which would be found: it is the name of this folder, too.
pytest.importorskip("openrlhf.cli", reason="needs the extra `openrlhf`")

from cpu_runs import HERE, run_python
from scripted_plugin import __file__ as SCRIPTED_PLUGIN
from scripted_plugin import content_score

from spct_plugin.tiny import MODELS

pytestmark = pytest.mark.slow

N, N_EVAL = 4, 3
TOPICS = ["the park", "the rain", "paris", "lunch", "bread"]
MODEL = MODELS / "policy"


@pytest.fixture(scope="module")
def rollouts(tmp_path_factory):
    """Generate once: samples for training and for evaluation, and what the judge was shown."""
    folder = tmp_path_factory.mktemp("rollouts")
    config = {
        "plugins": [SCRIPTED_PLUGIN],
        "engine": {"kind": "scripted", "trace": str(folder / "trace")},
        "vote": {"k": 1},
        "openrlhf": {"fallback": "group_mean"},
    }
    (folder / "judge.yaml").write_text(json.dumps(config))
    spec = {
        "model": str(MODEL),
        "agent": importlib.util.find_spec("spct_openrlhf_agent").origin,
        "engines": 2,
        "prompts": [f"write a note about {topic}" for topic in TOPICS],
        "n": N,
        "eval_n": N_EVAL,
        "max_new_tokens": 7,
    }
    run = run_python(
        [HERE / "rollout_script.py"],
        folder,
        stdin=json.dumps(spec),
        SPCT_CONFIG=str(folder / "judge.yaml"),
    )
    assert run.exit_code == 0, run.log[-5000:]
    samples = json.loads((folder / "samples.json").read_text())
    calls = (folder / "trace.0").read_text().splitlines()
    shown = [json.loads(call)["responses"] for call in calls]
    return SimpleNamespace(**samples, shown=shown)


@pytest.fixture(scope="module")
def tokenizer():
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(MODEL)


@pytest.fixture(scope="module")
def model():
    """Load the policy as the engine does."""
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(
        MODEL, dtype=torch.bfloat16, attn_implementation="eager"
    )


@pytest.mark.parametrize(("name", "n"), [("train", N), ("eval", N_EVAL)])
def test_a_group_is_judged_once_whatever_its_size(name, n, rollouts, tokenizer):
    samples = getattr(rollouts, name)
    assert len(samples) == n * len(TOPICS)
    groups = [samples[at : at + n] for at in range(0, len(samples), n)]
    assert [len({s["prompt"] for s in group}) for group in groups] == [1] * len(TOPICS)
    texts = [
        sorted(tokenizer.decode(s["ids"], skip_special_tokens=True) for s in group)
        for group in groups
    ]
    assert sorted(texts) == sorted(sorted(texts) for texts in rollouts.shown if len(texts) == n)


@pytest.mark.parametrize("name", ["train", "eval"])
def test_every_completion_gets_its_own_reward(name, rollouts, tokenizer):
    for sample in getattr(rollouts, name):
        text = tokenizer.decode(sample["ids"], skip_special_tokens=True)
        assert sample["reward"] == content_score(text)
        assert sample["score"] == pytest.approx((content_score(text) - 1) / 9)


def test_our_numbers_travel_with_every_sample(rollouts):
    names = {frozenset(sample["info"]) for sample in rollouts.train + rollouts.eval}
    assert len(names) == 1
    assert len([name for name in names.pop() if name.startswith("spct_")]) == 7
    assert {sample["info"]["spct_votes"] for sample in rollouts.train} == {1.0}


def test_some_completions_are_cut_off(rollouts, tokenizer):
    for sample in rollouts.train:
        assert sample["truncated"] == (sample["ids"][-1] != tokenizer.eos_token_id)
    assert {sample["truncated"] for sample in rollouts.train} == {True, False}


def test_log_probabilities_are_the_models(rollouts, model):
    import torch

    for sample in rollouts.train:
        ids = torch.tensor([sample["prompt_ids"] + sample["ids"]])
        with torch.inference_mode():
            logprobs = model(ids).logits[0].float().log_softmax(-1)
        start = len(sample["prompt_ids"])
        expected = logprobs[start - 1 : -1].gather(-1, ids[0, start:, None])[:, 0].tolist()
        # bfloat16 may round a whole text and one that grows differently.
        assert sample["logprobs"] == pytest.approx(expected, abs=0.05)


def test_without_temperature_the_likeliest_tokens_are_taken(rollouts, model):
    import torch

    for sample in rollouts.eval:
        prompt = torch.tensor([sample["prompt_ids"]])
        [ids] = model.generate(prompt, do_sample=False, use_cache=False, max_new_tokens=7)
        assert sample["ids"] == ids[len(sample["prompt_ids"]) :].tolist()
