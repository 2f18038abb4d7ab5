"""From sampled judgements to training files: what SFT learns from, and what RL is asked.

    counts = reject_files([Path("trajectories.jsonl")], Path("sft.jsonl"), sft_rows(prompts, chat))

The files appear only when they are whole. A judge trained on a hinted judgement never saw the hint.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from spct_plugin.data.files import draft
from spct_plugin.data.rows import BadRow
from spct_plugin.errors import TaskError
from spct_plugin.training.chat import Chat
from spct_plugin.training.prompts import JudgePrompts
from spct_plugin.training.rejection import Verdict, is_too_easy, reject
from spct_plugin.training.trajectories import Trajectories, read_trajectories

Rows = Callable[[Trajectories, "RejectCounts"], Iterator[dict[str, Any]]]
"""Turns one task's trajectories into rows, and counts what became of them."""


@dataclass
class RejectCounts:
    """Where tasks and judgements went.

    Attributes:
        tasks: Tasks read, by what became of them.
        judgements: Judgements read, by what became of them.
        bad: Lines that hold no trajectories.
        rows: Rows written.
    """

    tasks: Counter[str] = field(default_factory=Counter[str])
    judgements: Counter[str] = field(default_factory=Counter[str])
    bad: int = 0
    rows: int = 0


def sft_rows(prompts: JudgePrompts, chat: Chat) -> Rows:
    """Make rows for rejective fine-tuning: {"id", "prompt", "completion"}, as texts.

    Source: DeepSeek-GRM (arXiv:2504.02495), section 3.1: wrong ones go, and tasks that are right
    every time, unless the judge was told the answer.
    """

    def rows(found: Trajectories, counts: RejectCounts) -> Iterator[dict[str, Any]]:
        prompts.check_sampled_with(found.template)
        verdict = reject(found.correct, hinted=found.hinted)
        _count(found, verdict, counts)
        for at in verdict.kept:
            judgement = found.judgements[at]
            text = prompts.text(found.task, judgement.order)
            prompt, completion = chat.example(text, judgement.text)
            name = f"{found.id}#{'hinted-' if found.hinted else ''}{judgement.vote}"
            yield {"id": name, "prompt": prompt, "completion": completion}

    return rows


def rl_rows(prompts: JudgePrompts, chat: Chat) -> Rows:
    """Make rows for rule-based RL, completions in shuffled order.

    A row is {"id", "prompt", "label", "n", "template"}. `label` is the place of the best completion
    in the prompt, 0-based; for n = 1 the right score. OpenRLHF hands on one column only: there
    `label` is {"label", "n", "template"}.

    Source: DeepSeek-GRM (arXiv:2504.02495), App. C: tasks that the start model gets right every
    time are left out.
    """

    def rows(found: Trajectories, counts: RejectCounts) -> Iterator[dict[str, Any]]:
        prompts.check_sampled_with(found.template)
        if found.hinted:
            counts.tasks["hinted: no measure of how easy a task is"] += 1
            return
        counts.judgements.update(found.fate(judgement) for judgement in found.judgements)
        if is_too_easy(found.correct):
            counts.tasks["too easy: right every time"] += 1
            return
        counts.tasks["kept"] += 1
        order = prompts.shuffled(found.task)
        label = order.index(found.label) if len(order) > 1 else found.label
        prompt = chat.prompt(prompts.text(found.task, order))
        labels = {"label": label, "n": len(order), "template": prompts.template.name}
        yield {"id": found.id, "prompt": prompt} | (
            {"label": labels} if chat.framework == "openrlhf" else labels
        )

    return rows


def reject_files(
    sources: Sequence[Path],
    target: Path,
    rows: Rows,
    advance: Callable[[Path, BadRow | None], None] = lambda path, bad: None,
) -> RejectCounts:
    """Read trajectories, reject, and write what is left.

    Args:
        sources: Files of `spct sample`.
        target: The training file.
        rows: `sft_rows` or `rl_rows`.
        advance: Called for every line, with what is wrong about it or None.

    Raises:
        TaskError: A file that cannot be read or written, or nothing left to write.
    """
    counts = RejectCounts()
    if any(source.resolve() == target.resolve() for source in sources):
        raise TaskError(f"expected another file to write to, found {str(target)!r} for both")
    seen: set[tuple[str, bool]] = set()
    with draft(target) as file:
        for source in sources:
            for found in read_trajectories(source):
                bad = found if isinstance(found, BadRow) else None
                counts.bad += bad is not None
                advance(source, bad)
                if not isinstance(found, Trajectories):
                    continue
                if (found.id, found.hinted) in seen:
                    counts.tasks["read before"] += 1
                    continue
                seen.add((found.id, found.hinted))
                for row in rows(found, counts):
                    file.write(json.dumps(row) + "\n")
                    counts.rows += 1
        if not counts.rows:
            raise TaskError(f"nothing is left for {str(target)!r}: {describe(counts)}")
    return counts


def describe(counts: RejectCounts) -> str:
    """Say in one line which rule took what."""
    parts = [f"{counts.bad} bad lines"] if counts.bad else []
    for what, counter in (("tasks", counts.tasks), ("judgements", counts.judgements)):
        inside = ", ".join(f"{count} {reason}" for reason, count in counter.most_common())
        parts.append(f"{what}: {inside or 'none'}")
    return "; ".join(parts)


_TASK_REASONS = {
    "too_easy": "too easy: right every time",
    "never_right": "never right",
    "no_samples": "no judgement came",
}


def _count(found: Trajectories, verdict: Verdict, counts: RejectCounts) -> None:
    kind = "hinted, " if found.hinted else ""
    task = _TASK_REASONS[verdict.reason] if verdict.reason else "kept"
    counts.tasks[kind + task] += 1
    for at, judgement in enumerate(found.judgements):
        fate = found.fate(judgement)
        if fate == "right":
            fate = "kept" if at in verdict.kept else "right, but the task is too easy"
        counts.judgements[kind + fate] += 1
