"""Votes on disk: found again, by other processes too, private, and one clear error when damaged."""

import asyncio
import gc
import os
import sqlite3
import stat
import subprocess
import sys
import threading
import time
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spct_plugin import StoreError
from spct_plugin.engines import Choice
from spct_plugin.store import Store, read_groups

KEYS = [bytes([i]) * 32 for i in range(8)]
CHOICE = Choice("Scores: \\boxed{7, 3}", "stop", 12)


@pytest.fixture
def store(tmp_path):
    opened = Store(tmp_path / "store")
    yield opened
    opened.close()


def reopened(store):
    store.close()
    return Store(store.directory)


async def test_what_is_kept_is_found(store):
    assert await store.find({0: KEYS[0]}) == {}
    await store.keep({KEYS[0]: CHOICE, KEYS[1]: Choice("", "length", 0)})
    assert await store.find({4: KEYS[0], 5: KEYS[1], 6: KEYS[2]}) == {
        4: CHOICE,
        5: Choice("", "length", 0),
    }


async def test_what_is_kept_is_found_after_closing_and_reopening(store):
    await store.keep({KEYS[0]: CHOICE})
    again = reopened(store)
    assert await again.find({0: KEYS[0]}) == {0: CHOICE}
    again.close()


async def test_a_closed_store_opens_itself_again(store):
    await store.keep({KEYS[0]: CHOICE})
    store.close()
    await store.keep({KEYS[1]: CHOICE})
    assert await store.find({0: KEYS[0], 1: KEYS[1]}) == {0: CHOICE, 1: CHOICE}
    store.close()
    store.close()


async def test_a_closed_store_learns_what_others_kept_meanwhile(store):
    assert await store.find({0: KEYS[0]}) == {}
    store.close()
    other = Store(store.directory)
    await other.keep({KEYS[0]: CHOICE})
    other.close()
    assert await store.find({0: KEYS[0]}) == {0: CHOICE}


def test_closing_while_others_keep_never_hangs(store):
    started, stop = threading.Event(), threading.Event()

    async def keep():
        while not stop.is_set():
            await store.keep({os.urandom(32): CHOICE})
            await store.find({0: KEYS[0]})
            started.set()

    def close():
        started.wait()
        for _ in range(200):
            store.close()
            time.sleep(0.001)
        stop.set()

    keeping = threading.Thread(target=lambda: asyncio.run(keep()), daemon=True)
    closing = threading.Thread(target=close, daemon=True)
    keeping.start()
    closing.start()
    closing.join(timeout=10)
    stop.set()
    keeping.join(timeout=10)
    assert not closing.is_alive()
    assert not keeping.is_alive()


async def test_the_first_choice_of_a_key_stays(store):
    await store.keep({KEYS[0]: CHOICE})
    await store.keep({KEYS[0]: Choice("another")})
    assert await store.find({0: KEYS[0]}) == {0: CHOICE}


async def test_nothing_to_keep_opens_no_file(store):
    await store.keep({})
    assert [path.name for path in store.directory.iterdir()] == ["secret"]


async def test_two_stores_in_one_directory_see_each_other_after_reopening(tmp_path):
    one, two = Store(tmp_path), Store(tmp_path)
    await one.keep({KEYS[0]: CHOICE})
    await two.keep({KEYS[1]: CHOICE})
    assert one.secret == two.secret
    one, two = reopened(one), reopened(two)
    wanted = {0: KEYS[0], 1: KEYS[1]}
    for store in (one, two):
        assert await store.find(wanted) == {0: CHOICE, 1: CHOICE}
        store.close()
    assert len(list(tmp_path.glob("*.sqlite"))) == 2


async def test_what_another_process_finished_before_the_first_look_is_found(tmp_path):
    one, two = Store(tmp_path), Store(tmp_path)
    await one.keep({KEYS[0]: CHOICE})
    assert await two.find({0: KEYS[0]}) == {0: CHOICE}
    one.close()
    two.close()


async def test_many_at_once_are_all_kept(store):
    keys = [os.urandom(32) for _ in range(300)]
    await asyncio.gather(*(store.keep({key: Choice(key.hex())}) for key in keys))
    again = reopened(store)
    found = await again.find(dict(enumerate(keys)))
    assert {i: choice.text for i, choice in found.items()} == {
        i: key.hex() for i, key in enumerate(keys)
    }
    again.close()


def test_several_event_loops_share_a_store(store):
    async def keep_and_find(i):
        await store.keep({KEYS[i]: CHOICE})
        return await store.find({0: KEYS[0], i: KEYS[i]})

    assert asyncio.run(keep_and_find(0)) == {0: CHOICE}
    found = {}
    threads = [
        threading.Thread(target=lambda i=i: found.update({i: asyncio.run(keep_and_find(i))}))
        for i in range(1, 5)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {i: {0: CHOICE, i: CHOICE} for i in range(1, 5)}


@settings(max_examples=25)
@given(st.text(), st.none() | st.text(max_size=5), st.integers(0, 2**62))
def test_any_answer_comes_back_as_it_was(tmp_path_factory, text, finish_reason, tokens):
    async def there_and_back():
        store = Store(tmp_path_factory.mktemp("store"))
        await store.keep({KEYS[0]: Choice(text, finish_reason, tokens)})
        again = reopened(store)
        found = await again.find({0: KEYS[0]})
        again.close()
        return found

    assert asyncio.run(there_and_back()) == {0: Choice(text, finish_reason, tokens)}


async def test_a_megabyte_with_zeros_comes_back_as_it_was(store):
    choice = Choice("\0🙂\r\n" * 200_000, "stop", 1)
    await store.keep({KEYS[0]: choice})
    again = reopened(store)
    assert await again.find({0: KEYS[0]}) == {0: choice}
    again.close()


async def test_an_answer_that_cannot_be_encoded_does_not_stop_the_writer(store):
    await asyncio.wait_for(store.keep({KEYS[0]: Choice("a\ud800b")}), timeout=5)
    await asyncio.wait_for(store.keep({KEYS[1]: CHOICE}), timeout=5)
    assert await store.find({1: KEYS[1]}) == {1: CHOICE}


async def test_a_record_that_is_no_json_does_not_stop_the_writer(store):
    store.keep_group({"judgements": [], "metadata": {1, 2}})
    await asyncio.wait_for(store.keep({KEYS[1]: CHOICE}), timeout=5)
    assert await store.find({1: KEYS[1]}) == {1: CHOICE}


def test_the_secret_is_stable_per_directory_and_differs_between_them(tmp_path):
    a, again, b = Store(tmp_path / "a"), Store(tmp_path / "a"), Store(tmp_path / "b")
    assert a.secret == again.secret
    assert len(a.secret) == 32
    assert a.secret != b.secret
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["secret"]


def test_a_damaged_secret_is_one_clear_error(tmp_path):
    (tmp_path / "secret").write_bytes(b"")
    with pytest.raises(StoreError, match="secret"):
        Store(tmp_path)


def test_processes_that_start_at_once_agree_on_the_secret(tmp_path):
    script = (
        "import sys; from pathlib import Path; from spct_plugin.store import Store; "
        "print(Store(Path(sys.argv[1])).secret.hex())"
    )
    running = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(tmp_path / "new")],
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    assert len({process.communicate(timeout=60)[0] for process in running}) == 1


async def test_everything_is_readable_by_its_owner_only(tmp_path):
    old = os.umask(0)
    try:
        store = Store(tmp_path / "store")
        await store.keep({KEYS[0]: CHOICE})
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in store.directory.iterdir()}
        store.close()
    finally:
        os.umask(old)
    assert len(modes) >= 2
    assert set(modes.values()) == {0o600}
    assert stat.S_IMODE((tmp_path / "store").stat().st_mode) == 0o700


async def test_groups_of_all_processes_come_by_time_with_their_texts(tmp_path):
    one, two = Store(tmp_path), Store(tmp_path)
    await one.keep({KEYS[0]: CHOICE})
    for step, store in enumerate((one, two, one)):
        key = KEYS[0].hex() if step != 1 else "unknown"
        store.keep_group({"step": step, "judgements": [{"key": key}]})
        store.close()
    groups = list(read_groups(tmp_path))
    assert [group["step"] for group in groups] == [0, 1, 2]
    assert [group["judgements"][0]["text"] for group in groups] == [CHOICE.text, "", CHOICE.text]
    assert groups[0]["created"] <= groups[1]["created"] <= groups[2]["created"]


async def test_records_of_the_same_moment_are_no_problem(tmp_path, monkeypatch):
    monkeypatch.setattr("spct_plugin.store.thread.time.time", lambda: 1.0)
    store = Store(tmp_path)
    for step in range(12):
        store.keep_group({"step": step, "judgements": []})
    store.close()
    assert [group["step"] for group in read_groups(store.directory)] == list(range(12))


def test_an_empty_store_has_no_groups(store):
    assert list(read_groups(store.directory)) == []


def damaged(folder, content):
    folder.mkdir(exist_ok=True)
    (folder / "damaged.sqlite").write_bytes(content)


DAMAGE = {
    "no database": b"this is no database at all" * 100,
    "a cut header": b"SQLite format 3\0",
    "zeros": bytes(8192),
}


@pytest.mark.parametrize("content", DAMAGE.values(), ids=DAMAGE.keys())
async def test_a_damaged_file_is_one_clear_error_that_names_it(tmp_path, content):
    damaged(tmp_path / "store", content)
    store = Store(tmp_path / "store")
    for _ in range(2):
        with pytest.raises(StoreError, match=r"damaged\.sqlite' cannot be read .*move it out"):
            await store.find({0: KEYS[0]})
    with pytest.raises(StoreError, match=r"damaged\.sqlite' cannot be read .*move it out"):
        list(read_groups(store.directory))
    (store.directory / "damaged.sqlite").unlink()
    assert await store.find({0: KEYS[0]}) == {}
    store.close()


def damage_last_pages(path, whole_pages):
    with path.open("r+b") as file:
        file.seek(whole_pages * 4096)
        file.write(os.urandom(path.stat().st_size - whole_pages * 4096))


async def test_a_file_damaged_behind_its_votes_is_one_clear_error(store):
    await store.keep({KEYS[0]: CHOICE})
    for _ in range(20):
        store.keep_group({"judgements": [], "padding": "x" * 2000})
    store.close()
    [path] = store.directory.glob("*.sqlite")
    damage_last_pages(path, 5)
    assert await store.find({0: KEYS[0]}) == {0: CHOICE}
    with pytest.raises(StoreError, match=r"\.sqlite' cannot be read .*move it out"):
        list(read_groups(store.directory))


async def test_a_file_that_is_damaged_while_it_is_read_is_one_clear_error(tmp_path):
    other, store = Store(tmp_path), Store(tmp_path)
    keys = [bytes([i]) * 32 for i in range(200)]
    await other.keep({key: Choice("x" * 500) for key in keys})
    other.close()
    assert len(await store.find({0: keys[0]})) == 1
    [path] = tmp_path.glob("*.sqlite")
    damage_last_pages(path, 8)
    with pytest.raises(StoreError, match=r"\.sqlite' cannot be read"):
        await store.find(dict(enumerate(keys)))
    store.close()


async def test_many_who_look_at_once_all_find_theirs(tmp_path):
    other, store = Store(tmp_path), Store(tmp_path)
    await other.keep(dict.fromkeys(KEYS, CHOICE))
    found = await asyncio.gather(*(store.find({0: key}) for key in KEYS))
    assert found == [{0: CHOICE}] * len(KEYS)
    other.close()
    store.close()


async def test_a_file_that_vanished_meanwhile_is_one_clear_error(tmp_path, monkeypatch):
    monkeypatch.setattr("spct_plugin.store.reader.MAX_OPEN", 0)
    other, store = Store(tmp_path), Store(tmp_path)
    await other.keep({KEYS[0]: CHOICE})
    other.close()
    assert await store.find({0: KEYS[0]}) == {0: CHOICE}
    for path in tmp_path.glob("*.sqlite*"):
        path.unlink()
    with pytest.raises(StoreError, match=r"\.sqlite' cannot be read"):
        await store.find({0: KEYS[0]})
    assert not list(tmp_path.glob("*.sqlite"))
    assert await store.find({0: KEYS[0]}) == {}
    store.close()


@pytest.mark.parametrize("open_at_once", [0, 2, 9])
async def test_however_many_files_there_are_all_are_read(tmp_path, monkeypatch, open_at_once):
    monkeypatch.setattr("spct_plugin.store.reader.MAX_OPEN", open_at_once)
    for number, key in enumerate(KEYS):
        other = Store(tmp_path)
        await other.keep({key: Choice(str(number))})
        other.close()
    store = Store(tmp_path)
    own = b"own" * 8
    await store.keep({own: CHOICE})
    expected = {n: Choice(str(n)) for n in range(len(KEYS))} | {99: CHOICE}
    for _ in range(2):
        assert await store.find(dict(enumerate(KEYS)) | {99: own}) == expected
    descriptors = len(os.listdir("/proc/self/fd"))
    store.close()
    # The own file is open to write and to read; three for each that stays open.
    assert descriptors - len(os.listdir("/proc/self/fd")) <= 6 + 3 * open_at_once


async def test_more_keys_than_one_query_may_have(store):
    keys = [os.urandom(32) for _ in range(40_000)]
    kept = {key: Choice(key.hex()) for key in keys[::2]}
    await store.keep(kept)
    found = await store.find(dict(enumerate(keys)))
    assert found == {number: kept[key] for number, key in enumerate(keys) if key in kept}


async def test_what_is_kept_costs_no_memory(store):
    async def keep(rows):
        await store.keep({os.urandom(32): Choice("x" * 50) for _ in range(rows)})
        await store.find({0: KEYS[0]})

    await keep(5000)
    tracemalloc.start()
    await keep(5000)
    gc.collect()
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    # An index would hold 100 bytes a row.
    assert held < 100_000


@pytest.mark.parametrize("made", ["the file", "its header"])
async def test_a_file_that_another_process_is_just_making_is_an_empty_one(tmp_path, made):
    damaged(tmp_path, b"")
    if made == "its header":
        connection = sqlite3.connect(tmp_path / "damaged.sqlite")
        connection.execute("PRAGMA journal_mode=WAL")
        connection.close()
    store = Store(tmp_path)
    assert await store.find({0: KEYS[0]}) == {}
    assert list(read_groups(store.directory)) == []
    store.close()


async def test_votes_survive_a_kill_of_the_process_that_kept_them(tmp_path):
    script = (
        "import asyncio, os, signal, sys\n"
        "from pathlib import Path\n"
        "from spct_plugin.engines import Choice\n"
        "from spct_plugin.store import Store\n"
        "async def main():\n"
        "    store = Store(Path(sys.argv[1]))\n"
        "    await store.keep({bytes(32): Choice('kept', 'stop', 3)})\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "asyncio.run(main())\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], timeout=60, check=False)
    assert done.returncode == -9
    store = Store(tmp_path)
    assert await store.find({0: bytes(32)}) == {0: Choice("kept", "stop", 3)}
    store.close()


def test_a_process_that_ends_without_closing_writes_what_is_queued(tmp_path):
    script = (
        "import sys\n"
        "from pathlib import Path\n"
        "from spct_plugin.store import Store\n"
        "Store(Path(sys.argv[1])).keep_group({'judgements': [], 'step': 5})\n"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], timeout=60, check=True)
    assert [group["step"] for group in read_groups(tmp_path)] == [5]


def test_a_directory_that_cannot_be_used_is_refused(tmp_path):
    (tmp_path / "file").write_text("x", encoding="utf-8")
    for path in (tmp_path / "file", tmp_path / "file" / "inside"):
        with pytest.raises(StoreError, match=r"store\.path: cannot use"):
            Store(path)


async def test_votes_that_cannot_be_written_are_an_error_and_later_ones_go_on(store, monkeypatch):
    def full(connection, batch):
        raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as patched:
        patched.setattr("spct_plugin.store.thread._commit", full)
        with pytest.raises(StoreError, match=r"cannot write .*disk is full"):
            await store.keep({KEYS[0]: CHOICE})
    assert await store.find({0: KEYS[0]}) == {}
    await store.keep({KEYS[1]: CHOICE})
    assert await store.find({0: KEYS[0], 1: KEYS[1]}) == {1: CHOICE}


async def test_a_batch_that_fails_half_way_leaves_nothing_behind(store):
    await store.keep({KEYS[0]: CHOICE})
    bad = {KEYS[1]: CHOICE, KEYS[2]: Choice("x", "stop", [1])}
    with pytest.raises(StoreError, match="cannot write"):
        await store.keep(bad)
    again = reopened(store)
    assert await again.find(dict(enumerate(KEYS[:3]))) == {0: CHOICE}
    again.close()


@pytest.mark.parametrize("bad", [2**70, [1], "\ud800"], ids=repr)
async def test_a_row_that_cannot_be_written_fails_alone(store, bad):
    """An int beyond SQLite's, what is no value, half a character: each fails in another way."""
    reason = bad if isinstance(bad, str) else "stop"
    tokens = 1 if isinstance(bad, str) else bad
    writes = [store.keep({key: CHOICE}) for key in KEYS[1:4]]
    told = await asyncio.gather(
        store.keep({KEYS[0]: Choice("x", reason, tokens)}), *writes, return_exceptions=True
    )
    assert isinstance(told[0], StoreError)
    assert told[1:] == [None] * 3
    await store.keep({KEYS[4]: CHOICE})
    assert await store.find(dict(enumerate(KEYS))) == dict.fromkeys(range(1, 5), CHOICE)


async def test_a_waiter_that_was_cancelled_is_no_problem(store):
    waiting = asyncio.create_task(store.keep({KEYS[0]: CHOICE}))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    await store.keep({KEYS[1]: CHOICE})
    assert await store.find({1: KEYS[1]}) == {1: CHOICE}


async def test_a_file_system_that_fails_hangs_nobody(store, monkeypatch):
    def stale(directory):
        raise OSError(116, "Stale file handle")

    await store.keep({KEYS[0]: CHOICE})
    with monkeypatch.context() as patched:
        patched.setattr("spct_plugin.store.reader.paths", stale)
        with pytest.raises(StoreError, match=r"cannot read: .*Stale file handle"):
            await asyncio.wait_for(store.find({0: KEYS[0]}), timeout=5)
    assert await asyncio.wait_for(store.find({0: KEYS[0]}), timeout=5) == {0: CHOICE}


async def test_who_asks_first_goes_on_first(store):
    went_on = []

    async def ask(number):
        await store.find({0: KEYS[0]})
        went_on.append(number)

    await asyncio.gather(*(ask(number) for number in range(50)))
    assert went_on == sorted(went_on)
