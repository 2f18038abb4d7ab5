"""The process: listens, and on SIGTERM finishes what it has accepted before it ends."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import queue
import resource
import signal
import socket
import threading
import time
from types import FrameType
from typing import TYPE_CHECKING

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from spct_plugin.errors import ConfigError
from spct_plugin.server.app import make_app
from spct_plugin.server.desk import Desk
from spct_plugin.server.logs import json_on_stderr

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

log = logging.getLogger("spct_plugin.server")

# Seconds that an idle connection is kept. 75: chosen by us, longer than aiohttp's client keeps one
# (15), so that none is closed while a request is on its way.
KEEP_ALIVE_S = 75
# Longest time for the head of a request to come in, in seconds. 20: as Apache's mod_reqtimeout.
HEAD_S = 20.0
# Longest time in which a client takes nothing of its answer, in seconds. 120: chosen by us; who
# reads on later can ask again, by its request id.
UNREAD_S = 120.0
# Of the files that the process may open, what connections may be before quiet ones are closed.
# Half: chosen by us; the others are for engines, the store and requests under way.
SHARE_OF_FILES = 0.5
# And their number at most. 8192: chosen by us, about twice as many as wait by default.
MOST_CONNECTIONS = 8192
# Seconds after serve.drain_s to close files and connections. 1: chosen by us; nothing that was
# answered depends on it.
LAST_S = 1.0
# Of a process that a signal ended before all was answered: this and the signal's number, as shells
# report one that was killed. 143 for SIGTERM.
KILLED = 128


class Connection(H11Protocol):
    """uvicorn's connection, which by itself would wait for ever for a request and for a reader.

    uvicorn's limit_concurrency is no help: it answers 503 once so many connections are open, quiet
    ones as well, and closes none of them.
    """

    _quiet_since: float = 0.0
    _head_timer: asyncio.TimerHandle | None = None

    @property
    def is_quiet(self) -> bool:
        """Whether it is open, and nothing is under way on it, as far as is known."""
        busy = self._is_asked or self.transport.get_write_buffer_size()
        return not (busy or self.transport.is_closing())

    @property
    def _is_asked(self) -> bool:
        return bool(self.cycle) and not self.cycle.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Begin to wait for a request."""
        super().connection_made(transport)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            milliseconds = round(UNREAD_S * 1000)
            connected: socket.socket = transport.get_extra_info("socket")
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)
        self._quiet_since = self.loop.time()
        self._time_head()
        self._make_room()

    def data_received(self, data: bytes) -> None:
        """Take what came, which may be a whole head or not."""
        super().data_received(data)
        self._time_head()

    def on_response_complete(self) -> None:
        """Be quiet again."""
        self._quiet_since = self.loop.time()
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no longer."""
        self._stop_timing()
        super().connection_lost(exc)

    def _time_head(self) -> None:
        """Wait for a head, whose time does not begin anew with each byte of it."""
        if self._is_asked:
            self._stop_timing()
        elif self._head_timer is None:
            self._head_timer = self.loop.call_later(HEAD_S, self.timeout_keep_alive_handler)

    def _stop_timing(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _make_room(self) -> None:
        """Close what has been quiet for the longest time, when there are too many."""
        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if len(self.connections) <= min(MOST_CONNECTIONS, files * SHARE_OF_FILES):
            return
        others = self.connections - {self}
        quiet = [one for one in others if isinstance(one, Connection) and one.is_quiet]
        if quiet:
            min(quiet, key=lambda one: one._quiet_since).timeout_keep_alive_handler()


class DrainingServer(uvicorn.Server):
    """A uvicorn server that goes on answering, new groups with 503, until accepted ones are done.

    Ends when their answers are delivered, at serve.drain_s after the first signal, or at the second
    one.

    Attributes:
        url: Where it listens; "" until it does.
        signals: Those that came, for one reader.
    """

    def __init__(self, config: uvicorn.Config, desk: Desk) -> None:
        super().__init__(config)
        self._desk = desk
        self._end_at = 0.0
        self._signal = 0
        self._ending: asyncio.TimerHandle | None = None
        self.url = ""
        # The one queue that a signal handler may use.
        self.signals: queue.SimpleQueue[int] = queue.SimpleQueue()

    @property
    def exit_code(self) -> int:
        """0, or what tells that something accepted may not have been answered."""
        return KILLED + self._signal if self.force_exit else 0

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to end. Runs as a signal handler, which must not wait for a lock."""
        self._signal = sig
        if self._desk.draining:
            self.should_exit = self.force_exit = True
        else:
            self._end_at = time.monotonic() + self._desk.config.serve.drain_s
            self._desk.draining = True
        self.signals.put(sig)

    async def on_tick(self, counter: int) -> bool:
        """Look, ten times a second, whether it is time to end."""
        if self._desk.draining:
            if self._ending is None:
                self._begin_to_end()
            self.should_exit = self.should_exit or self._desk.is_idle
        return await super().on_tick(counter)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and say where."""
        await super().startup(sockets)
        if self.started:
            host, port = self.servers[0].sockets[0].getsockname()[:2]
            self.url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
            log.info("listening", extra={"spct": {"url": self.url, "version": self._desk.version}})

    def _begin_to_end(self) -> None:
        waited_for = {
            "groups": self._desk.unfinished,
            "at_most_s": self._desk.config.serve.drain_s,
        }
        log.info("draining", extra={"spct": waited_for})
        # Not looked at by on_tick: while uvicorn waits for connections, it does not call that.
        left_s = self._end_at - time.monotonic()
        self._ending = asyncio.get_running_loop().call_later(left_s, self._give_up)

    def _give_up(self) -> None:
        log.error("ending with groups or connections in work: serve.drain_s has passed")
        self.should_exit = self.force_exit = True
        for connection in self.server_state.connections:
            if isinstance(connection, Connection):
                connection.transport.abort()


def make_server(desk: Desk) -> DrainingServer:
    """Make the server; its `run` serves until it is told to end.

    Raises:
        ConfigError: The token's environment variable is not set.
    """
    settings = desk.config.serve
    config = uvicorn.Config(
        _ended_by_cancelling(make_app(desk)),
        host=settings.host,
        port=settings.port,
        http=Connection,
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        lifespan="on",
        timeout_keep_alive=KEEP_ALIVE_S,
    )
    return DrainingServer(config, desk)


def _ended_by_cancelling(app: ASGIApp) -> ASGIApp:
    """End what is cancelled quietly: it was given up, and uvicorn would log it with a traceback."""

    async def ended(scope: Scope, receive: Receive, send: Send) -> None:
        async def receive_or_end() -> Message:
            try:
                return await receive()
            except asyncio.CancelledError:
                return {"type": "lifespan.shutdown"}

        if scope["type"] == "lifespan":
            await app(scope, receive_or_end, send)
        else:
            with contextlib.suppress(asyncio.CancelledError):
                await app(scope, receive, send)

    return ended


def listen(host: str, port: int) -> list[socket.socket]:
    """Listen on all addresses of a host; uvicorn would tell late, in several lines, that it cannot.

    Raises:
        ConfigError: Nothing can listen there.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        return [socket.create_server(at[:2], family=family) for family, _, _, _, at in found]
    except OSError as error:
        # Without the address, which `socket` writes behind it.
        why = (error.strerror or str(error)).partition(" (")[0]
        raise ConfigError(
            f"serve.host, serve.port: cannot listen on {host} port {port}: {why}; choose another "
            "with --host or --port, or stop what listens"
        ) from None


def serve(desk: Desk) -> int:
    """Serve until SIGTERM or SIGINT, and log to stderr. For the main thread of its own process.

    Returns:
        The exit code: 0 when all that was accepted was answered, and else 128 and the signal's
        number. A process that does not end by then, whatever holds it, is ended with that.

    Raises:
        ConfigError: The token's environment variable is not set, or nothing can listen there.
    """
    server = make_server(desk)
    sockets = listen(desk.config.serve.host, desk.config.serve.port)
    for sig in (signal.SIGTERM, signal.SIGINT):
        # Not given back, as a second one must end what still has threads to wait for, too.
        signal.signal(sig, server.handle_exit)
    with contextlib.ExitStack() as last_lines:
        last_lines.enter_context(json_on_stderr())
        latest_s = desk.config.serve.drain_s + LAST_S
        threading.Thread(
            target=_end_in_time, args=(server.signals, latest_s, last_lines), daemon=True
        ).start()
        server.run(sockets)
    return server.exit_code


def _end_in_time(
    signals: queue.SimpleQueue[int], latest_s: float, last_lines: contextlib.ExitStack
) -> None:
    """End the process at the second signal, or that long after the first one.

    Like kill -9: what was answered is on disk by then. Nothing gentler ends a thread or the wait
    for a client.
    """
    sig = signals.get()
    why = "threads or files in use"
    with contextlib.suppress(queue.Empty):
        sig = signals.get(timeout=latest_s)
        why = "a second signal"
    log.error("ending at once: %s", why)
    last_lines.close()
    os._exit(KILLED + sig)
