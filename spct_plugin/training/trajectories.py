"""Sampled judgements of labelled tasks, read back from what `spct sample` and `spct judge` wrote.

    for found in read_trajectories(Path("trajectories.jsonl")):
        found.judgements, found.correct   # or a BadRow

A judgement that infrastructure lost says nothing about the judge and is left out.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spct_plugin.data.rows import BadRow, line_problem, parse_task
from spct_plugin.errors import TaskError
from spct_plugin.failures import INFRASTRUCTURE_FAILURES
from spct_plugin.records import read_judgement
from spct_plugin.training.outcome import is_correct
from spct_plugin.types import Judgement, JudgeTask, is_list


@dataclass(frozen=True, slots=True)
class Trajectories:
    """One task and the judgements sampled for it.

    Attributes:
        id: The task's name.
        task: What was judged.
        label: n >= 2: index of the best completion. n = 1: the right score.
        hinted: The judge had been told the answer.
        judgements: Those that the judge itself wrote, by vote.
    """

    id: str
    task: JudgeTask
    label: int
    hinted: bool
    judgements: tuple[Judgement, ...]

    @property
    def correct(self) -> list[bool]:
        """Whether each judgement was right (Eq. 10)."""
        return [self.is_right(judgement) for judgement in self.judgements]

    def is_right(self, judgement: Judgement) -> bool:
        """Tell whether a judgement was right; one without scores, or on a part, was not."""
        whole = len(judgement.indices) == len(self.task.completions)
        return judgement.scores is not None and whole and is_correct(judgement.scores, self.label)

    def fate(self, judgement: Judgement) -> str:
        """Say in a few words what became of one judgement."""
        if judgement.scores is None:
            return f"no scores: {judgement.failure}"
        if len(judgement.indices) < len(self.task.completions):
            return "judged in parts"
        if self.is_right(judgement):
            return "right"
        if len(judgement.scores) > 1 and judgement.scores[self.label] == max(judgement.scores):
            return "wrong: the best one shares its score"
        return "wrong"


def read_trajectories(path: Path) -> Iterator[Trajectories | BadRow]:
    """Read a file line by line; a bad line is reported and the rest goes on.

    Raises:
        TaskError: The file cannot be read at all.
    """
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                try:
                    yield parse_trajectories(json.loads(line))
                except (ValueError, RecursionError) as error:
                    yield BadRow(number, line_problem(error))
    except OSError as error:
        raise TaskError(f"cannot read {str(path)!r}: {error.strerror}") from None


def parse_trajectories(row: Mapping[str, Any]) -> Trajectories:
    """Check one row.

    Raises:
        TaskError: It is none; the message says what is missing.
    """
    parsed = parse_task(row)
    if parsed.label is None:
        raise TaskError("label: expected the index of the best completion, found none")
    records = row.get("judgements")
    if not is_list(records):
        raise TaskError("judgements: expected a list, as spct sample writes it")
    n = len(parsed.task.completions)
    judgements = [read_judgement(record, n) for record in records]
    own = (j for j in judgements if j.failure not in INFRASTRUCTURE_FAILURES)
    return Trajectories(parsed.id, parsed.task, parsed.label, bool(row.get("hinted")), tuple(own))
