"""Structured logs: one JSON object per line on stderr, with the request's id where there is one.

Lines are written by a thread of their own, and left out when nobody reads them: a full pipe must
not stop the server.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import queue
import threading
import time
from collections.abc import Generator
from contextvars import ContextVar

# Lines that may wait to be written. 10,000: chosen by us, some MB.
WAITING = 10_000
# Longest wait for them at the end, in seconds; chosen by us.
LAST_LINES_S = 2.0

request_id: ContextVar[str] = ContextVar("request_id", default="")
"""Of the request that is being answered; also seen by what is judged for it."""


class JSONLines(logging.Formatter):
    """One JSON object per record; more keys come from `extra={"spct": {...}}`."""

    def format(self, record: logging.LogRecord) -> str:
        """Write one line."""
        second = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line = {
            "time": f"{second}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if request_id.get():
            line["request_id"] = request_id.get()
        line |= getattr(record, "spct", {})
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class _Waiting(logging.Handler):
    """Puts lines where the writer takes them from, and never waits for it."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: queue.Queue[str] = queue.Queue(WAITING)

    def emit(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(queue.Full):
            self.lines.put_nowait(self.format(record))


@contextlib.contextmanager
def json_on_stderr() -> Generator[None]:
    """Send what this process logs to stderr, Python's warnings too."""
    handler = _Waiting()
    handler.setFormatter(JSONLines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    logging.captureWarnings(True)
    threading.Thread(target=_write_forever, args=(handler.lines,), daemon=True).start()
    try:
        yield
    finally:
        end = time.monotonic() + LAST_LINES_S
        while handler.lines.unfinished_tasks and time.monotonic() < end:
            time.sleep(0.01)


def _write_forever(lines: queue.Queue[str]) -> None:
    while True:
        # Past Python's own buffer, whose lock a stuck write would hold at the end of the process.
        rest = f"{lines.get()}\n".encode()
        with contextlib.suppress(OSError):
            while rest:
                rest = rest[os.write(2, rest) :]
        lines.task_done()
