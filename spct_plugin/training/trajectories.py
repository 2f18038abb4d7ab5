"""Sampled judgements of labelled tasks, read back from what `spct sample` and `spct judge` wrote.

    for found in read_trajectories(Path("trajectories.jsonl")):
        found.judgements, found.correct   # or a BadRow

A judgement that infrastructure lost says nothing about the judge and is left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spct_plugin.data.judged import parse_judged
from spct_plugin.data.rows import BadRow, read_lines
from spct_plugin.errors import TaskError
from spct_plugin.failures import INFRASTRUCTURE_FAILURES
from spct_plugin.training.outcome import is_correct
from spct_plugin.types import Judgement, JudgeTask


@dataclass(frozen=True, slots=True)
class Trajectories:
    """One task and the judgements sampled for it.

    Attributes:
        id: The task's name.
        task: What was judged.
        label: n >= 2: index of the best completion. n = 1: the right score.
        hinted: The judge had been told the answer.
        template: The template that asked; "" when the file does not say.
        judgements: Those that the judge itself wrote, by vote.
    """

    id: str
    task: JudgeTask
    label: int
    hinted: bool
    template: str
    judgements: tuple[Judgement, ...]

    @property
    def correct(self) -> list[bool]:
        """Whether each judgement was right (Eq. 10)."""
        return [self.is_right(judgement) for judgement in self.judgements]

    def is_whole(self, judgement: Judgement) -> bool:
        """Tell whether a judgement saw all completions, so that it can be right at all."""
        return len(judgement.indices) == len(self.task.completions)

    def is_right(self, judgement: Judgement) -> bool:
        """Tell whether a judgement was right; one without scores, or on a part, was not."""
        if judgement.scores is None or not self.is_whole(judgement):
            return False
        return is_correct(judgement.scores, self.label)

    def fate(self, judgement: Judgement) -> str:
        """Say in a few words what became of one judgement."""
        if judgement.scores is None:
            return f"no scores: {judgement.failure}"
        if not self.is_whole(judgement):
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
    return read_lines(path, parse_trajectories)


def parse_trajectories(row: Mapping[str, Any]) -> Trajectories:
    """Check one row.

    Raises:
        TaskError: It is none; the message says what is missing.
    """
    judged = parse_judged(row)
    if judged.label is None:
        raise TaskError("label: expected the index of the best completion, found none")
    own = (j for j in judged.judgements if j.failure not in INFRASTRUCTURE_FAILURES)
    return Trajectories(
        judged.id, judged.task, judged.label, judged.hinted, judged.template, tuple(own)
    )
