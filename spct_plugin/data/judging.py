"""Judge a file of tasks into a file of rewards; it may be stopped and started at any time."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any, TextIO

from spct_plugin.data import check_writable
from spct_plugin.data.rows import BadRow, TaskRow, read_tasks
from spct_plugin.errors import TaskError
from spct_plugin.failures import LOST, Failure
from spct_plugin.records import reward_record
from spct_plugin.reward_model import RewardModel
from spct_plugin.types import GroupReward, JudgeTask

Judged = tuple[str, int | None]
"""Digest of a task as it was judged, and its label."""
SETTINGS = "settings"
VERSION_PARTS = ("judge", "template", SETTINGS, "meta RM")
"""What stands in a version, in order."""


@dataclass
class Summary:
    """What happened to the rows of a file.

    Attributes:
        rows: Rows judged in this run.
        resumed: Rows that an earlier run had finished.
        bad: Lines that are no tasks.
        unrewarded: Completions without a reward, in this run.
        lost: Rows of this run that lost judgements to infrastructure; judged anew by the next run.
        failures: Failed judgements of this run by kind.
        details: What the first failure of each kind said.
        judgements: Judgements of this run.
        tokens: Tokens the judge wrote in this run.
    """

    rows: int = 0
    resumed: int = 0
    bad: list[BadRow] = field(default_factory=list[BadRow])
    unrewarded: int = 0
    lost: int = 0
    failures: Counter[Failure] = field(default_factory=Counter[Failure])
    details: dict[Failure, str] = field(default_factory=dict[Failure, str])
    judgements: int = 0
    tokens: int = 0


async def judge_file(
    model: RewardModel,
    source: Path,
    target: Path,
    advance: Callable[[BadRow | TaskRow, Summary], None],
    mark: Mapping[str, Any] | None = None,
    *,
    learnt_from: bool = False,
) -> Summary:
    """Judge every task of `source` and append its rewards to `target`, in order.

    Rows that `target` already holds are not judged again, unless infrastructure failed them.
    A row of `target` is what `reward_record` lays out, with the task and its label.

    Args:
        model: The judge.
        source: Tasks, one per line.
        target: Rewards, one per line; may be the unfinished work of an earlier run.
        advance: Called for every line that is done with, and with the counts so far.
        mark: Written into every row.
        learnt_from: The labels in `target` will be trusted: a row whose label changed is refused.

    Raises:
        TaskError: `source` cannot be read, or `target` was written with another configuration, for
            other tasks, holds something else, or is being written by another run.
    """
    summary = Summary()
    check_files(source, target)
    waiting: deque[TaskRow] = deque()

    def tasks(rows: Iterable[TaskRow]) -> Iterator[JudgeTask]:
        for row in rows:
            waiting.append(row)
            yield row.task

    with _resumed(target.resolve(), model.version) as (file, done):
        rows = _unfinished(model, source, done, summary, advance, learnt_from=learnt_from)
        async for reward in model.stream(tasks(rows), keep_judgements=True):
            row = waiting.popleft()
            file.write(json.dumps(_record(row, reward) | dict(mark or {})) + "\n")
            file.flush()
            _count(summary, reward)
            advance(row, summary)
    return summary


def _unfinished(
    model: RewardModel,
    source: Path,
    done: Mapping[str, Judged],
    summary: Summary,
    advance: Callable[[BadRow | TaskRow, Summary], None],
    *,
    learnt_from: bool,
) -> Iterator[TaskRow]:
    """Give the rows that are to be judged; count and check those that an earlier run finished.

    Raises:
        TaskError: A finished row was another task, or had another label.
    """
    for row in read_tasks(source):
        if isinstance(row, BadRow):
            summary.bad.append(row)
            advance(row, summary)
        elif row.id in done:
            task, label = done[row.id]
            _check_same(row, model.task_digest(row.task) != task, "prompt or completions")
            _check_same(row, learnt_from and row.label != label, "label")
            summary.resumed += 1
            advance(row, summary)
        else:
            yield row


def check_files(source: Path, target: Path) -> None:
    """Find out before a model is loaded that a file cannot be read or written.

    Raises:
        TaskError: One cannot, or both are the same.
    """
    try:
        with source.open("rb"):
            pass
    except OSError as error:
        raise TaskError(f"cannot read {str(source)!r}: {error.strerror}") from None
    if target.exists() and target.samefile(source):
        raise TaskError(f"expected an output file beside the tasks, found {str(target)!r} for both")
    check_writable(target)


def count_lines(path: Path) -> int:
    """Count lines, for a progress bar; 0 when the file cannot be read."""
    try:
        with path.open("rb") as file:
            return sum(1 for _ in file)
    except OSError:
        return 0


def count_finished(target: Path) -> int:
    """Count the rows that the next run will not judge again."""
    rows = map(_written, target.read_bytes().splitlines(keepends=True))
    return sum(1 for row in rows if row is not None and not _is_lost(row["failures"]))


def _record(row: TaskRow, reward: GroupReward) -> dict[str, Any]:
    record = {"id": row.id, **reward_record(reward, reward.judgements or ()), **row.task.as_dict()}
    return record if row.label is None else {**record, "label": row.label}


def _count(summary: Summary, reward: GroupReward) -> None:
    summary.rows += 1
    summary.judgements += len(reward.judgements or ())
    summary.failures.update(reward.failures)
    summary.tokens += reward.tokens
    summary.unrewarded += sum(value is None for value in reward.rewards)
    summary.lost += _is_lost(reward.failures)
    for judgement in reward.judgements or ():
        if judgement.failure is not None and judgement.detail:
            summary.details.setdefault(judgement.failure, judgement.detail)


def _check_same(row: TaskRow, changed: bool, what: str) -> None:
    if changed:
        raise TaskError(
            f"row {row.id!r} was judged with another {what}; choose another output file, or give "
            "changed rows new ids"
        )


@contextlib.contextmanager
def _resumed(target: Path, version: str) -> Generator[tuple[TextIO, dict[str, Judged]]]:
    """Open a file of rewards to go on writing, for nobody else until it is closed.

    Gives the file, and the finished rows of an earlier run in it, id to task. Rows that were not
    finished are dropped from it.
    """
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(_open_alone(target))
        kept, done, dropped = _finished(target, version)
        if dropped:
            draft = target.with_name(target.name + ".resume")
            file = stack.enter_context(_open_alone(draft))
            file.truncate(0)
            file.write(kept.decode())
            file.flush()
            os.replace(draft, target)
        yield file, done


def _open_alone(path: Path) -> TextIO:
    file = path.open("a", encoding="utf-8")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise TaskError(f"another run is writing {str(path)!r}; choose another output") from None
    return file


def _finished(target: Path, version: str) -> tuple[bytes, dict[str, Judged], bool]:
    """Read a file of rewards: its finished rows, their ids and tasks, whether there were others."""
    kept: list[bytes] = []
    done: dict[str, Judged] = {}
    lines = target.read_bytes().splitlines(keepends=True)
    for line in lines:
        row = _written(line)
        if row is None and not is_torn(line):
            raise TaskError(
                f"{str(target)!r} holds something else than rewards; choose another output file"
            )
        if row is None or _is_lost(row["failures"]):
            continue
        if row["version"] != version:
            raise TaskError(
                f"{str(target)!r} was written with another configuration: "
                f"{_difference(row['version'], version)}; go back to that one, choose another "
                "output file, or delete it"
            )
        kept.append(line)
        done[row["id"]] = (row["task"], row.get("label"))
    return b"".join(kept), done, len(kept) < len(lines)


def _difference(before: object, version: str) -> str:
    """Say what made a row and what makes them now; of its settings a version holds only a hash."""
    pairs = zip_longest(str(before).split("|", 3), version.split("|", 3), fillvalue="none")
    found = [
        f"{part} {old!r}, now {now!r}"
        for part, (old, now) in zip(VERSION_PARTS, pairs, strict=False)
        if part != SETTINGS and old != now
    ]
    return ", ".join(found) or "other settings that change votes or rewards, such as vote.k"


def _written(line: bytes) -> dict[str, Any] | None:
    """Read a row that was written whole, else None."""
    try:
        row = json.loads(line)
        whole = (
            line.endswith(b"\n") and isinstance(row["id"], str) and {"version", "task"} <= set(row)
        )
        return row if whole and isinstance(row["failures"], dict) else None
    except (ValueError, KeyError, TypeError):
        return None


def is_torn(line: bytes) -> bool:
    """Tell whether a run that was killed may have left this part of a row."""
    begin, then = b'{"id": "', b', "rewards": '
    if line.endswith(b"\n"):
        return False
    with_id = re.match(rb'\{"id": "(?:[^"\\]|\\.)*"', line)
    if with_id is None:
        return line.startswith(begin[: len(line)])
    rest = line[with_id.end() :]
    return rest.startswith(then[: len(rest)])


def _is_lost(failures: Mapping[Failure, int]) -> bool:
    return any(failures.get(kind) for kind in LOST)
