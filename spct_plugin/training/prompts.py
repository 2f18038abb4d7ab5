"""The prompts that a judge is trained on: the same that it is asked with, but for the code.

    prompts = JudgePrompts(SPCTConfig.load("judge.yaml"))
    prompts.text(task, order=(1, 0))

The code in the delimiters is another for every task, so that a judge learns to heed it, not to know
it; made from the task alone, so that the same data gives the same file.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from spct_plugin.budget import view_task
from spct_plugin.config import SPCTConfig
from spct_plugin.errors import TaskError
from spct_plugin.plugins import load_plugins
from spct_plugin.types import JudgeTask


class JudgePrompts:
    """Writes prompts by a configuration's template.

    Args:
        config: Its template, budget and seed count.
    """

    def __init__(self, config: SPCTConfig) -> None:
        self.template, _ = config.template_and_vote(load_plugins(config.plugins))
        self._config = config

    def text(self, task: JudgeTask, order: Sequence[int]) -> str:
        """Write the judge's user message, with the completions in the given order.

        Raises:
            TaskError: More completions than the template shows, or one alone on a scale on which
                its label 0 or 1 means nothing.
        """
        most = self.template.max_responses
        if most is not None and len(order) > most:
            raise TaskError(
                f"template {self.template.name!r} shows {most} completion(s), found a task with "
                f"{len(order)}; name the template that it was sampled with"
            )
        if len(task.completions) == 1 and tuple(self.template.scale) != (0, 1):
            raise TaskError(
                "a completion alone has the label 0 or 1, found the scale "
                f"{list(self.template.scale)}; use template.name: single for such tasks"
            )
        budget = self._config.budget
        viewed = view_task(task, budget.completion_view, budget.max_completion_chars)
        nonce = viewed.digest().hex()[:12] if self._config.template.nonce else ""
        return self.template.render(viewed, order, nonce)

    def check_sampled_with(self, template: str) -> None:
        """Refuse to train on answers to another template's prompts.

        Raises:
            TaskError: They were sampled with another template.
        """
        if template not in ("", self.template.name):
            raise TaskError(
                f"the judgements were sampled with template {template!r}, found "
                f"{self.template.name!r}; give the configuration that sampled, with -c and -s"
            )

    def shuffled(self, task: JudgeTask, draw: int = 0) -> tuple[int, ...]:
        """Draw an order for a task; another `draw`, another order."""
        seed = f"{self._config.sampling.seed} {draw} {task.digest().hex()}"
        n = len(task.completions)
        return tuple(random.Random(seed).sample(range(n), n))
