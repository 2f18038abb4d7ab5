"""Labelled tasks of the offline world, as rows of a JSONL file.

    row = next(labelled_tasks(seed=0, count=1, completions=2))
    row["label"], row["metadata"]["truth"]

The same seed gives the same rows everywhere, and another count only more of them. Seeds from
`HELD_OUT` on are for measuring: no recipe trains on them.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import Any

from spct_plugin.tiny.world import make_task

HELD_OUT = 1_000_000


def labelled_tasks(seed: int, count: int, completions: int = 2) -> Iterator[dict[str, Any]]:
    """Yield rows with an id, a prompt, its completions, a label and the truth of each completion.

    Args:
        seed: Any integer.
        count: How many rows.
        completions: n >= 1 in each row.

    Yields:
        `label` is the index of the best completion; for n = 1, 1 when it is good, else 0.
    """
    rng = Random(f"tasks {seed} {completions}")
    for number in range(count):
        task, label = make_task(rng, completions)
        yield {
            "id": f"tiny-{seed}-{completions}-{number}",
            "prompt": task.prompt[0].content,
            "completions": list(task.completions),
            "label": label,
            "metadata": {"truth": list(task.metadata["truth"])},
        }
