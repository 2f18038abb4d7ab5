"""Sources: how a row of a preference set becomes labelled tasks. One small module per family.

    source = Source(lambda row: [Example(row["ask"], [row["good"], row["bad"]], best=0)])

A source only reads: order, ids, duplicates, splits and leakage are the same for all of them and
live in `spct_plugin.data.building`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from spct_plugin.errors import TaskError
from spct_plugin.types import is_list

Row = Mapping[str, Any]
Turns = str | Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Example:
    """A prompt whose best completion is known.

    Attributes:
        prompt: A text or the turns of a conversation.
        completions: n >= 1, in the order of the set.
        best: Index of the best; for one completion alone 1 = correct, 0 = not.
        metadata: What else to keep; `strength` is how much better the best is, in the set's unit.
        reference: A known good answer the judge may see, or None.
    """

    prompt: Turns
    completions: Sequence[Turns]
    best: int
    metadata: Mapping[str, Any] = field(default_factory=dict[str, Any])
    reference: str | None = None


@dataclass(frozen=True, slots=True)
class Skip:
    """A row that is well formed and yet no task, and why: counted, not an error."""

    reason: str


@dataclass(frozen=True, slots=True)
class Source:
    """A preference set's way to read.

    Attributes:
        convert: From a row to its examples; raises TaskError for a row without the set's columns.
        group: A column; neighbouring rows equal in it are handed over as one {"rows": [...]}.
    """

    convert: Callable[[Row], Iterable[Example | Skip]]
    group: str | None = None


def best_of(
    prompt: Turns,
    completions: Sequence[Turns],
    scores: Sequence[float],
    metadata: Mapping[str, Any],
    reference: str | None = None,
) -> Example | Skip:
    """Label the completion with the highest score; its lead over the next is the strength."""
    if len(scores) != len(completions):
        raise TaskError(
            f"expected a score per completion, found {len(scores)} for {len(completions)}"
        )
    if len(scores) < 2:
        return Skip("fewer than 2 completions")
    second, first = sorted(scores)[-2:]
    if first == second:
        return Skip("tie: no unique best")
    metadata = {**metadata, "strength": round(first - second, 6)}
    return Example(prompt, completions, scores.index(first), metadata, reference)


def text(row: Row, key: str) -> str:
    """Read a text column."""
    if not isinstance(row.get(key), str):
        raise TaskError(f"{key}: expected a text, found {row.get(key)!r:.40}")
    return row[key]


def turns(row: Row, key: str) -> Turns:
    """Read a column that holds a text or a list of messages."""
    if not isinstance(row.get(key), str) and not is_list(row.get(key)):
        raise TaskError(f"{key}: expected a text or a list of messages, found {row.get(key)!r:.40}")
    return row[key]


def items(row: Row, key: str) -> Sequence[Any]:
    """Read a list column."""
    if not is_list(row.get(key)):
        raise TaskError(f"{key}: expected a list, found {row.get(key)!r:.40}")
    return row[key]


def one_of(row: Row, key: str, allowed: Sequence[Any]) -> int:
    """Read a column with a few allowed values; gives the index of the one found."""
    if isinstance(row.get(key), bool) or row.get(key) not in allowed:
        raise TaskError(f"{key}: expected one of {list(allowed)}, found {row.get(key)!r:.40}")
    return allowed.index(row[key])


def number(value: object, what: str) -> float:
    """Check a finite number; a text of one counts, as ratings are often stored so."""
    try:
        found = float(value) if isinstance(value, str | int | float) else math.nan
    except (ValueError, OverflowError):
        found = math.nan
    if isinstance(value, bool) or not math.isfinite(found):
        raise TaskError(f"{what}: expected a number, found {value!r:.40}")
    return found


def keep(row: Row, *keys: str) -> dict[str, Any]:
    """Take the columns that are there as metadata."""
    return {key: row[key] for key in keys if row.get(key) is not None}
