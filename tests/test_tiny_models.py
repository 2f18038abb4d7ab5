"""The bundled models and their tokenizer."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spct_plugin.parsing import parse_judgement
from spct_plugin.templates import load_template
from spct_plugin.tiny import MODELS
from spct_plugin.tiny.model import load_model
from spct_plugin.tiny.tasks import HELD_OUT, labelled_tasks
from spct_plugin.types import JudgeTask


@pytest.fixture(scope="module")
def grm() -> tuple:
    """The bundled judge and its tokenizer."""
    pytest.importorskip("transformers", reason="needs spct-plugin[trl]")
    return load_model(MODELS / "grm")


@given(text=st.text(alphabet=st.characters(exclude_categories=["Cs"])))
def test_tokenizer_round_trips_any_text(grm: tuple, text: str) -> None:
    """Emoji, NUL, other scripts: bytes carry what the vocabulary lacks."""
    tokenizer = grm[1]
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert tokenizer.pad_token_id != tokenizer.eos_token_id


def test_bundled_judge_writes_readable_judgements(grm: tuple) -> None:
    """At least 4 of 5 sampled judgements of held-out tasks have scores."""
    import torch

    model, tokenizer = grm
    template = load_template("tiny")
    rows = list(labelled_tasks(HELD_OUT + 1, 32, 2))
    prompts = [template.render(JudgeTask(r["prompt"], r["completions"]), (0, 1)) for r in rows]
    chats = [[{"role": "user", "content": prompt}] for prompt in prompts]
    inputs = tokenizer.apply_chat_template(
        chats, add_generation_prompt=True, padding=True, return_tensors="pt", return_dict=True
    )
    torch.manual_seed(0)
    ids = model.generate(**inputs, max_new_tokens=256, do_sample=True, temperature=1.0, top_k=0)
    answers = tokenizer.batch_decode(
        ids[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True
    )
    readable = sum(parse_judgement(answer, 2).scores is not None for answer in answers)
    assert readable >= 0.8 * 32


def test_bundled_policy_answers() -> None:
    """The policy ends its completions itself."""
    pytest.importorskip("transformers", reason="needs spct-plugin[trl]")
    model, tokenizer = load_model(MODELS / "policy")
    chat = [{"role": "user", "content": "Write a note to a friend. You must say hello."}]
    inputs = tokenizer.apply_chat_template(
        chat, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    ids = model.generate(**inputs, max_new_tokens=64, do_sample=False)
    assert int(ids[0, -1]) == tokenizer.eos_token_id
