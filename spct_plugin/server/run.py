"""The process: listens, and on SIGTERM finishes what it has accepted before it ends."""

from __future__ import annotations

import logging
import socket
import time
from types import FrameType

import uvicorn

from spct_plugin.server.app import make_app
from spct_plugin.server.desk import Desk
from spct_plugin.server.logs import json_on_stderr

log = logging.getLogger("spct_plugin.server")

# Seconds that an idle connection is kept. 75: chosen by us, longer than aiohttp's client keeps one
# (15), so that none is closed while a request is on its way.
KEEP_ALIVE_S = 75


class DrainingServer(uvicorn.Server):
    """A uvicorn server that goes on answering, new groups with 503, until accepted ones are done.

    The second signal ends it at once.

    Attributes:
        url: Where it listens; "" until it does.
    """

    def __init__(self, config: uvicorn.Config, desk: Desk) -> None:
        super().__init__(config)
        self._desk = desk
        self._end_at = 0.0
        self.url = ""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to end. Runs as a signal handler."""
        if self._desk.draining:
            self.should_exit = self.force_exit = True
        self._desk.draining = True
        self._end_at = time.monotonic() + self._desk.config.serve.drain_s

    async def on_tick(self, counter: int) -> bool:
        """Look, ten times a second, whether it is time to end."""
        if self._desk.draining and (self._desk.is_idle or time.monotonic() > self._end_at):
            if not self._desk.is_idle:
                log.error("ending with groups in work: serve.drain_s has passed")
                self.force_exit = True
            self.should_exit = True
        return await super().on_tick(counter)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and say where."""
        await super().startup(sockets)
        if self.started:
            host, port = self.servers[0].sockets[0].getsockname()[:2]
            self.url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
            log.info("listening", extra={"spct": {"url": self.url, "version": self._desk.version}})


def make_server(desk: Desk) -> DrainingServer:
    """Make the server; its `run` serves until it is told to end.

    Raises:
        ConfigError: The token's environment variable is not set.
    """
    settings = desk.config.serve
    config = uvicorn.Config(
        make_app(desk),
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        lifespan="on",
        timeout_keep_alive=KEEP_ALIVE_S,
    )
    return DrainingServer(config, desk)


def serve(desk: Desk) -> None:
    """Serve until SIGTERM or SIGINT, and log to stderr.

    Raises:
        ConfigError: The token's environment variable is not set.
    """
    server = make_server(desk)
    with json_on_stderr():
        server.run()
