r"""For tests of and with this package: an engine and a server that follow a script.

engine = ScriptedEngine(["Scores: \\boxed{7, 3}"])
RewardModel(engine=engine).score_sync([JudgeTask("Name a prime.", ["7", "8"])])
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from spct_plugin.engines import Choice, Request

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


@dataclass(frozen=True)
class Reply:
    """What a `FakeServer` answers one request with.

    Attributes:
        texts: One choice each; as many as asked for, or fewer, or more.
        status: HTTP status; any other than 200 sends `body`.
        body: Body of an error, or raw bytes instead of the JSON of a completion.
        headers: Extra headers.
        finish_reason: Of all choices.
        delay_s: Wait before answering.
        drop: Close the connection instead of answering.
    """

    texts: Sequence[str] = ()
    status: int = 200
    body: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    finish_reason: str = "stop"
    delay_s: float = 0.0
    drop: bool = False


class FakeServer:
    r"""An OpenAI-compatible server on loopback, for tests of what crosses the network.

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
        choices = [
            {
                "index": index,
                "message": {"role": "assistant", "content": text},
                "finish_reason": reply.finish_reason,
            }
            for index, text in enumerate(reply.texts)
        ]
        tokens = sum(len(text.split()) for text in reply.texts)
        return web.json_response({"choices": choices, "usage": {"completion_tokens": tokens}})
