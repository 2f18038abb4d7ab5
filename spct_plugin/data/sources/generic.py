r"""Chosen/rejected and ranked rows of any origin, and the sets that are just that.

{"prompt": "Name a prime.", "chosen": "7", "rejected": "8", "score_chosen": 9, "score_rejected": 2}
{"prompt": "Name a prime.", "completions": ["8", "7", "9"], "scores": [1, 5, 2]}

- pairs: TRL's preference format, `prompt` explicit or the common turns of `chosen` and `rejected`;
  Source: https://huggingface.co/docs/trl/dataset_formats.
- ranked: `completions` with one of `scores` (higher is better), `ranks` (1 is best), `label`.
- skywork: Skywork/Skywork-Reward-Preference-80K-v0.2 (hub), {chosen, rejected: [user, assistant],
  source}; the card names no licence of its own: the terms of its parts hold.
- ultrafeedback-binarized: HuggingFaceH4/ultrafeedback_binarized {prompt, chosen, rejected:
  [user, assistant], score_chosen, score_rejected} and argilla's cleaned one {chosen-rating,
  rejected-rating}; both MIT.
- hh-rlhf: anthropics/hh-rlhf {chosen, rejected: "\n\nHuman: ...\n\nAssistant: ..."}; MIT.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from spct_plugin.data.sources import (
    Example,
    Row,
    Skip,
    Turns,
    best_of,
    items,
    keep,
    number,
    one_of,
    text,
    turns,
)
from spct_plugin.errors import TaskError
from spct_plugin.types import is_mapping

SCORES = (
    ("score_chosen", "score_rejected"),
    ("chosen-rating", "rejected-rating"),
    ("chosen_rating", "rejected_rating"),
)
SPEAKERS = {"Human": "user", "Assistant": "assistant"}


def chosen_rejected(row: Row) -> Iterator[Example | Skip]:
    """Read a pair; where both sides carry a score, the scores must agree that chosen is better."""
    prompt, chosen, rejected = _split(row)
    metadata = keep(row, "source", "prompt_id")
    for keys in SCORES:
        if all(row.get(key) is not None for key in keys):
            good, bad = (number(row[key], key) for key in keys)
            if good < bad:
                yield Skip("the rejected completion has the higher score")
            else:
                yield best_of(prompt, [chosen, rejected], [good, bad], metadata, _reference(row))
            return
    yield Example(prompt, [chosen, rejected], 0, metadata, _reference(row))


def ranked(row: Row) -> Iterator[Example | Skip]:
    """Read a list with scores, ranks, or the index of the best."""
    completions = items(row, "completions")
    keys = [key for key in ("scores", "ranks", "label") if row.get(key) is not None]
    if len(keys) != 1:
        raise TaskError(f"expected one of the columns scores, ranks, label, found {keys}")
    prompt = turns(row, "prompt")
    metadata = keep(row, "source", "prompt_id")
    if keys == ["label"]:
        best = one_of(row, "label", range(max(2, len(completions))))
        yield Example(prompt, completions, best, metadata, _reference(row))
        return
    sign = 1 if keys == ["scores"] else -1
    scores = [sign * number(value, keys[0]) for value in items(row, keys[0])]
    yield best_of(prompt, completions, scores, metadata, _reference(row))


def hh_rlhf(row: Row) -> Iterator[Example | Skip]:
    """Read a pair of dialogues that are written out as one text each."""
    yield from chosen_rejected({key: _dialogue(text(row, key)) for key in ("chosen", "rejected")})


def _dialogue(written: str) -> list[dict[str, str]]:
    head, *parts = re.split(r"\n\n(Human|Assistant):", written)
    if head.strip() or not parts:
        raise TaskError(f"expected a dialogue that begins with 'Human:', found {written!r:.40}")
    return [
        {"role": SPEAKERS[speaker], "content": said.strip()}
        for speaker, said in zip(parts[::2], parts[1::2], strict=True)
    ]


def _split(row: Row) -> tuple[Turns, Turns, Turns]:
    """Find prompt and two completions; turns that both sides begin with belong to the prompt."""
    chosen, rejected = turns(row, "chosen"), turns(row, "rejected")
    if isinstance(chosen, str) or isinstance(rejected, str):
        return turns(row, "prompt"), chosen, rejected
    shared = 0
    while shared < min(len(chosen), len(rejected)) - 1 and chosen[shared] == rejected[shared]:
        shared += 1
    asked: list[Any] = list(chosen[:shared])
    given: Turns = turns(row, "prompt") if row.get("prompt") is not None else ()
    if isinstance(given, str):
        given = [{"role": "user", "content": given}]
    # Some sets repeat the prompt in both sides, some do not.
    prompt = asked if asked and not _is_answer(asked[0]) else [*given, *asked]
    return prompt, _completion(chosen[shared:]), _completion(rejected[shared:])


def _completion(said: Sequence[Any]) -> Turns:
    """Check that the turns are an answer; a single plain one becomes its text."""
    if not said or not _is_answer(said[0]):
        raise TaskError(f"expected an answer after the common turns, found {said!r:.60}")
    first = said[0]
    plain = len(said) == 1 and isinstance(first.get("content"), str) and not first.get("tool_calls")
    return first["content"] if plain else said


def _is_answer(turn: object) -> bool:
    return is_mapping(turn) and turn.get("role") not in ("user", "system")


def _reference(row: Row) -> str | None:
    return text(row, "reference") if row.get("reference") is not None else None
