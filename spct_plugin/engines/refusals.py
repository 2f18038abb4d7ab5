"""What it means that a server refuses, or that no answer comes: whose fault it is, for how long.

And how to say so in one short line that can be encoded, whatever the server sent.
"""

from __future__ import annotations

import email.utils
import random
import re
import reprlib
import time

import aiohttp

from spct_plugin.engines.exchange import Answer
from spct_plugin.errors import EngineError
from spct_plugin.failures import Failure
from spct_plugin.templates import encodable

RETRY_STATUS = frozenset({408, 429})
# What says more about the server than about the request: another one may be set up right.
SETUP_STATUS = frozenset({401, 403, 404, 405})
# What a connection may raise that is nobody's mistake.
LOST = (TimeoutError, aiohttp.ClientError, OSError)
NOBODY_THERE = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError)
# Characters of what a server sent that a message shows; chosen by us: enough to know a page by.
SHOWN_CHARS = 200
_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxother = 3, SHOWN_CHARS, SHOWN_CHARS
_TOO_LONG = re.compile(r"context[ _]length|max_model_len|maximum (?:input|context)|too long", re.I)


class RetryAfterError(EngineError):
    """A refusal that names its own waiting time."""

    retry_after_s: float | None = None


def is_servers_fault(error: EngineError) -> bool:
    """Tell whether another server may do better; one that forwards us is set up wrong as well."""
    status = error.status_code
    return error.retryable or (status is not None and (status in SETUP_STATUS or status < 400))


def refusal(url: str, answer: Answer) -> EngineError:
    """Make an error of an answer that is not 200."""
    status = answer.status
    too_long = status == 400 and _TOO_LONG.search(answer.text)
    failure: Failure = "too_long" if too_long else "engine_error"
    error = RetryAfterError(
        f"{url} answered {status}: {_said(answer)}",
        failure=failure,
        status_code=status,
        retryable=status in RETRY_STATUS or status >= 500,
    )
    error.retry_after_s = retry_after_s(answer.headers.get("Retry-After"))
    return error


def one_line(text: str) -> str:
    """Bring the beginning of a text into one line that can be encoded."""
    return encodable(" ".join(text[: 10 * SHOWN_CHARS].split())[:SHOWN_CHARS])


def shown(value: object) -> str:
    """Show the beginning of what JSON held, however large or deep that is."""
    return _SHORT.repr(value)[:SHOWN_CHARS]


def _said(answer: Answer) -> str:
    location = answer.headers.get("Location")
    if location is None or not 300 <= answer.status < 400:
        return one_line(answer.text)
    return (
        f"it points to {one_line(location)}, and no redirect is followed; "
        "configure the address that answers itself"
    )


def retry_after_s(value: str | None) -> float | None:
    """Read a Retry-After header, seconds or an HTTP date; None without a usable one."""
    if value is None:
        return None
    if value.strip().isdecimal():
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None


def wait_s(attempt: int, error: EngineError, first_s: float, longest_s: float) -> float:
    """Say how long to wait before another try.

    Args:
        attempt: How many there were before the one that failed.
        error: Why it failed; one that names its own time is obeyed as far as the longest.
        first_s: After the first; doubled by each, half of it random.
        longest_s: The longest.
    """
    named = error.retry_after_s if isinstance(error, RetryAfterError) else None
    if named is not None:
        # Not all at once. A server that names more is asked early: time is short.
        return min(named, longest_s) + random.uniform(0, first_s)
    wait = min(first_s * 2.0 ** min(attempt, 20), 2 * longest_s)
    return min(random.uniform(wait / 2, wait), longest_s)


def reason(error: BaseException, section: str) -> str:
    """Say why no answer came, and which key of the configuration set the limit."""
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return f"no connection within {section}.connect_timeout_s"
    if isinstance(error, TimeoutError):
        return f"no answer within {section}.request_timeout_s"
    if isinstance(error, aiohttp.ClientConnectorError):
        return f"cannot connect ({error.os_error.strerror or error.os_error})"
    said = one_line(str(error)) or type(error).__name__
    return f"cannot connect or lost the connection ({said})"
