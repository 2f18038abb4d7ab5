"""A judge's server that a test can stop, start again on the same port, and make answer anything.

judge = JudgeServer()
judge.start()
judge.answer = lambda body: Reply(status=503)
judge.stop()
"""

import asyncio
from socket import socket
from threading import Thread

from judging_helpers import box, shown
from scripted_plugin import content_score

from spct_plugin.testing import FakeServer, Reply


def completions(body):
    """Give the completions that a request shows, in its order."""
    return shown(body["messages"][0]["content"])


def judged(body):
    """Answer as a judge that scores by `content_score`, the same in every vote."""
    return Reply([box(*map(content_score, completions(body)))] * body["n"])


class JudgeServer:
    """A server like vLLM's, on a thread of its own; down until it is started.

    Attributes:
        url: Base address ending in /v1; the same for life.
        answer: From a request's JSON body to a reply.
        asked: The bodies of all requests so far.
        life: Requests after which it goes down by itself, the last of them unanswered; None = any.
    """

    def __init__(self):
        with socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self._port}/v1"
        self.answer = judged
        self.asked = []
        self.life = None
        self._server = None
        self._loop = asyncio.new_event_loop()
        self._thread = Thread(target=self._loop.run_forever, name="judge", daemon=True)
        self._thread.start()

    def start(self):
        """Listen."""
        self._server = FakeServer(self._answer, self._port, keep_bodies=False)
        self._run(self._server.__aenter__())

    def stop(self):
        """Drop what is being answered and refuse connections."""
        server, self._server = self._server, None
        if server is not None:
            self._run(self._end(server))

    def close(self):
        """Stop for good."""
        self.stop()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _end(self, server):
        await server.__aexit__()
        # Slow answers to clients that are gone.
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    def _answer(self, body):
        self.asked.append(body)
        if len(self.asked) == self.life:
            self._dying = self._loop.create_task(self._end(self._server))
            self._server = None
        # While it goes down, others that it has accepted are not answered either.
        return Reply(delay_s=60) if self._server is None else self.answer(body)

    def _run(self, coroutine):
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(10)
