"""What of a completion the judge reads, and how many completions fit one prompt. Pure.

Nothing is cut silently: a shortened completion says so in its own text, and a completion that does
not fit alone is a `too_long` failure.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from spct_plugin.parsing import THINK_CLOSE
from spct_plugin.types import JudgeTask, Message

View = Literal["answer", "full"]


def view_task(task: JudgeTask, view: View, max_chars: int | None) -> JudgeTask:
    """Reduce every completion to what the judge is to read.

    Args:
        task: What came in.
        view: answer: the text after the last `</think>`; full: everything.
        max_chars: Longer texts keep head and tail around a note; None = no limit.
    """
    if view == "full" and max_chars is None:
        return task
    completions = [
        _view_text(c, view, max_chars)
        if isinstance(c, str)
        else tuple(_view_turn(turn, view, max_chars) for turn in c)
        for c in task.completions
    ]
    if all(new is old for new, old in zip(completions, task.completions, strict=True)):
        return task
    return JudgeTask(
        task.prompt,
        completions,
        reference=task.reference,
        principles=task.principles,
        metadata=task.metadata,
    )


def largest_list(n: int, fits: Callable[[int], bool]) -> int:
    """Find how many completions one prompt can hold, by halving.

    Args:
        n: Completions in the group, or the configured list size.
        fits: Whether every prompt with so many completions fits the context.

    Returns:
        The size in 1..n; 0 when not even one completion fits.
    """
    size = n
    while size and not fits(size):
        size //= 2
    return size


def _view_turn(turn: Message, view: View, max_chars: int | None) -> Message:
    text = _view_text(turn.content, view, max_chars) if turn.role == "assistant" else turn.content
    if text is turn.content:
        return turn
    return Message(turn.role, text, turn.name, turn.tool_calls)


def _view_text(text: str, view: View, max_chars: int | None) -> str:
    if view == "answer" and THINK_CLOSE in text:
        text = text[text.rfind(THINK_CLOSE) + len(THINK_CLOSE) :].lstrip()
    if max_chars is None or len(text) <= max_chars:
        return text
    half = max_chars // 2
    left_out = len(text) - 2 * half
    return f"{text[:half]}\n[... {left_out} characters left out ...]\n{text[-half:]}"
