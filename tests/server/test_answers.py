"""Answers by request id: how long they take up memory."""

import asyncio

from spct_plugin.server.answers import Answers


async def test_what_nobody_asks_for_again_leaves_the_memory():
    answers = Answers(None, keep_s=0.05)

    async def work():
        return b"x" * 1000

    for number in range(20):
        await answers.once(f"id {number}", b"digest", work)
    await asyncio.sleep(0.1)
    await answers.once("the last", b"digest", work)
    assert list(answers._recent) == ["the last"]
    assert answers._bytes == 1000
    answers.close()
