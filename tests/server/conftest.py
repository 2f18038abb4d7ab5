"""What the server tests share: a judge that counts, and a server in front of it."""

import pytest
import pytest_asyncio
from serving import TOKEN, Running, judging, write_config


@pytest_asyncio.fixture
async def judge():
    async with judging() as found:
        yield found


@pytest_asyncio.fixture
async def serve(judge, tmp_path):
    """Start servers in this process; keyword arguments are sections of the configuration."""
    running = []

    async def start(**sections):
        server = Running(write_config(tmp_path, judge, **sections))
        running.append(server)
        return await server.started()

    yield start
    for server in running:
        await server.stop()


@pytest.fixture
def token(monkeypatch):
    """Set the server's token; give the keys of `serve` that ask for it."""
    monkeypatch.setenv("SPCT_TEST_TOKEN", TOKEN)
    return {"token_env": "SPCT_TEST_TOKEN"}
