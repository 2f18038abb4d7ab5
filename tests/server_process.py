"""A judge's server in a process of its own, so that tests may kill it; and the server itself.

It scores "say 7" with 7, and does wrong what it is told to: hang, reset, truncate, lie and more.
Run as a program it listens until its standard input ends, so that it never outlives the tests.
"""

import asyncio
import hashlib
import itertools
import json
import os
import random
import re
import subprocess
import sys
import urllib.request
from pathlib import Path

SHOWN = re.compile(r"Begin of Response[^\]]*\]\nsay (\d+)\n")
# How often each fault is met in chaos; the rest is answered as it should be.
CHAOS = {
    "drop": 0.04,
    "error": 0.05,
    "reset": 0.04,
    "truncate": 0.03,
    "not json": 0.02,
    "no choices": 0.02,
    "few": 0.05,
    "many": 0.03,
    "wild": 0.03,
    "wrong count": 0.02,
    "no box": 0.02,
    "abort": 0.02,
    "delay": 0.05,
    "hang": 0.003,
}

OK = b"HTTP/1.1 200 OK\r\n"
RAW = {
    "no protocol": b"\x00\xff garbage \r\n\r\n",
    "bad gzip": OK + b"Content-Encoding: gzip\r\nContent-Length: 4\r\n\r\noops",
    "truncate": OK + b'Content-Length: 999\r\n\r\n{"choices": [',
    "truncate chunks": OK + b'Transfer-Encoding: chunked\r\n\r\nff\r\n{"choices": [',
    "truncate unframed": OK + b'Connection: close\r\n\r\n{"choices": [',
}
WHOLE = {
    "error": (500, "oops"),
    "unknown model": (404, "no such model"),
    "not json": (200, "<html>bad gateway</html>"),
    "deep": (200, "[" * 200_000),
}


class ServerProcess:
    """One server: start, kill -9, start again on its port; say how it is to behave."""

    def __init__(self, log=None):
        self.port = 0
        self._log = log
        self._process = None

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def pid(self):
        return self._process.pid

    def launch(self):
        """Start the process without waiting for it; `wait` does."""
        command = [sys.executable, __file__, str(self.port), str(self._log or os.devnull)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def wait(self):
        self.port = int(self._process.stdout.readline())

    def kill(self):
        self._process.kill()
        self.close()

    def close(self):
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait(10)

    def alive(self):
        return self._process is not None and self._process.poll() is None

    def behave(self, **how):
        """Set `fault`, `delay_s`, `chaos` (a seed), `dev` (vLLM's; true, "broken" or "stuck").

        What was counted before is forgotten.
        """
        self._call("/test/behave", json.dumps(how).encode())

    def seen(self):
        """Tell what was asked since `behave`: a list of requests, and what else was counted."""
        return self._call("/test/seen")

    def _call(self, path, data=None):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", data, 10) as response:
            return json.load(response)


class Server:
    def __init__(self, log):
        self._log = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._serial = itertools.count()
        self.asleep = False
        self._behave({})

    def _behave(self, how):
        self.fault = how.get("fault")
        self.delay_s = how.get("delay_s", 0.0)
        self.chaos = random.Random(how["chaos"]) if "chaos" in how else None
        self.dev = how.get("dev", False)
        self.seen = {"requests": [], "at once": 0, "most": 0, "health": 0, "sleeps": []}

    def routes(self, web):
        return [
            web.post("/v1/chat/completions", self.complete),
            web.post("/classify", self.classify),
            web.get("/health", self.health),
            web.get("/is_sleeping", self.is_sleeping),
            web.post("/sleep", self.sleep),
            web.post("/wake_up", self.sleep),
            web.post("/test/behave", self.behave),
            web.get("/test/seen", self.tell),
        ]

    async def behave(self, request):
        self._behave(await request.json())
        return json_response({})

    async def tell(self, request):
        return json_response(self.seen)

    async def health(self, request):
        self.seen["health"] += 1
        if self.fault == "deaf":
            await asyncio.sleep(3600)
        return json_response({}, status=503 if self.fault == "ill" else 200)

    async def is_sleeping(self, request):
        return json_response({"is_sleeping": self.asleep}, status=200 if self.dev else 404)

    async def sleep(self, request):
        if not self.dev:
            return json_response({}, status=404)
        if self.dev == "stuck":
            await asyncio.sleep(3600)
        if self.dev == "broken":
            return json_response(None, status=500, text="out of\nmemory")
        self.seen["sleeps"].append([request.path_qs, self.seen["at once"]])
        self.asleep = request.path == "/sleep"
        return json_response({})

    async def complete(self, request):
        return await self._answer(request, self._completion)

    async def classify(self, request):
        return await self._answer(request, lambda body, _: {"data": [{"probs": [0.5]}]})

    async def _answer(self, request, write):
        body = await request.json()
        self.seen["requests"].append([body["messages"][0]["content"][:40], body.get("n")])
        self.seen["at once"] += 1
        self.seen["most"] = max(self.seen["most"], self.seen["at once"])
        try:
            fault = self._fault()
            self._note(fault)
            if self.asleep or fault in ("hang", "deaf"):
                await asyncio.sleep(3600)
            await asyncio.sleep(self.chaos.uniform(0, 0.3) if fault == "delay" else self.delay_s)
            return await self._send(request, body, fault, write)
        finally:
            self.seen["at once"] -= 1

    def _fault(self):
        if self.chaos is None:
            return self.fault
        faults = [*CHAOS, None]
        weights = [*CHAOS.values(), 1 - sum(CHAOS.values())]
        return self.chaos.choices(faults, weights)[0]

    async def _send(self, request, body, fault, write):
        if fault == "reset":
            request.transport.abort()
        elif fault == "drop":
            request.transport.close()
        elif fault in RAW:
            request.transport.write(RAW[fault])
            request.transport.close()
        elif fault in WHOLE:
            status, text = WHOLE[fault]
            return json_response(None, status=status, text=text)
        else:
            return await self._whole(request, body, write(body, fault))
        return json_response({})

    async def _whole(self, request, body, answer):
        """Note an answer and send it: what came anywhere is noted, whenever this is killed."""
        from aiohttp import web

        text = json.dumps(answer).encode()
        response = web.Response(body=text, content_type="application/json")
        if request.transport is not None and not request.transport.is_closing():
            asked = json.dumps([body["messages"], body.get("seed"), body.get("n")]).encode()
            self._note(None, hashlib.sha256(asked).hexdigest(), _usable(answer), _texts(answer))
            await response.prepare(request)
            await response.write_eof()
        return response

    def _note(self, fault, asked="", usable=False, texts=()):
        os.write(self._log, json.dumps([fault, asked, usable, texts]).encode() + b"\n")

    def _completion(self, body, fault):
        scores = SHOWN.findall(body["messages"][0]["content"]) or ["5"]
        n = {"few": max(1, body["n"] - 1), "many": body["n"] + 2, "no choices": 0}
        texts = [self._text(scores, fault) for _ in range(n.get(fault, body["n"]))]
        reason = "abort" if fault == "abort" else "stop"
        choices = [
            {"index": i, "message": {"content": text}, "finish_reason": reason}
            for i, text in enumerate(texts)
        ]
        wild = {"completion_tokens": -(10**9), "prompt_tokens": "many"}
        return {"choices": choices, "usage": wild if fault == "wild" else {"completion_tokens": 9}}

    def _text(self, scores, fault):
        mark = f"answer {os.getpid()}.{next(self._serial)}"
        if fault == "no box":
            return f"{mark}: I like them all."
        if fault == "wrong count":
            scores = [*scores, "5"]
        return f"{mark}\nScores: \\boxed{{{', '.join(scores)}}}"


def _texts(answer):
    return [choice["message"]["content"] for choice in answer.get("choices", ())]


def _usable(answer):
    choices = answer.get("choices", ())
    return bool(choices) and choices[0]["finish_reason"] == "stop"


def json_response(data, **options):
    from aiohttp import web

    return web.Response(text=options.pop("text", None) or json.dumps(data), **options)


async def serve(port, log):
    from aiohttp import web

    app = web.Application(client_max_size=2**26)
    app.router.add_routes(Server(log).routes(web))
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, backlog=1024).start()
    print(runner.addresses[0][1], flush=True)  # noqa: T201 who started it reads the port
    ended = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().add_reader(sys.stdin, lambda: ended.done() or ended.set_result(None))
    await ended


def start_all(servers):
    """Start those that do not run; together, as each takes most of a second."""
    started = [server for server in servers if not server.alive()]
    for server in started:
        server.launch()
    for server in started:
        server.wait()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), Path(sys.argv[2])))
