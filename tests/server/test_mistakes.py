"""What is wrong with a body is told in words for who sent it: where, expected, found."""

import asyncio

from serving import BEARER, call, connect, group

from spct_plugin.server.mistakes import describe

EITHER = "a text or a list of messages"
NO_KEYS = "expected no keys but groups, request_id, run, deadline_s, judgements, fresh"
ID = "^[A-Za-z0-9._:-]{1,128}$"


def saying(**keys):
    return [{"role": "assistant", "content": "a", **keys}]


def wrong(*completions, **keys):
    return {"groups": [group(*completions, **keys)]}


def beside(**keys):
    return {**wrong("a"), **keys}


TOLD = [
    (5, "body: expected an object, found 5"),
    ([1], "body: expected an object, found a list"),
    ({}, "groups: expected a value, found none"),
    ({"groups": []}, "groups: expected a length of at least 1, found 0"),
    ({"groups": [None]}, "groups.0: expected an object, found null"),
    (beside(more=1), f"body: {NO_KEYS}, found 'more'"),
    (wrong("a", prompt=5), f"groups.0.prompt: expected {EITHER}, found 5"),
    (wrong("a", prompt={"str": "a"}), f"groups.0.prompt: expected {EITHER}, found an object"),
    (wrong("a", [5]), "groups.0.completions.1.0: expected an object, found 5"),
    (wrong([{}]), "groups.0.completions.0.0.role: expected a value, found none"),
    (
        wrong(saying(role=5, content=True)),
        "groups.0.completions.0.0.role: expected a text, found 5; "
        "groups.0.completions.0.0.content: expected a text or a list of parts, found true",
    ),
    (
        wrong(saying(content=[5])),
        "groups.0.completions.0.0.content.0: expected an object, found 5",
    ),
    (
        wrong(saying(tool_calls="a")),
        "groups.0.completions.0.0.tool_calls: expected a list, found 'a'",
    ),
    (wrong("a", reference=["a"]), "groups.0.reference: expected a text, found a list"),
    (wrong("a", principles=[5]), "groups.0.principles.0: expected a text, found 5"),
    (wrong("a", id="a" * 300), "groups.0.id: expected a length of at most 256, found 300"),
    (beside(request_id="a b"), f"request_id: expected a text like {ID}, found 'a b'"),
    (
        beside(request_id="\n" + "a" * 1000),
        f"request_id: expected a text like {ID}, found '\\n{'a' * 39}'...",
    ),
    (beside(deadline_s=0), "deadline_s: expected a number above 0, found 0"),
    (beside(deadline_s="soon"), "deadline_s: expected a number, found 'soon'"),
    (beside(deadline_s=float("nan")), "deadline_s: expected a finite number, found NaN"),
    (beside(judgements=5), "judgements: expected true or false, found 5"),
]
UNREAD = [
    (b'{"groups": a}', "Expecting value at character 11"),
    (b'{"groups": [] "', "Expecting ',' delimiter at character 14"),
    (b'{"groups": ["', "Unterminated string starting at character 12"),
    (b'{"groups": "\xff"}', "expected UTF-8, found 0xff as byte 12"),
    (b"[" * 100_000, "nested too deeply; flatten it"),
    (b"1" * 5000, "expected whole numbers of at most 4300 digits, found a longer one"),
]


async def test_a_mistake_is_told_once_in_our_words(serve):
    server = await serve()
    for body, told in TOLD:
        status, _, answer = await call(f"{server.url}/v1/rewards", body)
        assert (status, answer["detail"]) == (422, told)


async def test_what_is_no_json_is_told_with_its_place(serve):
    server = await serve()
    for path in ("/v1/rewards", "/get_reward"):
        for data, told in UNREAD:
            status, _, answer = await call(f"{server.url}{path}", data=data)
            assert (status, answer["detail"]) == (400, f"the body is no JSON: {told}")


async def test_who_posts_no_body_is_told_so(serve):
    server = await serve()
    for path in ("/v1/rewards", "/get_reward"):
        status, _, answer = await call(f"{server.url}{path}", method="POST")
        assert (status, answer["detail"]) == (422, "body: expected a value, found none")


async def test_a_body_must_say_that_it_is_json(serve):
    server = await serve()
    told = "expected the header Content-Type: application/json, found"
    for kind in ("application/x-www-form-urlencoded", "text/plain; charset=utf-8"):
        for path in ("/v1/rewards", "/get_reward"):
            asked = {"data": b'{"groups": []}', "Content_Type": kind}
            status, _, answer = await call(f"{server.url}{path}", **asked)
            assert (status, answer["detail"]) == (415, f"{told} {kind!r}")
    _, _, answer = await call(f"{server.url}/v1/rewards", data=b"{}", Content_Type="a" * 1000)
    assert answer["detail"] == f"{told} '{'a' * 40}'..."


async def test_without_the_header_it_is_told_too(serve):
    server = await serve()
    head = "POST /v1/rewards HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    with connect(server.url) as asking:
        asking.sendall(f"{head}Content-Length: 2\r\n\r\n{{}}".encode())
        reader, writer = await asyncio.open_connection(sock=asking)
        answer = await reader.read()
        writer.close()
    assert answer.startswith(b"HTTP/1.1 415")
    assert b"found none" in answer


async def test_a_parameter_of_the_address_is_named_alike(serve, token):
    server = await serve(serve=token)
    url = f"{server.url}/admin/sleep?level="
    for level, told in (("3", "at most 2"), ("0", "at least 1"), ("a", "a whole number")):
        status, _, answer = await call(f"{url}{level}", method="POST", **BEARER)
        assert (status, answer["detail"]) == (422, f"level: expected {told}, found {level!r}")


def test_an_error_that_is_not_known_is_told_as_pydantic_does():
    error = {"type": "date_type", "loc": ("body", "day"), "msg": "Input should be a date"}
    assert describe([error]) == "day: Input should be a date"


def test_few_mistakes_are_told():
    errors = [{"type": "missing", "loc": ("body", f"key {i}"), "input": {}} for i in range(9)]
    assert describe(errors).count("expected") == 5
