"""Whatever is posted gets an answer or a reason, never a broken server."""

import asyncio
import http.client
import json
import subprocess
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from serving import call, group

from spct_plugin.server.openrlhf_wire import OpenRLHFResponse
from spct_plugin.server.wire import Problem, RewardsResponse

# Any text, also what no encoding knows.
TEXT = st.text(st.characters(codec=None), max_size=20)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)
MESSAGE = st.fixed_dictionaries(
    {"role": st.sampled_from(["system", "user", "assistant", "tool"]) | JSON},
    optional={
        "content": TEXT | JSON | st.just([{"type": "text", "text": "a"}]),
        "name": JSON,
        "tool_calls": JSON | st.lists(st.dictionaries(TEXT, JSON, max_size=2), max_size=2),
    },
)
SAID = TEXT | st.lists(MESSAGE, max_size=3) | JSON
GROUP = st.fixed_dictionaries(
    {"prompt": SAID, "completions": st.lists(SAID, max_size=4) | JSON},
    optional={"id": JSON | TEXT, "reference": JSON | TEXT, "principles": st.lists(TEXT) | JSON},
)
GOOD = st.fixed_dictionaries(
    {
        "groups": st.lists(
            st.fixed_dictionaries(
                {"prompt": TEXT.map("a{}".format), "completions": st.lists(TEXT, min_size=1)}
            ),
            min_size=1,
            max_size=3,
        )
    },
    optional={"judgements": st.booleans(), "request_id": st.sampled_from(["a", "b", "c"])},
)
REWARDS = st.fixed_dictionaries(
    {"groups": st.lists(GROUP, max_size=3) | JSON},
    optional={
        "request_id": JSON | st.sampled_from(["a", "b", "c"]),
        "run": JSON | st.just("r"),
        "deadline_s": JSON | st.floats(),
        "judgements": JSON | st.booleans(),
        "more": JSON,
    },
)
QUERIES = st.fixed_dictionaries(
    {"query": st.lists(TEXT, max_size=3) | TEXT | JSON},
    optional={"prompts": st.lists(TEXT, max_size=3) | TEXT | JSON, "labels": JSON},
)
BODY = st.one_of(
    st.tuples(st.just("/v1/rewards"), GOOD),
    st.tuples(st.just("/v1/rewards"), REWARDS),
    st.tuples(st.just("/get_reward"), QUERIES),
    st.tuples(st.sampled_from(["/v1/rewards", "/get_reward"]), JSON | st.binary(max_size=60)),
)
ANSWERS = {"/v1/rewards": RewardsResponse, "/get_reward": OpenRLHFResponse}


@pytest.mark.parametrize("examples", [400, pytest.param(20_000, marks=pytest.mark.slow)])
async def test_no_body_breaks_the_server(examples, serve, policy):
    wire = {"tokenizer": str(policy), "fallback": "group_mean", "prompts": "text"}
    server = await serve(openrlhf=wire)
    host = server.url.removeprefix("http://")
    connection = http.client.HTTPConnection(host, timeout=20)
    seen = set()

    @settings(max_examples=examples, suppress_health_check=list(HealthCheck), database=None)
    @given(BODY)
    def post(asked):
        path, body = asked
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        connection.request("POST", path, data, {"Content-Type": "application/json"})
        response = connection.getresponse()
        answer = json.loads(response.read())
        assert response.status in (200, 400, 409, 422), answer
        seen.add((path, response.status))
        (ANSWERS[path] if response.status == 200 else Problem).model_validate(answer)

    await asyncio.to_thread(post)
    connection.close()
    assert {(path, status) for path in ANSWERS for status in (200, 422)} <= seen
    assert server.desk.is_idle
    assert (await call(f"{server.url}/v1/rewards", {"groups": [group("a")]}))[0] == 200


CHECKS = (
    "not_a_server_error,status_code_conformance,content_type_conformance,"
    "response_headers_conformance,response_schema_conformance,negative_data_rejection"
)


@pytest.mark.parametrize("examples", [10, pytest.param(300, marks=pytest.mark.slow)])
async def test_the_server_keeps_to_its_openapi_document(examples, serve, policy, tmp_path):
    wire = {"tokenizer": str(policy), "fallback": "group_mean"}
    server = await serve(openrlhf=wire, serve={"text_chars": 2000})
    program = "from schemathesis.cli import schemathesis; schemathesis()"
    options = ("--max-examples", str(examples), "--seed", "1", "--checks", CHECKS, "--no-color")
    command = [sys.executable, "-c", program, "run", f"{server.url}/openapi.json", *options]
    done = await asyncio.to_thread(
        subprocess.run, command, capture_output=True, text=True, timeout=600, cwd=tmp_path
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    assert "Tested: 8" in done.stdout
