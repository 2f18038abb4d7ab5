"""What it means that a server refuses, or that no answer comes: whose fault it is, for how long."""

from __future__ import annotations

import email.utils
import re
import time
from collections.abc import Mapping

import aiohttp

from spct_plugin.errors import EngineError
from spct_plugin.failures import Failure

RETRY_STATUS = frozenset({408, 429})
# What says more about the server than about the request: another one may be set up right.
SETUP_STATUS = frozenset({401, 403, 404, 405})
# What a connection may raise that is nobody's mistake.
LOST = (TimeoutError, aiohttp.ClientError, OSError)
NOBODY_THERE = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError)
_TOO_LONG = re.compile(r"context[ _]length|max_model_len|maximum (?:input|context)|too long", re.I)


class RetryAfterError(EngineError):
    """A refusal that names its own waiting time."""

    retry_after_s: float | None = None


def is_servers_fault(error: EngineError) -> bool:
    """Tell whether another server may do better; one that forwards us is set up wrong as well."""
    status = error.status_code
    return error.retryable or (status is not None and (status in SETUP_STATUS or status < 400))


def refusal(url: str, status: int, text: str, headers: Mapping[str, str]) -> EngineError:
    """Make an error of an answer that is not 200."""
    too_long = status == 400 and _TOO_LONG.search(text)
    failure: Failure = "too_long" if too_long else "engine_error"
    error = RetryAfterError(
        f"{url} answered {status}: {' '.join(text.split())[:200]}",
        failure=failure,
        status_code=status,
        retryable=status in RETRY_STATUS or status >= 500,
    )
    error.retry_after_s = _retry_after_s(headers.get("Retry-After"))
    return error


def _retry_after_s(value: str | None) -> float | None:
    """Read a Retry-After header, seconds or an HTTP date; None without a usable one."""
    if value is None:
        return None
    if value.strip().isdecimal():
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None


def reason(error: BaseException, section: str) -> str:
    """Say why no answer came, and which key of the configuration set the limit."""
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return f"no connection within {section}.connect_timeout_s"
    if isinstance(error, TimeoutError):
        return f"no answer within {section}.request_timeout_s"
    if isinstance(error, aiohttp.ClientConnectorError):
        return f"cannot connect ({error.os_error.strerror or error.os_error})"
    return f"cannot connect or lost the connection ({error or type(error).__name__})"
