"""Rules beside the judge: plain reward functions, called with TRL's keywords in every framework."""

from __future__ import annotations

import asyncio
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from spct_plugin.errors import ConfigError, PluginError, RuleError
from spct_plugin.plugins import await_foreign, import_file, run_foreign
from spct_plugin.types import JudgeTask

Rule = Callable[..., Any]


def load_rule(path: str) -> Rule:
    """Import "module:function" or "file.py:function".

    Raises:
        ConfigError: There is no such file, module or function.
    """
    where, _, name = path.rpartition(":")
    find = (
        partial(import_file, Path(where))
        if where.endswith(".py")
        else partial(import_module, where)
    )
    try:
        module = run_foreign(find, f"reward.rewards: cannot import {where!r}")
    except PluginError as error:
        raise ConfigError(str(error)) from error.__cause__
    rule = getattr(module, name, None)
    if not callable(rule):
        raise ConfigError(f"reward.rewards: expected a function {name!r} in {where!r}, found none")
    return rule


async def sum_rules(
    rules: Sequence[tuple[str, Rule, float]], keywords: Mapping[str, Any], rows: int
) -> list[float]:
    """Call every rule and add up weight x number for each row.

    Args:
        rules: (path, function, weight); functions may be async.
        keywords: `prompts`, `completions` and columns, lists of length `rows`, and what else the
            framework hands over.
        rows: Completions.

    Returns:
        One sum per row. A rule's None adds nothing, as in TRL.

    Raises:
        RuleError: A rule raised, or returned another number of values, or NaN or infinity.
    """
    sums = [0.0] * rows
    for path, rule, weight in rules:
        call, failed = partial(rule, **keywords), f"rule {path!r} failed"
        try:
            # Off the loop: in OpenRLHF's agent, generation runs on the same one.
            values = await asyncio.to_thread(run_foreign, call, failed)
            if inspect.isawaitable(values):
                values = await await_foreign(values, failed)
        except PluginError as error:
            raise RuleError(str(error)) from error.__cause__
        for row, value in enumerate(_numbers(path, values, rows)):
            if not math.isfinite(value):
                raise RuleError(f"rule {path!r}: expected a finite number or None, found {value}")
            sums[row] += weight * value
    return sums


def _numbers(path: str, values: Any, rows: int) -> list[float]:
    try:
        numbers = [0.0 if value is None else float(value) for value in values]
    except (TypeError, ValueError):
        raise RuleError(f"rule {path!r}: expected {rows} numbers, found {values!r:.60}") from None
    if len(numbers) != rows:
        raise RuleError(f"rule {path!r}: expected {rows} numbers, found {len(numbers)}")
    return numbers


def task_keywords(tasks: Sequence[JudgeTask]) -> dict[str, Any]:
    """Lay tasks out as TRL does: one row per completion, metadata keys as columns."""
    rows = [(task, completion) for task in tasks for completion in task.as_dict()["completions"]]
    columns = {key for task in tasks for key in task.metadata}
    keywords: dict[str, Any] = {
        column: [task.metadata.get(column) for task, _ in rows] for column in sorted(columns)
    }
    keywords["prompts"] = [[turn.as_dict() for turn in task.prompt] for task, _ in rows]
    keywords["completions"] = [completion for _, completion in rows]
    keywords["reference"] = [task.reference for task, _ in rows]
    return keywords
