"""Rows that `judge_file` wrote, read back: the one place that knows how they are laid out.

for row in read_judged(Path("tasks.judged.jsonl")):
    row.judgements    # or a BadRow
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spct_plugin.data.rows import BadRow, parse_task, read_lines
from spct_plugin.errors import TaskError
from spct_plugin.records import read_judgement
from spct_plugin.types import Judgement, JudgeTask, is_list, is_mapping


@dataclass(frozen=True, slots=True)
class JudgedRow:
    """One task and its judgements.

    Attributes:
        id: The task's name.
        task: What was judged.
        label: As in the task file when it was judged; None without one.
        hinted: The judge had been told the answer.
        template: The template that asked, without a hint; "" when the row does not say.
        judgements: All of them, failed ones too.
    """

    id: str
    task: JudgeTask
    label: int | None
    hinted: bool
    template: str
    judgements: tuple[Judgement, ...]


def read_judged(path: Path) -> Iterator[JudgedRow | BadRow]:
    """Read a file line by line; a bad line is reported and the rest goes on.

    Raises:
        TaskError: The file cannot be read at all.
    """
    return read_lines(path, parse_judged)


def parse_judged(row: Mapping[str, Any]) -> JudgedRow:
    """Check one row.

    Raises:
        TaskError: It is none; the message says what is missing.
    """
    parsed = parse_task(row)
    records = row.get("judgements")
    if not is_list(records):
        raise TaskError("judgements: expected a list, as spct judge and spct sample write it")
    n = len(parsed.task.completions)
    judgements = tuple(read_judgement(record, n) for record in records)
    hinted = row.get("hinted", False)
    if not isinstance(hinted, bool):
        raise TaskError(f"hinted: expected true or false, found {hinted!r:.40}")
    # A version is "engine|template|digest", with more behind it when there is a meta RM.
    template = [*str(row.get("version", "")).split("|"), ""][1].removesuffix("+hint")
    return JudgedRow(parsed.id, parsed.task, parsed.label, hinted, template, judgements)


def recorded_votes(path: Path) -> int | None:
    """Find how many votes a task an earlier run asked for; None when there is nothing to go on."""
    try:
        with path.open("rb") as file:
            row = json.loads(file.readline())
    except (OSError, ValueError):
        return None
    k = row.get("k") if is_mapping(row) else None
    return k if isinstance(k, int) else None
