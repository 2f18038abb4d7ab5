"""A reward server for tests: in a thread of this process, or in a process that can be killed.

Its judge is a server like vLLM's in the test, which counts what it is asked.
"""

import asyncio
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import yaml
from judging_helpers import box, shown
from scripted_plugin import content_score

from spct_plugin.server.desk import Desk
from spct_plugin.server.run import make_server
from spct_plugin.testing import FakeServer, Reply

TOKEN = "a token of 24 characters"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
FAST = {"vote": {"k": 2}, "serve": {"port": 0, "probe_s": 0.05}}


class Judge:
    """A judge that scores by content, slow or broken as a test wants it.

    Attributes:
        url: Its address, ending in /v1.
        asked: Votes asked for, by the completions shown, sorted; trials of the server left out.
        delay_s: Wait before each answer.
        may_answer: While it is not set, all answers wait.
        answer: From a body to a reply.
    """

    def __init__(self):
        self.asked = Counter()
        self.delay_s = 0.0
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.answer = self.judge

    def __call__(self, body):
        completions = shown(body["messages"][0]["content"])
        if "note to Anna about the park" not in body["messages"][0]["content"]:
            self.asked[tuple(sorted(completions))] += body["n"]
        return self.answer(body)

    def judge(self, body):
        completions = shown(body["messages"][0]["content"])
        text = box(*map(content_score, completions))
        return Reply([text] * body["n"], delay_s=self.delay_s)

    def ramble(self, body):
        """Judge with more words than the buffers of a socket hold."""
        return Reply([f"{'word ' * 10**6}{box(5)}"] * body["n"])


class JudgeServer(FakeServer):
    """Where answers can be held back."""

    async def _complete(self, request):
        response = await super()._complete(request)
        await self._answer.may_answer.wait()
        return response


@asynccontextmanager
async def judging(port=0):
    judge = Judge()
    async with JudgeServer(judge, port, keep_bodies=False) as server:
        judge.url = server.url
        yield judge


def write_config(folder, judge, **sections):
    """Write a server's configuration; sections are merged into the fast default."""
    data = {"engine": {"kind": "openai", "url": judge.url, "model": "fake", "retries": 0}, **FAST}
    for name, section in sections.items():
        both = isinstance(section, dict) and isinstance(data.get(name), dict)
        data[name] = {**data[name], **section} if both else section
    path = Path(folder) / "judge.yaml"
    path.write_text(yaml.safe_dump(data))
    return path


class Running:
    """A server in a thread of this process.

    Attributes:
        url: Where it listens.
        desk: Its inside.
    """

    def __init__(self, path, overrides=()):
        self.desk = Desk(path, overrides)
        self.server = make_server(self.desk)
        self._thread = threading.Thread(target=self.server.run, daemon=True)
        self._thread.start()

    @property
    def url(self):
        return self.server.url

    async def started(self):
        while not self.server.url:
            await asyncio.sleep(0.01)
            assert self._thread.is_alive()
        return self

    async def stop(self):
        if not self.desk.draining:
            self.server.handle_exit(signal.SIGTERM, None)
        await self.ended()

    async def ended(self):
        await asyncio.to_thread(self._thread.join, 20)
        assert not self._thread.is_alive()


class Process:
    """`spct serve` in a process of its own.

    Attributes:
        url: Where it listens.
        lines: What it logged, up to where it was read.
    """

    def __init__(self, path, *arguments, env=None):
        command = [sys.executable, "-c", "from spct_plugin.cli import main; main()"]
        self.process = subprocess.Popen(
            [*command, "serve", "-c", str(path), *arguments],
            stderr=subprocess.PIPE,
            # select sees nothing of what lies in a buffer of Python's.
            bufsize=0,
            env={**os.environ, **(env or {})},
        )
        self.lines = []
        self.url = ""
        self._rest = b""
        try:
            self.url = self.wait_for("listening")["url"]
        finally:
            if not self.url:
                self.close()

    def wait_for(self, message, seconds=40):
        """Read the log up to a message; give its line."""
        end = time.monotonic() + seconds
        while True:
            while b"\n" in self._rest:
                text, _, self._rest = self._rest.partition(b"\n")
                self.lines.append(_read(text))
                if self.lines[-1]["message"] == message:
                    return self.lines[-1]
            left = max(0.0, end - time.monotonic())
            ready, _, _ = select.select([self.process.stderr], [], [], left)
            text = os.read(self.process.stderr.fileno(), 65536) if ready and left else b""
            if not text:
                raise AssertionError(f"no {message!r} in {self.lines[-20:]}, {self._rest!r}")
            self._rest += text

    def kill(self, sig=signal.SIGKILL):
        self.process.send_signal(sig)
        if sig == signal.SIGKILL:
            self.wait()

    def wait(self, seconds=40):
        """Wait for its end, reading what it still says; give its exit code."""
        _, rest = self.process.communicate(timeout=seconds)
        self.lines += map(_read, (self._rest + rest).splitlines())
        self._rest = b""
        return self.process.returncode

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.communicate(timeout=20)
        self.process.stderr.close()


def _read(line):
    return json.loads(line) if line[:1] == b"{" else {"message": line}


async def call(url, body=None, *, method=None, data=None, **headers):
    """Ask a server once: status, headers, JSON or text."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    if data is None and body is not None:
        data = json.dumps(body).encode()
    if data is not None:
        named.setdefault("Content-Type", "application/json")
    method = method or ("GET" if data is None else "POST")
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, url, data=data, headers=named) as response,
    ):
        text = await response.text()
        is_json = response.content_type == "application/json"
        return response.status, response.headers, json.loads(text) if is_json else text


def group(*completions, prompt="Write a note.", **keys):
    return {"prompt": prompt, "completions": list(completions), **keys}


def metric(page, name):
    """Read one number of the metrics page."""
    [line] = [line for line in page.splitlines() if line.rpartition(" ")[0] == name]
    return float(line.rpartition(" ")[2])


def post(body, *, length=None, path="/v1/rewards"):
    """Give the bytes of a request, for a socket; its length may be a lie."""
    content = json.dumps(body).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Content-Length: {length or len(content)}\r\n\r\n"
    )
    return head.encode() + content


def connect(url):
    """Open a socket to a server, with little room for what it does not read."""
    host, port = url.removeprefix("http://").split(":")
    connected = socket.socket()
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connected.connect((host, int(port)))
    return connected


async def until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came true"
        await asyncio.sleep(0.01)
