"""Build task files from the rows of a preference set; the same input gives the same files.

Rows are streamed; only ids and the words of benchmark prompts are held in memory.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

from spct_plugin.data.files import draft, read_rows
from spct_plugin.data.filters import duplicate, grams, in_validation, leaked, task_row, words_of
from spct_plugin.data.rows import BadRow, read_tasks
from spct_plugin.data.sources import Row, Skip, Source
from spct_plugin.errors import ConfigError, TaskError


@dataclass
class Counts:
    """Where rows and tasks went.

    Attributes:
        rows: Rows read, malformed ones included.
        bad: Malformed rows.
        dropped: Why rows gave no task, or tasks were left out.
        written: Tasks per file.
    """

    rows: int = 0
    bad: int = 0
    dropped: Counter[str] = field(default_factory=Counter[str])
    written: dict[str, int] = field(default_factory=dict[str, int])


@dataclass(frozen=True)
class Plan:
    """What to build, and where.

    Attributes:
        name: Name of the source, which begins every id.
        source: How to read a row.
        path: The data: file, folder or hub id.
        target: The task file.
        split: Split of a folder or hub id.
        validation: Share of the prompts that goes to `validation_file`, 0 to 1.
        validation_file: The second task file.
        benchmarks: Task files whose prompts must not come back.
    """

    name: str
    source: Source
    path: str
    target: Path
    split: str = "train"
    validation: float = 0.0
    validation_file: Path | None = None
    benchmarks: Sequence[Path] = ()


def build(plan: Plan, advance: Callable[[BadRow | None], None]) -> Counts:
    """Read, convert, filter and write; files appear only when they are whole.

    Args:
        plan: What to do.
        advance: Called for every row, with what is wrong about it or None.

    Raises:
        ConfigError: Options that do not go together.
        TaskError: A file that cannot be read or written, or nothing left to write.
    """
    _check(plan)
    leaks = {str(path): benchmark_grams(path) for path in plan.benchmarks}
    counts = Counts()
    seen: dict[str, int] = {}
    with ExitStack() as stack:
        train = stack.enter_context(draft(plan.target))
        files = {plan.target: train}
        if plan.validation_file:
            files[plan.validation_file] = stack.enter_context(draft(plan.validation_file))
        counts.written = {str(path): 0 for path in files}
        for task in convert(plan, counts, advance):
            reason = duplicate(seen, task) or leaked(task["prompt"], leaks)
            if reason:
                counts.dropped[reason] += 1
                continue
            held_out = plan.validation_file and in_validation(task["prompt"], plan.validation)
            path = plan.validation_file if held_out else plan.target
            files[path or plan.target].write(json.dumps(task, default=str) + "\n")
            counts.written[str(path)] += 1
        if not counts.written[str(plan.target)]:
            raise TaskError(f"no task is left for {str(plan.target)!r}: {describe(counts)}")
    return counts


def describe(counts: Counts) -> str:
    """Say in one line where the rows went."""
    parts = [f"{counts.rows} rows read", f"{counts.bad} malformed"]
    parts += [f"{reason}: {count}" for reason, count in counts.dropped.most_common()]
    return "; ".join(parts + [f"{path}: {count}" for path, count in counts.written.items()])


def convert(
    plan: Plan, counts: Counts, advance: Callable[[BadRow | None], None]
) -> Iterator[dict[str, Any]]:
    """Turn rows into tasks; what is none is counted."""
    for number, size, row in _rows(plan, counts, advance):
        try:
            found = [
                one if isinstance(one, Skip) else task_row(plan.name, one)
                for one in plan.source.convert(row)
            ]
        except TaskError as error:
            counts.bad += size
            advance(BadRow(number, str(error)))
            continue
        advance(None)
        for one in found:
            if isinstance(one, Skip):
                counts.dropped[one.reason] += 1
            else:
                yield one


def benchmark_grams(path: Path) -> set[str]:
    """Collect what the prompts of a task file consist of.

    Raises:
        TaskError: The file cannot be read, or a line is no task.
    """
    found: set[str] = set()
    for row in read_tasks(path):
        if isinstance(row, BadRow):
            raise TaskError(
                f"{path}, line {row.line}: {row.problem}; a benchmark is given as a task file, "
                "which spct data makes of it"
            )
        found |= grams(words_of([turn.as_dict() for turn in row.task.prompt]))
    if not found:
        raise TaskError(f"{path}: expected tasks with words in their prompts, found none")
    return found


def _check(plan: Plan) -> None:
    if (plan.validation > 0) != (plan.validation_file is not None):
        raise ConfigError("expected --validation FRACTION and --validation-file together")
    inputs = {Path(plan.path).resolve(), *(path.resolve() for path in plan.benchmarks)}
    for path in [plan.target, *([plan.validation_file] if plan.validation_file else [])]:
        if path.resolve() in inputs:
            raise TaskError(f"expected another file to write to, found {str(path)!r} twice")
        inputs.add(path.resolve())


def _rows(
    plan: Plan, counts: Counts, advance: Callable[[BadRow | None], None]
) -> Iterator[tuple[int, int, Row]]:
    """Yield rows, gathered by the source's group column, with the first number and their count."""

    def good() -> Iterator[tuple[int, Row]]:
        for found in read_rows(plan.path, plan.split):
            counts.rows += 1
            if isinstance(found, BadRow):
                counts.bad += 1
                advance(found)
            else:
                yield found

    column = plan.source.group
    if column is None:
        yield from ((number, 1, row) for number, row in good())
        return
    for _, together in groupby(good(), key=lambda found: found[1].get(column)):
        members = list(together)
        yield members[0][0], len(members), {"rows": [row for _, row in members]}
