"""Rows of task files (JSONL): read and checked here, at the edge.

{"id": "a", "prompt": "Name a prime.", "completions": ["7", "8"], "label": 0}
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from spct_plugin.errors import TaskError
from spct_plugin.types import JudgeTask, is_mapping

T = TypeVar("T")
SHOWN_KEYS = {"id", "prompt", "completions", "reference", "principles"}
KNOWN_KEYS = SHOWN_KEYS | {"label"}


@dataclass(frozen=True, slots=True)
class TaskRow:
    """One line of a task file.

    Attributes:
        id: Its name, unique in the file.
        task: What to judge; label and keys of the row that are not ours are its metadata.
        label: Index of the best completion, or 0/1 for one alone; never shown to a judge.
    """

    id: str
    task: JudgeTask
    label: int | None = None


@dataclass(frozen=True, slots=True)
class BadRow:
    """A line that could not be used: its 1-based number, and what is wrong with it."""

    line: int
    problem: str

    def within(self, path: Path | str) -> str:
        """Say where it is and what is wrong, for people."""
        return f"{path}, line {self.line}: {self.problem}"


def read_tasks(path: Path) -> Iterator[TaskRow | BadRow]:
    """Read a task file line by line; a bad line is reported and the rest goes on.

    Raises:
        TaskError: The file cannot be read at all.
    """
    seen: set[str] = set()

    def parse(row: object) -> TaskRow:
        parsed = parse_task(row)
        if parsed.id in seen:
            raise TaskError(f"id: {parsed.id!r} stands in an earlier line too")
        seen.add(parsed.id)
        return parsed

    return read_lines(path, parse)


def check_labelled(path: Path) -> None:
    """Refuse a task file with rows that nothing can be learnt from, before anything is paid.

    Raises:
        TaskError: A row has no label, or the file cannot be read.
    """
    without = [row.id for row in read_tasks(path) if isinstance(row, TaskRow) and row.label is None]
    if without:
        raise TaskError(
            f"{path}: expected a label in every row, found {len(without)} without one, the first "
            f"with the id {without[0]!r}"
        )


def read_lines(path: Path, parse: Callable[[Any], T]) -> Iterator[T | BadRow]:
    """Read a JSONL file line by line; blank lines are skipped, a bad line is reported.

    Args:
        path: The file.
        parse: Makes something of a line's value, or raises ValueError; nested too deeply is a bad
            line too.

    Raises:
        TaskError: The file cannot be read at all.
    """
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                try:
                    found = parse(parse_line(line))
                except (ValueError, RecursionError) as error:
                    yield BadRow(number, line_problem(error))
                    continue
                yield found
    except OSError as error:
        raise TaskError(f"cannot read {str(path)!r}: {error.strerror}") from None


def parse_line(line: bytes) -> Any:
    """Read a line of JSON in UTF-8, with or without a byte order mark.

    Left to itself, `json` guesses the encoding line by line, and reads some lines of UTF-16.

    Raises:
        ValueError: It is no UTF-8 or no JSON; `line_problem` says why.
        RecursionError: It is nested too deeply.
    """
    return json.loads(line.decode("utf-8-sig"))


def parse_task(row: object) -> TaskRow:
    """Check one row.

    Raises:
        TaskError: It is no task; the message names the key.
    """
    if not is_mapping(row):
        raise TaskError(f"expected an object with id, prompt, completions, found {row!r:.40}")
    missing = [key for key in ("id", "prompt", "completions") if key not in row]
    if missing:
        raise TaskError(f"expected the keys id, prompt, completions; missing: {', '.join(missing)}")
    task = JudgeTask(
        row["prompt"],
        row["completions"],
        reference=row.get("reference"),
        principles=row.get("principles") or (),
        metadata={key: value for key, value in row.items() if key not in SHOWN_KEYS},
    )
    return TaskRow(_id(row["id"]), task, _label(row.get("label"), len(task.completions)))


def _id(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise TaskError(f"id: expected a text or a whole number, found {value!r:.40}")
    return str(value)


def _label(value: object, n: int) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value not in range(max(2, n)):
        expected = (
            "1 (correct) or 0 for a completion alone"
            if n == 1
            else f"the index of the best of {n} completions, 0 to {n - 1}"
        )
        raise TaskError(f"label: expected {expected}, found {value!r:.40}")
    return value


def line_problem(error: Exception) -> str:
    """Say in a few words why a line of JSON could not be read."""
    if isinstance(error, UnicodeDecodeError):
        return f"not UTF-8 at byte {error.start}"
    if isinstance(error, RecursionError):
        return "nested too deeply"
    if isinstance(error, json.JSONDecodeError):
        return f"not JSON: {error.msg.removesuffix(' at')} at column {error.colno}"
    return str(error)
