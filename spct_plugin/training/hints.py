"""Hinted sampling: told the answer, a judge gets hard tasks right too. Pure.

    hint_line(order=(2, 0, 1), label=0)  # ends the prompt with: The best response is: Response 2

The hint is appended to the judge's prompt when it samples, and left out of what it is trained on.

Source: DeepSeek-GRM (arXiv:2504.02495), section 3.1 and App. C.
"""

from __future__ import annotations

from collections.abc import Sequence

from spct_plugin.errors import TaskError
from spct_plugin.parsing import ParsedJudgement
from spct_plugin.templates import Template
from spct_plugin.types import JudgeTask


def hint_line(order: Sequence[int], label: int, strength: object = None) -> str:
    """Write the line that ends a hinted prompt.

    Args:
        order: Completions in the order the judge sees them.
        label: n >= 2: index of the best completion. n = 1: the right score itself.
        strength: How much better the best one is, where the data set says so; None = not known.
    """
    if len(order) == 1:
        return f"\nThe right score is: {label}"
    known = "" if strength is None else f" (strength of the preference: {strength})"
    return f"\nThe best response is: Response {list(order).index(label) + 1}{known}"


class HintedTemplate:
    """A template whose prompts end with the answer, from the task's metadata.

    Args:
        template: Writes the prompt and reads the answer.
    """

    def __init__(self, template: Template) -> None:
        self._template = template
        self.name = f"{template.name}+hint"
        self.scale = template.scale
        self.max_responses = template.max_responses

    def render(self, task: JudgeTask, order: Sequence[int], nonce: str = "") -> str:
        """Write the judge's user message and the hint; without it where the best is not shown.

        Raises:
            TaskError: The task has no label.
        """
        label = task.metadata.get("label")
        if label is None:
            raise TaskError(f"expected a label for the hint, found none: {task.prompt!s:.60}")
        prompt = self._template.render(task, order, nonce)
        if len(task.completions) > 1 and label not in order:
            return prompt
        return prompt + hint_line(order, label, task.metadata.get("strength"))

    def parse(self, text: str, n: int, finish_reason: str | None) -> ParsedJudgement:
        """Read the judge's answer as the template does."""
        return self._template.parse(text, n, finish_reason)
