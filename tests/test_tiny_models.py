"""The bundled models and their tokenizer."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spct_plugin import JudgeTask, RewardModel, SPCTConfig
from spct_plugin.parsing import parse_judgement
from spct_plugin.plugins import load_plugins
from spct_plugin.templates import load_template
from spct_plugin.tiny import MODELS
from spct_plugin.tiny.model import load_model
from spct_plugin.tiny.tasks import HELD_OUT, labelled_tasks
from spct_plugin.tiny.teacher import Teacher, judge_task
from spct_plugin.types import Judgement


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


async def test_bundled_meta_rm_tells_careful_judgements_from_sloppy_ones() -> None:
    """The teacher's two manners: careful ones get the higher score, four times of five."""
    pytest.importorskip("transformers", reason="needs spct-plugin[trl]")
    meta_rm = SPCTConfig().with_bundled_meta_rm().build_meta_rm(load_plugins())
    rng = Random(0)
    wins = 0
    for row in labelled_tasks(HELD_OUT + 2, 20, 2):
        task = JudgeTask(row["prompt"], row["completions"])
        texts = [
            judge_task(rng, Teacher(sloppy=s, lapse=0, broken=0), task, (0, 1)) for s in (0, 1)
        ]
        careful, sloppy = await meta_rm.score(
            task, [Judgement((0, 1), (0, 1), (5, 5), text=text) for text in texts]
        )
        wins += careful > sloppy
    await meta_rm.aclose()
    assert wins >= 16


def test_by_default_eight_votes_are_taken_and_four_counted() -> None:
    """The default configuration: the bundled judge and the bundled meta RM."""
    pytest.importorskip("transformers", reason="needs spct-plugin[trl]")
    [row] = labelled_tasks(HELD_OUT + 3, 1, 2)
    model = RewardModel()
    task = JudgeTask(row["prompt"], row["completions"])
    [group] = model.score_sync([task], keep_judgements=True)
    model.close()
    assert (group.k, group.k_used, group.votes) == (8, 8, (4, 4))
    assert sum(j.meta_score is not None for j in group.judgements) >= 4
    assert model.version.count("tiny@") == 2
