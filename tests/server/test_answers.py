"""Answers by request id: what is kept, for how long, and what another process may take away."""

import asyncio
import sqlite3
import subprocess
import sys

import pytest

from spct_plugin import StoreError
from spct_plugin.server.answers import SUFFIX, Answers, ConflictError


async def good():
    return b"good"


async def other():
    return b"other"


async def ask(answers, digest, work=other):
    """Ask under one id; give the answer, or 409."""
    try:
        return await answers.once("id", digest, work)
    except ConflictError:
        return 409


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


async def test_an_id_is_free_again_when_its_answer_is_too_old():
    answers = Answers(None, keep_s=0.1)
    assert await ask(answers, b"one", good) == b"good"
    assert await ask(answers, b"two") == 409
    await asyncio.sleep(0.15)
    assert await ask(answers, b"two") == b"other"
    answers.close()


async def test_an_id_is_free_again_on_disk_too(tmp_path):
    for digest, work, found in ((b"one", good, b"good"), (b"two", other, b"other")):
        answers = Answers(tmp_path, keep_s=0.2)
        assert await ask(answers, digest, work) == found
        if digest == b"one":
            # What is indexed at the start grows old, too.
            answers.close()
            answers = Answers(tmp_path, keep_s=0.2)
            await asyncio.sleep(0.3)
            assert await ask(answers, b"two") == b"other"
        answers.close()


async def test_after_a_restart_a_wrong_question_takes_nothing_from_the_right_one(tmp_path):
    answers = Answers(tmp_path, keep_s=100)
    assert await ask(answers, b"right", good) == b"good"
    answers.close()
    for _ in range(3):
        answers = Answers(tmp_path, keep_s=100)
        asked = [ask(answers, digest) for digest in (b"wrong", b"right", b"wrong")]
        assert await asyncio.gather(*asked) == [409, b"good", 409]
        answers.close()


async def test_what_was_read_from_disk_is_remembered(tmp_path, monkeypatch):
    answers = Answers(tmp_path, keep_s=100)
    await ask(answers, b"one", good)
    answers.close()
    answers = Answers(tmp_path, keep_s=100)
    reads = []
    read = answers._read
    monkeypatch.setattr(answers, "_read", lambda name: reads.append(name) or read(name))
    assert await asyncio.gather(*(ask(answers, b"one") for _ in range(3))) == [b"good"] * 3
    assert await ask(answers, b"one") == b"good"
    assert len(reads) <= 3
    assert (list(answers._recent), answers._bytes) == (["id"], 4)
    answers.close()


LIVES_ON = """
import asyncio, sys
from pathlib import Path
from spct_plugin.server.answers import Answers

async def main():
    answers = Answers(Path(sys.argv[1]), keep_s=100)
    for name in sys.stdin:
        await answers.once(name.strip(), b"one", good)
        print("kept", flush=True)

async def good():
    return b"good"

asyncio.run(main())
"""


async def test_the_file_of_a_live_process_stays_and_that_of_a_dead_one_goes(tmp_path):
    command = [sys.executable, "-c", LIVES_ON, str(tmp_path)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, bufsize=1) as process:

        def keep(name):
            print(name, file=process.stdin)
            assert process.stdout.readline() == "kept\n"

        keep("first")
        # Started later, with nothing left in the other's file that is young enough.
        await asyncio.sleep(0.1)
        Answers(tmp_path, keep_s=0.05).close()
        assert len([*tmp_path.glob(f"*{SUFFIX}")]) == 1
        keep("id")
        process.kill()
    answers = Answers(tmp_path, keep_s=100)
    assert await ask(answers, b"one") == b"good"
    answers.close()
    await asyncio.sleep(0.1)
    Answers(tmp_path, keep_s=0.05).close()
    assert [*tmp_path.glob("*")] == []


def not_a_file(path):
    path.mkdir()


def no_database(path):
    path.write_bytes(b"no database" * 1000)


def somebody_elses(path):
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE notes (id TEXT)")
    connection.close()


def other_columns(path):
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE answers (question TEXT)")
    connection.close()


@pytest.mark.parametrize("make", [not_a_file, no_database, somebody_elses, other_columns])
async def test_a_file_that_is_none_of_ours_is_named_at_the_start(make, tmp_path):
    path = tmp_path / f"strange{SUFFIX}"
    make(path)
    before = path.read_bytes() if path.is_file() else None
    with pytest.raises(StoreError, match=rf"{path.name}'.*; move it out of the directory$"):
        Answers(tmp_path, keep_s=100)
    assert before is None or path.read_bytes() == before


async def test_a_damaged_answer_names_its_file(tmp_path):
    answers = Answers(tmp_path, keep_s=100)
    await ask(answers, b"one", good)
    answers.close()
    [path] = tmp_path.glob(f"*{SUFFIX}")
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE answers SET body = x'00'")
    connection.close()
    answers = Answers(tmp_path, keep_s=100)
    with pytest.raises(StoreError, match=path.name):
        await ask(answers, b"one")
    answers.close()


async def test_a_file_that_is_just_being_made_is_left_alone(tmp_path):
    (tmp_path / f"new{SUFFIX}").touch()
    Answers(tmp_path, keep_s=100).close()
    assert [*tmp_path.glob("*")] == [tmp_path / f"new{SUFFIX}"]
