"""POST /v1/rewards: groups in, rewards out, each request id answered once."""

import asyncio
import json

import pytest
from pydantic import ValidationError
from scripted_plugin import content_score
from serving import call, group, metric, until

from spct_plugin.server.openrlhf_wire import OpenRLHFRequest
from spct_plugin.server.wire import DEEPEST, JudgementResponse, RewardsRequest, RewardsResponse
from spct_plugin.testing import Reply

TEXTS = ("one park", "two parks", "three notes")
SCORES = [float(content_score(text)) for text in TEXTS]


async def test_several_groups_get_rewards_in_order(serve):
    server = await serve()
    groups = [group(*TEXTS, id="a"), group("four", id="b", reference="five", principles=["short"])]
    status, headers, answer = await call(f"{server.url}/v1/rewards", {"groups": groups})
    assert status == 200
    RewardsResponse.model_validate(answer)
    first, second = answer["groups"]
    assert (first["id"], second["id"]) == ("a", "b")
    assert first["rewards"] == first["means"] == SCORES
    assert first["sums"] == [2 * score for score in SCORES]
    assert (first["votes"], first["spread"]) == ([2, 2, 2], [0, 0, 0])
    assert (first["k"], first["k_used"], first["failures"]) == (2, 2, {})
    assert (first["scale"], first["judgements"]) == ([1, 10], None)
    assert first["version"] == second["version"] == server.desk.version
    assert second["rewards"] == [content_score("four")]
    assert headers["X-Request-ID"] == answer["request_id"]


async def test_judgements_come_when_asked_for(serve):
    server = await serve()
    body = {"groups": [group(*TEXTS)], "judgements": True}
    _, _, answer = await call(f"{server.url}/v1/rewards", body)
    judgements = answer["groups"][0]["judgements"]
    assert [judgement["vote"] for judgement in judgements] == [0, 1]
    for judgement in judgements:
        assert judgement["scores"] == SCORES
        assert judgement["counted"] is True
        assert "boxed" in judgement["text"]


async def test_unknown_is_null_and_failures_are_counted(serve, judge):
    server = await serve()
    judge.answer = lambda body: Reply(["no scores"] * body["n"])
    _, _, answer = await call(f"{server.url}/v1/rewards", {"groups": [group(*TEXTS)]})
    [found] = answer["groups"]
    assert found["rewards"] == found["means"] == found["sums"] == found["spread"] == [None] * 3
    assert (found["votes"], found["failures"]) == ([0, 0, 0], {"no_scores": 2})


async def test_stop_stops_no_server(serve, judge):
    server = await serve(reward={"on_failure": "stop"})
    judge.answer = lambda body: Reply(status=400)
    status, _, answer = await call(f"{server.url}/v1/rewards", {"groups": [group("a")]})
    assert (status, answer["groups"][0]["rewards"]) == (200, [None])


async def test_the_same_request_id_is_judged_once(serve, judge):
    server = await serve()
    judge.delay_s = 0.2
    body = {"groups": [group(*TEXTS)], "request_id": "same"}
    together = await asyncio.gather(*(call(f"{server.url}/v1/rewards", body) for _ in range(5)))
    after = await call(f"{server.url}/v1/rewards", body | {"deadline_s": 60})
    answers = [answer for _, _, answer in (*together, after)]
    assert all(answer == answers[0] for answer in answers)
    assert sum(judge.asked.values()) == 2
    _, _, page = await call(f"{server.url}/metrics")
    assert metric(page, "spct_answers_repeated_total") == 5


async def test_another_body_under_the_same_id_is_a_conflict(serve, judge):
    server = await serve()
    judge.may_answer.clear()
    url = f"{server.url}/v1/rewards"
    first = asyncio.create_task(call(url, {"groups": [group("a", "b")], "request_id": "x"}))
    await until(lambda: judge.asked)
    early = await call(url, {"groups": [group("a", "c")], "request_id": "x"})
    judge.may_answer.set()
    assert ((await first)[0], early[0]) == (200, 409)
    late = await call(url, {"groups": [group("a", "d")], "request_id": "x"})
    assert late[0] == 409
    assert late[2]["request_id"] == "x"


async def test_an_answer_survives_a_restart(serve, judge, tmp_path):
    body = {"groups": [group(*TEXTS)], "request_id": "kept", "judgements": True}
    answers = []
    for _ in range(2):
        server = await serve(store={"path": str(tmp_path / "store")})
        answers.append((await call(f"{server.url}/v1/rewards", body))[2])
        other = body | {"groups": [group("other")]}
        assert (await call(f"{server.url}/v1/rewards", other))[0] == 409
        await server.stop()
    assert answers[0] == answers[1]
    assert sum(judge.asked.values()) == 2


async def test_votes_in_the_store_are_not_asked_for_again(serve, judge, tmp_path):
    server = await serve(store={"path": str(tmp_path / "store")})
    url = f"{server.url}/v1/rewards"
    for name in ("one", "two"):
        await call(url, {"groups": [group(*TEXTS)], "request_id": name})
    assert sum(judge.asked.values()) == 2
    _, _, page = await call(f"{server.url}/metrics")
    assert metric(page, "spct_judgements_from_store_total") == 2


async def test_who_asked_goes_and_comes_back(serve, judge):
    server = await serve()
    judge.delay_s = 0.3
    body = {"groups": [group("a", "b")], "request_id": "back"}
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await call(f"{server.url}/v1/rewards", body)
    status, _, _ = await call(f"{server.url}/v1/rewards", body)
    assert (status, sum(judge.asked.values())) == (200, 2)


async def test_a_deadline_gives_fewer_votes_and_no_zeros(serve, judge):
    server = await serve(vote={"k": 4})
    await until(lambda: server.desk.is_ready)
    seen = []

    def slow_later(body):
        seen.append(body)
        reply = judge.judge(body)
        return Reply(reply.texts, delay_s=30 if len(seen) > 1 else 0)

    judge.answer = slow_later
    body = {"groups": [group("a", "b")], "deadline_s": 4}
    status, _, answer = await call(f"{server.url}/v1/rewards", body)
    [found] = answer["groups"]
    assert status == 200
    assert found["means"] == [content_score("a"), content_score("b")]
    assert found["votes"] == [2, 2]
    assert found["failures"] == {"deadline": 2}
    assert (found["k"], found["k_used"]) == (4, 4)


async def test_waiting_for_a_turn_is_part_of_the_deadline(serve, judge):
    server = await serve(serve={"at_once": 1})
    judge.may_answer.clear()
    url = f"{server.url}/v1/rewards"
    first = asyncio.create_task(call(url, {"groups": [group("a")]}))
    await until(lambda: judge.asked)
    _, _, late = await call(url, {"groups": [group("b")], "deadline_s": 0.2})
    assert not first.done()
    judge.may_answer.set()
    assert late["groups"][0]["failures"] == {"deadline": 2}
    assert (await first)[2]["groups"][0]["failures"] == {}


async def test_half_a_character_is_replaced_as_in_every_prompt(serve):
    server = await serve()
    body = {"groups": [group("a \ud800", "b", prompt="\udfff?")], "request_id": "half"}
    status, _, answer = await call(f"{server.url}/v1/rewards", body)
    assert status == 200
    assert answer["groups"][0]["rewards"] == [content_score("a \ufffd"), content_score("b")]


async def test_conversations_and_tool_turns_are_judged(serve):
    server = await serve()
    turns = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "How warm is it?"}]},
    ]
    calls = [
        {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "weather"}}]},
        {"role": "tool", "name": "weather", "content": "20"},
        {"role": "assistant", "content": "20 degrees", "reasoning": "not read"},
    ]
    body = {"groups": [{"prompt": turns, "completions": [calls, "no idea"]}]}
    status, _, answer = await call(f"{server.url}/v1/rewards", body)
    assert status == 200
    assert None not in answer["groups"][0]["rewards"]


BAD = {
    "no JSON": (b"{", 400),
    "no groups": ({"groups": []}, 422),
    "no completions": ({"groups": [group()]}, 422),
    "blank prompt": ({"groups": [group("a", prompt=" ")]}, 422),
    "an image": (
        {"groups": [group("a", prompt=[{"role": "user", "content": [{"type": "image_url"}]}])]},
        422,
    ),
    "unknown key": ({"groups": [group("a", label=1)]}, 422),
    "number for a text": ({"groups": [group(7)]}, 422),
    "a strange id": ({"groups": [group("a")], "request_id": "a b"}, 422),
    "no time": ({"groups": [group("a")], "deadline_s": 0}, 422),
    "infinite time": (b'{"groups": [{"prompt": "", "completions": []}], "deadline_s": 1e999}', 422),
    "half a character": (b'{"groups": [{"id": "\\ud800", "prompt": "", "completions": []}]}', 422),
    "too deep": (b"[" * 100_000, 400),
    "too long a number": (b'{"groups": ' + b"1" * 5000 + b"}", 400),
    "not UTF-8": (b'{"groups": "\xff"}', 400),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
async def test_bad_bodies_are_refused_in_one_line(name, serve):
    server = await serve()
    body, expected = BAD[name]
    raw = body if isinstance(body, bytes) else None
    status, headers, answer = await call(
        f"{server.url}/v1/rewards", None if raw else body, data=raw
    )
    assert status == expected, answer
    assert set(answer) == {"detail", "request_id"}
    assert answer["detail"]
    assert "\n" not in answer["detail"]
    assert answer["request_id"] == headers["X-Request-ID"]


MANY = 10_000
KEYS = {f"key {i}": 1 for i in range(MANY)}


def turns(**keys):
    return [{"role": "assistant", "content": "a", **keys}]


WRONG = {
    "completions": (RewardsRequest, {"groups": [group(*[1] * MANY)]}),
    "groups": (RewardsRequest, {"groups": [{}] * MANY}),
    "turns": (RewardsRequest, {"groups": [group([{}] * MANY, prompt=[1] * MANY)]}),
    "completions of turns": (RewardsRequest, {"groups": [group(*[[{}]] * MANY)]}),
    "parts": (RewardsRequest, {"groups": [group(turns(content=[1] * MANY))]}),
    "tool calls": (RewardsRequest, {"groups": [group(turns(tool_calls=[1] * MANY))]}),
    "principles": (RewardsRequest, {"groups": [group("a", principles=[1] * MANY)]}),
    "keys of a request": (RewardsRequest, KEYS),
    "keys of a group": (RewardsRequest, {"groups": [group("a", **KEYS)]}),
    "queries": (OpenRLHFRequest, {"query": [1] * MANY, "prompts": [1] * MANY}),
    "answered groups": (RewardsResponse, {"request_id": "a", "groups": [{}] * MANY}),
    "answered numbers": (
        RewardsResponse,
        {"request_id": "a", "groups": [{"rewards": ["a"] * MANY, "votes": [-1] * MANY}]},
    ),
    "answered failures": (RewardsResponse, {"request_id": "a", "groups": [{"failures": KEYS}]}),
    "answered scores": (JudgementResponse, {"scores": ["a"] * MANY, "indices": ["a"] * MANY}),
}


@pytest.mark.parametrize("name", WRONG)
def test_many_mistakes_are_not_all_listed(name):
    """Each would be an object: a million of them took 10 s and 1.7 GB, while nobody was served."""
    model, body = WRONG[name]
    with pytest.raises(ValidationError) as caught:
        model.model_validate(body)
    assert caught.value.error_count() < 30


async def test_an_unknown_key_is_named(serve):
    server = await serve()
    body = {"groups": [group("a", labels=1)]}
    status, _, answer = await call(f"{server.url}/v1/rewards", body)
    assert status == 422
    assert answer["detail"].startswith("groups.0: ")
    assert answer["detail"].endswith("found 'labels'")


@pytest.mark.parametrize(
    "place",
    [
        turns(tool_calls=[{"a": "DEEP"}]),
        turns(content=[{"type": "text", "text": "a", "b": "DEEP"}]),
    ],
    ids=["tool calls", "parts"],
)
async def test_what_is_nested_too_deeply_is_refused(place, serve):
    """What recurses downstream would end in an error of the server's at some depth near 1,000."""
    server = await serve()
    # Where Python's own parser gives up (400) depends on how deep the stack is already.
    allowed = ((DEEPEST, {200}), (DEEPEST + 1, {422}), (900, {400, 422}), (946, {400, 422}))
    for levels, expected in allowed:
        inner = levels - 2
        body = json.dumps({"groups": [group(place)], "request_id": f"deep-{levels}"})
        data = body.replace('"DEEP"', "[" * inner + "]" * inner).encode()
        status, _, answer = await call(f"{server.url}/v1/rewards", data=data)
        assert status in expected, (levels, answer)


async def test_too_many_groups_are_counted_before_they_are_read(serve):
    """Hundreds of thousands of small ones took seconds to read, while nobody was served."""
    server = await serve(serve={"groups": 2})
    for many in ([{}] * 3, [group("a")] * 3):
        status, _, answer = await call(f"{server.url}/v1/rewards", {"groups": many})
        assert status == 413
        assert "at most 2 groups (serve.groups), found 3" in answer["detail"]
    # Not said to be JSON, it is none to the server, however deep.
    plain = {"data": b"[" * 100_000, "Content_Type": "text/plain"}
    assert (await call(f"{server.url}/v1/rewards", **plain))[0] == 415


RULES = {
    "NaN": "[float('nan')] * len(completions)",
    "too few": "[]",
    "no numbers": "'ab'",
    "raises": "[1 / 0]",
}


@pytest.mark.parametrize("name", RULES)
async def test_a_rule_that_fails_is_a_final_answer_that_names_it(name, serve, tmp_path):
    (tmp_path / "rules.py").write_text(f"def broken(completions, **_):\n    return {RULES[name]}")
    rule = f"{tmp_path / 'rules.py'}:broken"
    server = await serve(reward={"rewards": [{"grm": {}}, {"path": rule}]})
    status, _, answer = await call(f"{server.url}/v1/rewards", {"groups": [group("a", "b")]})
    assert status == 422, answer
    assert rule in answer["detail"]
