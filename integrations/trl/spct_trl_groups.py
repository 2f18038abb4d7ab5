"""TRL's flat rows as groups: which completions belong to one prompt, and their tasks. Pure."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from spct_plugin import ConfigError, JudgeTask


@dataclass(frozen=True)
class Row:
    """One completion of one prompt, as TRL hands it over, picklable.

    Attributes:
        prompt: Text or messages.
        completion: Text or messages.
        reference: A known good answer, from a column of the data set.
        principles: A list of criteria to judge by, likewise; the task checks it.
    """

    prompt: Any
    completion: Any
    reference: str | None = None
    principles: Any = ()


def rows_of(
    prompts: Sequence[Any],
    completions: Sequence[Any],
    columns: Mapping[str, Any],
    names: Mapping[str, str],
) -> list[Row]:
    """Put prompts, completions and the named columns of the data set side by side.

    Raises:
        ConfigError: A column that the configuration names is not there.
    """
    for name in names.values():
        if name not in columns:
            known = sorted(key for key, value in columns.items() if isinstance(value, list))
            raise ConfigError(f"trl.columns: expected one of {known}, found {name!r}")
    nothing = [None] * len(prompts)
    references = columns[names["reference"]] if "reference" in names else nothing
    principles = columns[names["principles"]] if "principles" in names else nothing
    return [
        Row(prompt, completion, reference, criteria or ())
        for prompt, completion, reference, criteria in zip(
            prompts, completions, references, principles, strict=True
        )
    ]


def trainer_group_size(log_metric: object) -> tuple[int | None, bool]:
    """Ask the trainer behind the bound `log_metric` for its group size.

    Returns:
        Completions per prompt (None without a trainer), and whether it is training.
    """
    trainer = getattr(log_metric, "__self__", None)
    model = getattr(trainer, "model", None)
    if trainer is None or model is None:
        return None, True
    if model.training:
        return getattr(trainer, "num_generations", None), True
    return getattr(trainer, "num_generations_eval", None), False


def group_sizes(rows: Sequence[Row], size: int | None, *, training: bool) -> list[int]:
    """Find the groups: consecutive rows of one prompt, at most `size` of them.

    Args:
        rows: The rows of all ranks, in rank order.
        size: Completions per prompt; None = as many as follow each other.
        training: Whether every group must have exactly `size`. In evaluation a group may be cut.

    Raises:
        ConfigError: A group of another size in training: judging it would compare strangers.
    """
    runs = [len(list(run)) for _, run in itertools.groupby(map(_prompt_key, rows))]
    if size is None:
        return runs
    sizes = [part for run in runs for part in [size] * (run // size) + [run % size] if part]
    odd = next((part for part in sizes if part != size), None)
    if training and odd is not None:
        raise ConfigError(
            f"expected {size} completions of every prompt in a row, found {odd}; set "
            "trl.group_size to the trainer's num_generations"
        )
    return sizes


def task_of(rows: Sequence[Row]) -> JudgeTask:
    """Make the task of one group."""
    first = rows[0]
    return JudgeTask(
        first.prompt,
        [row.completion for row in rows],
        reference=first.reference,
        principles=first.principles,
    )


def _prompt_key(row: Row) -> str:
    return json.dumps(row.prompt, sort_keys=True, default=str)
