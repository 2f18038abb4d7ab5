"""POST /get_reward: OpenRLHF's wire, whose other end tests/openrlhf/test_wire.py fixes.

POST {"query": [text], "prompts": [text], "labels": [any]}
200  {"rewards": [number], "scores": [number], "extra_logs": {name: [number]}, "versions": [text]}
"""

import asyncio
import json
import math

import pytest
from scripted_plugin import content_score
from serving import call, group, metric

from spct_plugin import ConfigError
from spct_plugin.testing import Reply

pytest.importorskip("transformers", reason="needs the extra `trl`")

TEXTS = ["one park", "two parks", "three notes", "four cakes"]


@pytest.fixture(scope="session")
def tokenizer(policy):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(policy)


@pytest.fixture
def prompt(tokenizer):
    turns = [{"role": "user", "content": "write a note"}]
    return tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)


@pytest.fixture
def serve_wire(serve, policy):
    async def start(**sections):
        wire = {"tokenizer": str(policy), "fallback": "group_mean"}
        return await serve(**{"openrlhf": wire, **sections})

    return start


def posted(prompt, tokenizer, texts=TEXTS, label=""):
    """Lay completions out as OpenRLHF's client does."""
    return {
        "query": [prompt + text + tokenizer.eos_token for text in texts],
        "prompts": [prompt] * len(texts),
        "labels": [label] * len(texts),
    }


async def test_each_completion_is_judged_alone(serve_wire, judge, prompt, tokenizer):
    server = await serve_wire()
    status, headers, answer = await call(
        f"{server.url}/get_reward", posted(prompt, tokenizer, label={"reference": "a note"})
    )
    assert (status, headers["Content-Type"]) == (200, "application/json")
    assert answer["rewards"] == [content_score(text) for text in TEXTS]
    assert answer["versions"] == [server.desk.version] * len(TEXTS)
    assert answer["scores"] == [pytest.approx((content_score(text) - 1) / 9) for text in TEXTS]
    assert answer["extra_logs"]["spct_failed"] == [0.0] * 4
    assert len(answer["extra_logs"]) == 7
    assert judge.asked == {(text,): 2 for text in TEXTS}
    _, _, page = await call(f"{server.url}/metrics")
    assert metric(page, 'spct_groups_total{outcome="judged"}') == 4


async def test_a_query_of_none_is_answered_with_none(serve_wire):
    server = await serve_wire()
    none = {"rewards": [], "scores": [], "extra_logs": {}, "versions": []}
    for nothing in ({"query": [], "prompts": [], "labels": []}, {"query": []}):
        status, _, answer = await call(f"{server.url}/get_reward", nothing)
        assert (status, answer) == (200, none)


async def test_older_clients_send_less_and_scalars_do(serve_wire, prompt, tokenizer):
    server = await serve_wire()
    full = posted(prompt, tokenizer, TEXTS[:1])
    scalars = {name: values[0] for name, values in full.items()}
    without = {name: full[name] for name in ("query", "prompts")}
    for body in (full, scalars, without, without | {"labels": None}, full | {"more": 1}):
        status, _, answer = await call(f"{server.url}/get_reward", body)
        assert (status, answer["rewards"]) == (200, [content_score(TEXTS[0])])


async def test_a_label_of_a_judges_training_asks_no_judge(serve_wire, judge, prompt, tokenizer):
    server = await serve_wire(template={"name": "default"})
    text = "Analysis: compared.\nScores: \\boxed{7, 3}"
    body = posted(prompt, tokenizer, [text], {"label": 0, "n": 2, "template": "default"})
    _, _, answer = await call(f"{server.url}/get_reward", body)
    assert answer["rewards"] == [1]
    assert answer["extra_logs"]["spct_correct"] == [1.0]
    assert not judge.asked


async def test_what_has_no_reward_gets_what_the_fallback_says_and_is_finite(
    serve_wire, judge, prompt, tokenizer
):
    server = await serve_wire()
    judge.answer = lambda body: Reply(["nothing"] * body["n"])
    status, _, answer = await call(f"{server.url}/get_reward", posted(prompt, tokenizer, TEXTS[:2]))
    assert status == 200
    assert answer["rewards"] == [5.5, 5.5]
    assert answer["extra_logs"]["spct_failed"] == [1.0, 1.0]
    assert all(map(math.isfinite, answer["scores"]))


async def test_the_breaker_answers_with_an_errors_status(serve_wire, judge, prompt, tokenizer):
    server = await serve_wire()
    judge.answer = lambda body: Reply(status=400)
    texts = [f"text {i}" for i in range(8)]
    status, _, answer = await call(f"{server.url}/get_reward", posted(prompt, tokenizer, texts))
    assert status == 503
    assert "failed in infrastructure" in answer["detail"]


async def test_a_slow_answer_asked_for_again_is_judged_once(serve_wire, judge, prompt, tokenizer):
    """The client gives up after 180 s, and posts the same again without an id."""
    server = await serve_wire()
    judge.delay_s = 0.5
    body = posted(prompt, tokenizer, TEXTS[:1])
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await call(f"{server.url}/get_reward", body)
    for _ in range(2):
        _, _, answer = await call(f"{server.url}/get_reward", body)
        assert answer["rewards"] == [content_score(TEXTS[0])]
    assert sum(judge.asked.values()) == 2


async def test_what_infrastructure_lost_is_asked_for_again(serve_wire, judge, prompt, tokenizer):
    server = await serve_wire()
    body = posted(prompt, tokenizer, TEXTS[:1])
    judge.answer = lambda body: Reply(status=400)
    _, _, lost = await call(f"{server.url}/get_reward", body)
    judge.answer = judge.judge
    _, _, found = await call(f"{server.url}/get_reward", body)
    assert (lost["rewards"], found["rewards"]) == ([5.5], [content_score(TEXTS[0])])


async def test_what_cannot_be_read_is_refused(serve_wire, prompt, tokenizer):
    server = await serve_wire()
    good = posted(prompt, tokenizer, TEXTS[:2])
    for body, said in (
        (good | {"prompts": [prompt]}, "2 queries, 1 prompts"),
        (good | {"labels": [""]}, "2 queries, 2 prompts, 1 labels"),
        (good | {"query": ["something else"] * 2}, "cannot tell prompt and completion apart"),
        (good | {"query": ["no chat a", "no chat b"], "prompts": ["no chat "] * 2}, "cannot read"),
        (good | {"labels": [["a"], ["b"]]}, "label: expected a text"),
        (good | {"labels": ["", json.loads("[" * 900 + "]" * 900)]}, "levels of nesting"),
        ({"prompts": []}, "query: expected a value, found none"),
        ({"query": [7]}, "query"),
    ):
        status, _, answer = await call(f"{server.url}/get_reward", body)
        assert status == 422, answer
        assert said in answer["detail"]


async def test_half_a_character_is_replaced(serve_wire, prompt, tokenizer):
    server = await serve_wire()
    body = posted(prompt, tokenizer, ["a\ud800"])
    status, _, answer = await call(f"{server.url}/get_reward", body)
    assert (status, answer["rewards"]) == (200, [content_score("a\ufffd")])


async def test_the_token_stands_in_the_address(serve_wire, prompt, tokenizer, monkeypatch):
    monkeypatch.setenv("SPCT_TEST_TOKEN", "T" * 20)
    server = await serve_wire(serve={"token_env": "SPCT_TEST_TOKEN"})
    url = server.url.replace("//", f"//spct:{'T' * 20}@")
    body = posted(prompt, tokenizer, TEXTS[:1])
    assert (await call(f"{url}/get_reward", body))[0] == 200
    assert (await call(f"{server.url}/get_reward", body))[0] == 401


async def test_abstaining_is_refused_at_the_start(serve, policy):
    with pytest.raises(ConfigError, match=r"set openrlhf\.fallback to group_mean or drop_group"):
        await serve(openrlhf={"tokenizer": str(policy)})


async def test_without_a_tokenizer_the_wire_says_what_is_missing(serve):
    server = await serve()
    status, _, answer = await call(f"{server.url}/get_reward", {"query": ["a"], "prompts": ["a"]})
    assert status == 501
    assert "openrlhf.tokenizer" in answer["detail"]
    assert (await call(f"{server.url}/v1/rewards", {"groups": [group("a")]}))[0] == 200


async def test_more_than_allowed_is_too_large_before_it_is_read(serve_wire, prompt, tokenizer):
    server = await serve_wire(serve={"groups": 2, "completions": 2, "text_chars": 100})
    for body, said in (
        ({"query": ["a"] * 5}, "at most 4 queries"),
        (posted(prompt, tokenizer, ["a" * 300]), "serve.text_chars"),
    ):
        status, _, answer = await call(f"{server.url}/get_reward", body)
        assert status == 413, answer
        assert said in answer["detail"]
