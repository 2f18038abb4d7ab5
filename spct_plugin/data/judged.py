"""Labels from a file of tasks, and judgements from the files that `judge_file` wrote for it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from spct_plugin.data.rows import BadRow, TaskRow, line_problem, read_tasks
from spct_plugin.errors import TaskError
from spct_plugin.records import read_judgement
from spct_plugin.types import Judgement, is_list, is_mapping

Labels = Mapping[str, tuple[int, int]]
"""Id to the number of completions and the label."""


def read_labels(path: Path) -> Labels:
    """Read what is right in every task; a task that cannot be compared makes the whole unfair.

    Raises:
        TaskError: The file cannot be read, holds no task, or a line that is none or has no label.
    """
    labels: dict[str, tuple[int, int]] = {}
    unlabelled: list[str] = []
    for row in read_tasks(path):
        if isinstance(row, BadRow):
            raise TaskError(f"{path}, line {row.line}: {row.problem}")
        _sort_in(row, labels, unlabelled)
    if unlabelled:
        raise TaskError(
            f"expected a label in every row of {str(path)!r}, found none in {len(unlabelled)} of "
            f"{len(labels) + len(unlabelled)}, the first is {unlabelled[0]!r}; label them or leave "
            "them out"
        )
    if not labels:
        raise TaskError(f"expected labelled tasks, found none in {str(path)!r}")
    return labels


def recorded_votes(path: Path) -> int | None:
    """Find how many votes a task an earlier run asked for; None when there is nothing to go on."""
    try:
        with path.open("rb") as file:
            row = json.loads(file.readline())
    except (OSError, ValueError):
        return None
    k = row.get("k") if is_mapping(row) else None
    return k if isinstance(k, int) else None


def read_judgements(path: Path, labels: Labels) -> dict[str, tuple[Judgement, ...]]:
    """Read the judgements of these tasks by id; their texts are left out, to spare memory.

    Raises:
        TaskError: A row does not fit its task, or a task has none.
    """
    found: dict[str, tuple[Judgement, ...]] = {}
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                row = json.loads(line)
                if row["id"] in labels:
                    found[row["id"]] = _judgements(row.get("judgements"), labels[row["id"]][0])
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise TaskError(f"{path}, line {number}: {line_problem(error)}") from None
    missing = [task for task in labels if task not in found]
    if missing:
        raise TaskError(f"expected judgements of task {missing[0]!r}, found none in {str(path)!r}")
    return found


def _sort_in(row: TaskRow, labels: dict[str, tuple[int, int]], unlabelled: list[str]) -> None:
    if row.label is None:
        unlabelled.append(row.id)
    else:
        labels[row.id] = (len(row.task.completions), row.label)


def _judgements(records: object, n: int) -> tuple[Judgement, ...]:
    if not is_list(records):
        raise TaskError(f"judgements: expected a list, found {records!r:.40}")
    return tuple(
        read_judgement({**record, "text": ""} if is_mapping(record) else record, n)
        for record in records
    )
