"""The pool with a real vLLM on the CPU: it judges, scores, is sent to sleep, and is killed."""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from importlib.util import find_spec
from pathlib import Path

import pytest
from server_process import ServerProcess, start_all

from spct_plugin import Judgement, JudgeTask, RewardModel, SPCTConfig
from spct_plugin.engines import Request, Sampling, watch
from spct_plugin.engines.builtin import OpenAIConfig
from spct_plugin.failures import JUDGE_FAILURES
from spct_plugin.meta_rm.builtin import ClassifyConfig, TransformersMetaConfig
from spct_plugin.plugins import load_plugins
from spct_plugin.templates import load_meta_template

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(find_spec("vllm") is None, reason="needs vLLM: make setup-vllm"),
]
MODELS = Path(__file__).parents[2] / "spct_plugin/tiny/models"
START_S = 300


def call(root, path, data=None, within_s=30):
    with urllib.request.urlopen(f"{root}{path}", data, within_s) as response:
        return response.status


@contextlib.contextmanager
def serving(model, folder, *more):
    """Serve one of the tiny models; give the root of its address and its process."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    log = folder / "log.txt"
    # Chunked prefill with seeds crashes vLLM on a CPU (CPU Generator does not use offset).
    flags = "--dtype float32 --max-model-len 1024 --enforce-eager --no-enable-chunked-prefill"
    command = [
        *(sys.executable, "-m", "vllm.entrypoints.openai.api_server"),
        *("--model", str(MODELS / model), "--served-model-name", model, *flags.split(), *more),
        *("--host", "127.0.0.1", "--port", str(port)),
    ]
    settings = {
        "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_SERVER_DEV_MODE": "1", "OMP_NUM_THREADS": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_NO_USAGE_STATS": "1",
    }  # fmt: skip
    with log.open("w") as output:
        # In a group of its own: the engine's processes outlive a server that is killed.
        process = subprocess.Popen(
            command, env=os.environ | settings, stdout=output, stderr=output, start_new_session=True
        )
    root = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline and process.poll() is None:
            with contextlib.suppress(OSError):
                call(root, "/health")
                break
            time.sleep(1)
        else:
            pytest.fail(f"vLLM did not start: {log.read_text()[-3000:]}")
        yield root, process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(30)


@pytest.fixture(scope="module")
def vllm(tmp_path_factory):
    with serving("grm", tmp_path_factory.mktemp("vllm")) as started:
        yield started


@pytest.fixture
def other():
    """Start a server beside it that answers whatever it is asked."""
    server = ServerProcess()
    start_all([server])
    server.behave(delay_s=0.3)
    yield server
    server.kill()


async def test_it_judges_and_sleeps_when_told(vllm):
    root, _ = vllm
    engine = OpenAIConfig(url=[f"{root}/v1", "http://127.0.0.1:9/v1"], model="grm").build()
    config = {"template": {"name": "tiny"}, "vote": {"k": 4}, "reward": {"breaker": {"judge": 1}}}
    model = RewardModel(SPCTConfig.model_validate(config), engine=engine)
    tasks = [
        JudgeTask(f"Write a note to Anna in {i} words.", ["Dear Anna, hello.", "no"])
        for i in range(12)
    ]
    async with contextlib.aclosing(model), asyncio.timeout(180):
        groups = await model.score(tasks)
        await engine.sleep(f"{root}/v1")
        assert [state.state for state in engine.pool.states()] == ["asleep", "open"]
        engine.pool.remove("http://127.0.0.1:9/v1")
        asleep = asyncio.create_task(model.score(tasks))
        await asyncio.sleep(3)
        assert not asleep.done()
        await engine.wake(f"{root}/v1")
        groups += await asleep
    for group in groups:
        assert set(group.failures) <= set(JUDGE_FAILURES)
        assert group.votes[0] + sum(group.failures.values()) == 4
    assert sum(group.votes[0] for group in groups) > 0


async def test_sent_to_sleep_by_somebody_else_and_killed_it_loses_nothing(vllm, other, monkeypatch):
    root, process = vllm
    monkeypatch.setattr(watch, "CHECK_EVERY_S", 0.5)
    engine = OpenAIConfig(url=[f"{root}/v1", other.url], model="grm").build()
    sampling = Sampling(temperature=0.5, top_p=1.0, max_tokens=300)

    async def ask(count, meanwhile=None):
        requests = [
            Request(f"judge number {i} " * 20, (0, 1, 2, 3), sampling, seed=i) for i in range(count)
        ]
        asking = asyncio.gather(*(engine.generate(request) for request in requests))
        await asyncio.sleep(0.3)
        if meanwhile is not None:
            await asyncio.to_thread(meanwhile)
        answers = await asking
        assert all(1 <= len(choices) <= 4 for choices in answers)
        reasons = {choice.finish_reason for choices in answers for choice in choices}
        assert reasons <= {"stop", "length"}

    def states():
        return [state.state for state in engine.pool.states()]

    async with contextlib.aclosing(engine), asyncio.timeout(180):
        await ask(20)
        await ask(40, lambda: call(root, "/sleep?level=1", b""))
        await ask(10)
        assert states() == ["asleep", "up"]
        call(root, "/wake_up", b"")
        while states() != ["up", "up"]:
            await ask(2)
        answered = engine.pool.states()[0].answers
        await ask(20)
        assert engine.pool.states()[0].answers > answered
        await ask(60, lambda: os.kill(process.pid, signal.SIGKILL))
        await ask(10)
        assert states() == ["open", "up"]


async def test_a_meta_rm_behind_it_scores_as_transformers_does(tmp_path):
    task = JudgeTask("Write a note to Anna.", ["Dear Anna, hello.", "no"])
    said = [
        Judgement((0, 1), (1, 0), (7, 3), text=f"Analysis: {i} is fine. \\boxed{{{i}, 3}}", vote=i)
        for i in range(1, 9)
    ]
    template = load_meta_template("tiny", load_plugins().templates)
    here = TransformersMetaConfig(model="tiny", device="cpu").build(template)
    with serving("meta_rm", tmp_path, "--runner", "pooling") as (root, _):
        # One of the two is gone: what it was asked is asked of the other.
        there = ClassifyConfig(url=(root, "http://127.0.0.1:9"), model="meta_rm").build(template)
        scores = await there.score(task, said)
        await there.aclose()
    assert scores == pytest.approx(await here.score(task, said), abs=1e-3)
