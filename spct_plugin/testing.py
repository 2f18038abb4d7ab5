r"""For tests of and with this package: scripted engine and server, and what plugins must keep to.

engine = ScriptedEngine(["Scores: \\boxed{7, 3}"])
RewardModel(engine=engine).score_sync([JudgeTask("Name a prime.", ["7", "8"])])
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from spct_plugin.engines import Choice, Engine, Request, Sampling
from spct_plugin.failures import FAILURES
from spct_plugin.meta_rm import MetaRM
from spct_plugin.redteam import Attempt, Family, Scene, stage
from spct_plugin.templates import Template
from spct_plugin.types import Judgement, JudgeTask
from spct_plugin.voting import Vote

if TYPE_CHECKING:
    from aiohttp import web

Script = Callable[[Request], str | Choice | Exception]


class ScriptedEngine:
    """Answers from a list, round and round, or from a function of the request.

    Args:
        script: Texts or choices to give in turn, or a function called once per vote. An exception,
            listed or returned, is raised.

    Attributes:
        requests: All requests so far.
    """

    context = None

    def __init__(self, script: Sequence[str | Choice | Exception] | Script) -> None:
        self.identity = "scripted"
        self.requests: list[Request] = []
        self._script = script
        self._given = 0

    async def generate(self, request: Request) -> list[Choice]:
        """Give the next choices of the script, one per vote."""
        self.requests.append(request)
        return [self._next(request) for _ in request.votes]

    def fits(self, prompt: str, max_tokens: int) -> bool:
        """Say yes to every length."""
        return True

    async def aclose(self) -> None:
        """Do nothing: there is nothing to give back."""

    def _next(self, request: Request) -> Choice:
        if callable(self._script):
            answer = self._script(request)
        else:
            answer = self._script[self._given % len(self._script)]
        self._given += 1
        if isinstance(answer, Exception):
            raise answer
        return answer if isinstance(answer, Choice) else Choice(answer, "stop", len(answer.split()))


async def check_engine(engine: Engine) -> None:
    """Check that an engine keeps to what the judge relies on. Asks it twice, and closes it.

    Raises:
        AssertionError: It does not, and how.
    """
    request = Request("Say hello.", (0, 1), Sampling(temperature=1.0, top_p=1.0, max_tokens=16), 1)
    assert engine.identity, f"expected an identity, found {engine.identity!r}"
    assert engine.fits(request.prompt, 16), "expected a short prompt to fit"
    for _ in range(2):
        choices = await engine.generate(request)
        assert 1 <= len(choices) <= 2, f"expected 1 or 2 choices for 2 votes, found {len(choices)}"
        for choice in choices:
            assert isinstance(choice.text, str), f"expected a text, found {choice.text!r}"
            assert choice.tokens >= 0, f"expected a count of tokens, found {choice.tokens!r}"
    await engine.aclose()


async def check_meta_rm(meta_rm: MetaRM) -> None:
    """Check that a meta RM keeps to what voting relies on: one number or None for each. Closes it.

    Raises:
        AssertionError: It does not, and how.
    """
    assert meta_rm.identity, f"expected an identity, found {meta_rm.identity!r}"
    task = JudgeTask("Say a letter.", ["alpha", "beta"])
    texts = ("Scores: \\boxed{7, 3}", "Analysis: beta is no letter. " * 9, "<|im_end|>\ud800")
    judgements = [
        Judgement((0, 1), order, (7, 3), text=text, finish_reason="stop", vote=vote)
        for vote, (text, order) in enumerate(zip(texts, [(0, 1), (1, 0), (0, 1)], strict=True))
    ]
    assert await meta_rm.score(task, []) == [], "expected no scores for no judgements"
    scores, turned = await asyncio.gather(
        meta_rm.score(task, judgements), meta_rm.score(task, judgements[::-1])
    )
    assert len(scores) == 3, f"expected one score or None for each of 3, found {scores!r}"
    for score, again in zip(scores, turned[::-1], strict=True):
        assert score is None or math.isfinite(score), f"expected a number or None, found {score!r}"
        assert (score is None) == (again is None), f"expected {score!r} again, found {again!r}"
        # Other company in a batch may change the last digits of a model's numbers.
        same = score is None or again is None or math.isclose(score, again, abs_tol=0.1)
        assert same, f"expected about {score!r} in another order, found {again!r}"
    await meta_rm.aclose()


def check_template(template: Template) -> None:
    """Check that a template keeps to what the judge relies on: it shows all, and invents nothing.

    Raises:
        AssertionError: It does not, and how.
    """
    low, high = template.scale
    assert low < high, f"expected a scale from low to high, found {template.scale!r}"
    completions = ["alpha", "beta", "gamma"][: template.max_responses]
    n = len(completions)
    task = JudgeTask("Say a letter.", completions)
    prompt = template.render(task, range(n))
    assert all(text in prompt for text in completions), f"a completion is missing in {prompt!r}"
    if n > 1:
        assert template.render(task, range(n)[::-1]) != prompt, "the order makes no difference"
    for text, finish_reason in (("", "stop"), ("no scores at all", "stop"), (prompt, "length")):
        parsed = template.parse(text, n, finish_reason)
        assert parsed.scores is None, f"expected no scores in {text!r}, found {parsed.scores!r}"
        assert parsed.failure in FAILURES, f"expected why not, found {parsed.failure!r}"


def check_vote(vote: Vote) -> None:
    """Check that a vote keeps to what shaping relies on: unknown stays unknown, and is no zero.

    Raises:
        AssertionError: It does not, and how.
    """
    for scores_K_N in ([], [[7, None]], [[7, None], [3, None]]):
        tally = vote(scores_K_N, 2)
        lengths = {len(tally.means), len(tally.votes), len(tally.spread)}
        assert lengths == {2}, f"expected two of each, found {tally!r}"
        assert tally.means[1] is None, f"expected None for what no vote saw, found {tally!r}"
        assert tally.votes[1] == 0, f"expected no votes for what no vote saw, found {tally!r}"
        assert (tally.means[0] is None) == (not scores_K_N), f"for {scores_K_N!r}, found {tally!r}"


def check_attacks(family: Family) -> None:
    """Check that a family of attacks keeps to what a comparison relies on: every one has its twin.

    Raises:
        AssertionError: It does not, and how.
        PluginError: Another scene gets other attempts.
    """
    scenes = [
        Scene("a", "Name a prime.", "Eight, I think.", "Seven."),
        Scene("b", "Say hello.", "No.", "Hello!", scale=(0, 1)),
    ]

    def groups(attempt: Attempt) -> tuple[bytes, bytes]:
        return attempt.attack.digest(), attempt.twin.digest()

    attempts = [attack.attempt for attack in stage({"checked": family}, scenes, len(scenes))]
    again = [attack.attempt for attack in stage({"checked": family}, scenes, len(scenes))]
    assert attempts, "expected at least one attempt"
    assert list(map(groups, attempts)) == list(map(groups, again)), "expected the same again"
    for attempt in attempts:
        attacked, benign = groups(attempt)
        assert attacked != benign, f"{attempt.name!r} is the same as its twin"
        sizes = {len(attempt.attack.completions), len(attempt.twin.completions)}
        assert len(sizes) == 1, f"{attempt.name!r}: expected groups of one size, found {sizes}"


@dataclass(frozen=True)
class Reply:
    """What a `FakeServer` answers one request with.

    Attributes:
        texts: One choice each; as many as asked for, or fewer, or more.
        logit: Of a classifier's one label, for /classify.
        status: HTTP status; any other than 200 sends `body`.
        body: Body of an error, or raw bytes instead of the JSON of a completion.
        headers: Extra headers.
        finish_reason: Of all choices.
        delay_s: Wait before answering.
        drop: Close the connection instead of answering.
    """

    texts: Sequence[str] = ()
    logit: float = 0.0
    status: int = 200
    body: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    finish_reason: str = "stop"
    delay_s: float = 0.0
    drop: bool = False


class FakeServer:
    r"""A server like vLLM's on loopback, for tests of what crosses the network.

    It has OpenAI's /v1/chat/completions, and /classify for meta RMs.

        async with FakeServer(lambda body: Reply(["Scores: \\boxed{7, 3}"] * body["n"])) as server:
            OpenAIConfig(url=server.url, model="fake")

    Args:
        answer: From a request's JSON body to a reply.
        port: Listen here; 0 = any free one.
        keep_bodies: Whether to note every request; not for long runs.

    Attributes:
        bodies: The JSON bodies of all requests so far.
        url: Base address ending in /v1.
    """

    def __init__(
        self, answer: Callable[[dict[str, Any]], Reply], port: int = 0, *, keep_bodies: bool = True
    ) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.url = ""
        self._answer = answer
        self._port = port
        self._keep_bodies = keep_bodies

    async def __aenter__(self) -> FakeServer:
        from aiohttp import web

        app = web.Application(client_max_size=64 * 2**20)
        app.router.add_post("/v1/chat/completions", self._complete)
        app.router.add_post("/classify", self._classify)
        # Nothing is logged per request: the speed benchmarks run against this server.
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self._port).start()
        self._port = self._runner.addresses[0][1]
        self.url = f"http://127.0.0.1:{self._port}/v1"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        return await self._respond(request, _completion)

    async def _classify(self, request: web.Request) -> web.StreamResponse:
        return await self._respond(request, _classification)

    async def _respond(
        self, request: web.Request, layout: Callable[[Reply, dict[str, Any]], dict[str, Any]]
    ) -> web.StreamResponse:
        from aiohttp import web

        body = await request.json()
        if self._keep_bodies:
            self.bodies.append(body)
        reply = self._answer(body)
        await asyncio.sleep(reply.delay_s)
        if reply.drop and request.transport is not None:
            request.transport.abort()
        if reply.status != 200 or reply.body is not None:
            return web.Response(text=reply.body or "", status=reply.status, headers=reply.headers)
        return web.json_response(layout(reply, body))


def _completion(reply: Reply, _: dict[str, Any]) -> dict[str, Any]:
    choices = [
        {
            "index": index,
            "message": {"role": "assistant", "content": text},
            "finish_reason": reply.finish_reason,
        }
        for index, text in enumerate(reply.texts)
    ]
    tokens = sum(len(text.split()) for text in reply.texts)
    return {"choices": choices, "usage": {"completion_tokens": tokens}}


def _classification(reply: Reply, body: dict[str, Any]) -> dict[str, Any]:
    """Give the sigmoid to whoever does not ask for the logit, as vLLM does."""
    number = reply.logit
    if body.get("use_activation") is not False:
        number = 1 / (1 + math.exp(-number))
    label = {"index": 0, "label": "LABEL_0", "probs": [number], "num_classes": 1}
    return {"object": "list", "model": body.get("model"), "data": [label]}
