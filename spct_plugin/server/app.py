"""The routes, and how errors are told: always {"detail": ..., "request_id": ...}."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, Mapping
from importlib import metadata
from typing import Annotated, Any

from fastapi import Body, Depends, FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.security import HTTPBearer
from fastapi_offline import FastAPIOffline
from starlette.exceptions import HTTPException

from spct_plugin.errors import (
    ConfigError,
    EngineError,
    RewardError,
    RuleError,
    SPCTError,
    TaskError,
)
from spct_plugin.loop import gather_or_cancel
from spct_plugin.server import gate, logs, mistakes
from spct_plugin.server.answers import ConflictError
from spct_plugin.server.desk import Desk, DrainingError
from spct_plugin.server.gate import Gate, read_token
from spct_plugin.server.openrlhf_wire import OpenRLHFRequest, OpenRLHFResponse
from spct_plugin.server.room import BusyError
from spct_plugin.server.wire import (
    GroupRequest,
    Health,
    Problem,
    Reloaded,
    RewardsRequest,
    RewardsResponse,
    new_request_id,
)
from spct_plugin.types import JudgeTask, Message, is_list, is_mapping


class TooLargeError(TaskError):
    """More groups, completions or characters than `serve` allows."""


STATUS: tuple[tuple[type[SPCTError], int], ...] = (
    # As for a body of too many bytes: our client then knows that it is no outage.
    (TooLargeError, 413),
    (TaskError, 422),
    (ConflictError, 409),
    (BusyError, 429),
    (DrainingError, 503),
    # It would fail again: clients must not have the group judged again and again.
    (RuleError, 422),
    (RewardError, 503),
    (EngineError, 503),
    (ConfigError, 400),
    (SPCTError, 500),
)
"""The first that fits decides."""
MEANINGS = {
    400: "The body is no JSON, or the configuration cannot be used.",
    401: "No token, or a wrong one.",
    403: "Another page's request, or an admin call to a server without a token.",
    408: "The body came too slowly.",
    409: "The request id was used for another request.",
    413: "The body is too long, or holds more than `serve` allows.",
    415: "The body is not said to be JSON.",
    421: "The Host is none of this server's.",
    422: "The request cannot be judged, or a rule of the server fails with it.",
    429: "No room now; see Retry-After.",
    500: "The server's own mistake.",
    501: "The configuration names no tokenizer for this wire.",
    503: "The server is ending, or its judge fails.",
}


def _problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": Problem, "description": MEANINGS[status]} for status in statuses}


EVERYWHERE = _problems(401, 403, 413, 421, 500)
POSTED = EVERYWHERE | _problems(400, 408, 415, 422)


def make_app(desk: Desk) -> FastAPI:
    """Make the application.

    Raises:
        ConfigError: The token's environment variable is not set.
    """
    token = read_token(desk.config.serve)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
        trying = asyncio.create_task(desk.keep_trying())
        try:
            yield
        finally:
            trying.cancel()
            await asyncio.gather(trying, return_exceptions=True)
            await desk.aclose()

    # Also where browsers reach no other server, its pages' usual source.
    app = FastAPIOffline(
        title="spct-plugin reward server",
        description="Rewards for groups of completions, judged by a generative reward model.",
        version=metadata.version("spct-plugin"),
        lifespan=lifespan,
        redoc_url=None,
        responses=EVERYWHERE,
        static_url=gate.DOCS_FILES,
        # For the documentation only: the gate asks for the token.
        dependencies=[Depends(HTTPBearer(auto_error=False))] if token else [],
    )
    _add_native(app, desk)
    _add_openrlhf(app, desk)
    _add_health(app, desk)
    _add_admin(app, desk)
    _add_errors(app)
    app.add_middleware(Gate, serve=desk.config.serve, token=token, metrics=desk.metrics)
    return app


def _add_native(app: FastAPI, desk: Desk) -> None:
    async def count(request: Request) -> None:
        body: Any = None
        # What is no JSON is refused when the body is read.
        with contextlib.suppress(ValueError, RecursionError):
            body = await request.json()
        _count_groups(body, desk)

    @app.post(
        "/v1/rewards",
        responses=POSTED | _problems(409, 429, 503),
        dependencies=[Depends(count)],
    )
    async def rewards(
        request: Request, asked: Annotated[RewardsRequest, Body()]
    ) -> RewardsResponse:
        """Judge groups: each prompt with all its completions together."""
        facts: dict[str, Any] = request.scope["spct"]
        name = asked.request_id or new_request_id()
        logs.request_id.set(name)
        facts |= {"run": asked.run, "groups": len(asked.groups)}
        facts["completions"] = sum(len(group.completions) for group in asked.groups)
        tasks = _tasks(asked.groups, desk)
        is_new = False

        async def work() -> bytes:
            nonlocal is_new
            is_new = True
            return await desk.rewards(asked, tasks, name)

        if asked.request_id is None:
            content = await asyncio.shield(asyncio.ensure_future(work()))
        else:
            content = await desk.answers.once(name, asked.digest(), work, on_disk=not asked.fresh)
        facts["repeated"] = not is_new
        if not is_new:
            desk.metrics.replayed.inc()
        return _as_it_is(content)


def _add_openrlhf(app: FastAPI, desk: Desk) -> None:
    @app.post("/get_reward", responses=POSTED | _problems(429, 501, 503))
    async def get_reward(
        request: Request, asked: Annotated[OpenRLHFRequest, Body()]
    ) -> OpenRLHFResponse:
        """Speak OpenRLHF's wire (--reward.remote_url): each completion is judged alone."""
        rows = _rows(asked, desk)
        request.scope["spct"]["completions"] = len(rows)
        try:
            desk.check_openrlhf()
        except ConfigError as error:
            raise HTTPException(501, str(error)) from None
        answers = await gather_or_cancel([desk.openrlhf(*row) for row in rows])
        return OpenRLHFResponse.of([json.loads(answer) for answer in answers])


def _add_health(app: FastAPI, desk: Desk) -> None:
    @app.get("/healthz")
    async def healthz() -> Health:
        """Tell whether the process lives."""
        return Health(status="draining" if desk.draining else "ok", version=desk.version)

    @app.get("/readyz", responses={503: {"model": Health, "description": "Not ready."}})
    async def readyz(response: Response) -> Health:
        """Tell whether a real judgement succeeded, and the last ones did not all fail."""
        if desk.is_ready:
            return Health(status="ready", version=desk.version)
        response.status_code = 503
        status = "draining" if desk.draining else "not ready"
        return Health(status=status, detail=desk.why_not_ready, version=desk.version)

    @app.get(
        "/metrics",
        response_class=Response,
        responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
    )
    async def metrics() -> Response:
        """Show counts in Prometheus' form."""
        page = desk.metrics.page(desk.model.endpoints())
        return Response(page, media_type="text/plain; version=0.0.4")


def _add_admin(app: FastAPI, desk: Desk) -> None:
    @app.post("/admin/sleep", responses=_problems(400, 422, 503))
    async def sleep(level: Annotated[int, Query(ge=1, le=2)] = 1) -> Health:
        """Let the judge's vLLM servers free their GPUs; groups wait until they are woken."""
        await desk.model.sleep(level)
        return Health(status="asleep", version=desk.version)

    @app.post("/admin/wake", responses=_problems(503))
    async def wake() -> Health:
        """Wake the judge's servers."""
        await desk.model.wake()
        return Health(status="awake", version=desk.version)

    @app.post("/admin/reload", responses=_problems(400, 503))
    async def reload() -> Reloaded:
        """Read the configuration again; groups in work are finished by the old judge."""
        version, before = await desk.reload()
        return Reloaded(version=version, before=before)


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(SPCTError)
    async def ours(request: Request, error: SPCTError) -> Response:
        status = next(status for kind, status in STATUS if isinstance(error, kind))
        headers: dict[str, str] = {}
        if isinstance(error, BusyError):
            headers["Retry-After"] = str(error.retry_after_s)
        elif isinstance(error, DrainingError):
            headers |= {"Retry-After": "5", "Connection": "close"}
        return _problem(request, status, str(error), headers)

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        headers = dict(error.headers or {})
        if error.status_code in (408, 413):
            headers["Connection"] = "close"
        detail = mistakes.describe_unread(error.__cause__) or str(error.detail)
        return _problem(request, error.status_code, detail, headers)

    @app.exception_handler(RequestValidationError)
    async def unreadable(request: Request, error: RequestValidationError) -> Response:
        return _problem(request, *_mistake(request, error), {})

    @app.exception_handler(Exception)
    async def unforeseen(request: Request, error: Exception) -> Response:
        # Starlette raises it again, and uvicorn logs it with its traceback. It comes past the gate.
        named = {"X-Request-ID": logs.request_id.get()}
        return _problem(request, 500, f"{type(error).__name__}; see the server's log", named)


def _problem(request: Request, status: int, detail: str, headers: Mapping[str, str]) -> Response:
    request.scope.get("spct", {})["detail"] = detail[:300]
    body = {"detail": detail, "request_id": logs.request_id.get() or None}
    return Response(json.dumps(body), status, headers, "application/json")


def _mistake(request: Request, error: RequestValidationError) -> tuple[int, str]:
    unread = mistakes.describe_unread(error.__cause__)
    if unread is not None:
        return 400, unread
    if isinstance(error.body, bytes):
        # FastAPI leaves it so when it is not said to be JSON.
        return 415, mistakes.describe_kind(request.headers.get("content-type"))
    return 422, mistakes.describe(error.errors())


def _as_it_is(content: bytes) -> Any:
    """Hand on what is JSON already; it was checked when it was made."""
    return Response(content, media_type="application/json")


def _count_groups(body: Any, desk: Desk) -> None:
    """Count them before pydantic makes an object of each: the 480,000 of 16 MiB would take 8 s.

    Raises:
        TooLargeError: There are more than allowed.
    """
    groups: Any = body.get("groups") if is_mapping(body) else None
    if is_list(groups):
        _check_count("groups", len(groups), desk.config.serve.groups)


def _tasks(groups: list[GroupRequest], desk: Desk) -> list[JudgeTask]:
    """Read the groups of a request; what there are too many of is counted before it is read.

    Raises:
        TooLargeError: There is more than allowed.
        TaskError: One cannot be judged.
    """
    serve = desk.config.serve
    tasks: list[JudgeTask] = []
    for place, group in enumerate(groups):
        try:
            _check_count("completions", len(group.completions), serve.completions)
            task = group.task()
            texts = [
                task.prompt,
                *task.completions,
                task.reference or "",
                *map(str, task.principles),
            ]
            _check_lengths([_length(text) for text in texts], serve.text_chars)
        except TaskError as error:
            raise type(error)(f"groups.{place}: {error}") from None
        tasks.append(task)
    return tasks


def _rows(asked: OpenRLHFRequest, desk: Desk) -> list[tuple[str, str, Any]]:
    """Read the completions of OpenRLHF's wire.

    Raises:
        TooLargeError: There is more than allowed.
        TaskError: There are not as many of each.
    """
    serve = desk.config.serve
    count = 1 if isinstance(asked.query, str) else len(asked.query)
    _check_count("queries", count, serve.groups * serve.completions)
    rows = asked.rows()
    _check_lengths([len(query) for query, _, _ in rows], 2 * serve.text_chars)
    return rows


def _check_count(what: str, found: int, most: int) -> None:
    if found > most:
        limit = "serve.groups * serve.completions" if what == "queries" else f"serve.{what}"
        raise TooLargeError(f"expected at most {most} {what} ({limit}), found {found}; send fewer")


def _check_lengths(lengths: list[int], most: int) -> None:
    if max(lengths, default=0) > most:
        raise TooLargeError(
            f"expected at most {most} characters in a text (serve.text_chars), found {max(lengths)}"
        )


def _length(text: str | tuple[Message, ...]) -> int:
    if isinstance(text, str):
        return len(text)
    return sum(len(turn.content) + sum(map(len, turn.tool_calls)) for turn in text)
