"""One request to a server and its answer, of which nothing is trusted.

    answer = await exchange(session, "POST", "http://a:8000/v1/chat/completions", data=b"{}")

A redirect is an answer like any other, and is not followed: who is asked stands in the
configuration. An answer is read as far as one can be long.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp

from spct_plugin.errors import ConfigError, EngineError

# Bytes of one answer, unpacked. 16 MiB: chosen by us, as 32 votes of 32,768 tokens have them at 16
# bytes a token; English has about 4, Chinese escaped in JSON about 9.
ANSWER_BYTES = 16 * 2**20


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server answered.

    Attributes:
        status: HTTP status.
        headers: As they came.
        text: The body; bytes that are no UTF-8 are U+FFFD.
    """

    status: int
    headers: Mapping[str, str]
    text: str


def authorization(variable: str | None, key: str) -> dict[str, str]:
    """Give the header that carries a server's key.

    Args:
        variable: Name of the environment variable that holds it; None = no key, no header.
        key: Of the configuration, which names the variable: "engine.api_key_env".

    Raises:
        ConfigError: The variable is empty or not set.
    """
    if variable is None:
        return {}
    secret = os.environ.get(variable)
    if not secret:
        raise ConfigError(
            f"{key}: the environment variable {variable!r} is not set; export it where this "
            "process starts"
        )
    return {"Authorization": f"Bearer {secret}"}


async def exchange(
    session: aiohttp.ClientSession,
    method: str,
    url: str,
    *,
    most: int = ANSWER_BYTES,
    **options: Any,
) -> Answer:
    """Ask once.

    Args:
        session: Whose connections to use.
        method: "GET" or "POST".
        url: The whole address.
        most: Bytes of the answer.
        options: More of `aiohttp.ClientSession.request`: data, timeout.

    Raises:
        EngineError: The answer is too long; of one that is not 200, only the beginning is given.
        TimeoutError: No answer in time.
        aiohttp.ClientError: No answer, or a broken one; OSError likewise.
    """
    async with session.request(method, url, allow_redirects=False, **options) as response:
        body = bytearray()
        # Never `read`, which unpacks all there is before anybody can count it.
        async for chunk in response.content.iter_any():
            body += chunk
            if len(body) > most:
                break
        if len(body) > most and response.status == 200:
            raise EngineError(
                f"{url}: expected an answer of at most {most >> 20} MiB, found more; "
                "look what answers there, and what was asked of it",
                status_code=200,
            )
        return Answer(response.status, response.headers, body.decode(errors="replace"))
