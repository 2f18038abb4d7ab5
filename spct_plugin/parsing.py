r"""Read a judge's answer: the scores in its last box, and the principles and critique before it.

    parse_judgement("Specific Criteria: fit (60%)\nScores: \\boxed{7, 3}", n=2).scores == (7, 3)

Only the last `\boxed{...}` decides, as it is the one dependable part of real outputs (DeepSeek-GRM
paper, Tables 16-18). No earlier box is tried, a bare `[7, 3]` never counts, nothing is repaired by
guess: text that a completion smuggled into the critique must not become a score. All of it is
linear in the length of the text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from spct_plugin.failures import Failure
from spct_plugin.types import Principle

BOX = "\\boxed{"
THINK_OPEN, THINK_CLOSE = "<think>", "</think>"

# Every repetition is bounded, so that no text costs more than linear time.
# Nine digits hold every scale in use.
_INTEGER = re.compile(r"\s{0,20}(-?[0-9]{1,9})\s{0,20}(?:,|\Z)", re.ASCII)
_SECTION = re.compile(
    r"^[ \t#*_>-]{0,20}(specific criteria|analysis|scores|output)[ *_]{0,8}(?::[ *_]{0,8}|$)",
    re.IGNORECASE | re.MULTILINE,
)
_ITEM_MARK = re.compile(r"^[ \t]{0,8}(?:[-*•]|[0-9]{1,3}[.)])[ \t]", re.MULTILINE)
_WEIGHT = re.compile(r"\((?:weight ?:? ?)?([0-9]{1,6}(?:\.[0-9]{1,6})? ?%?)\)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class ParsedJudgement:
    """What a judge's answer holds.

    Attributes:
        scores: One per completion, in the order the judge saw them; None on failure.
        failure: Why there are no scores; None when there are.
        detail: One line on the failure; "" without one.
        principles: The criteria the judge stated; empty when it stated none in a known form.
        critique: The analysis; the whole text before the box when there are no section headings.
    """

    scores: tuple[int, ...] | None
    failure: Failure | None = None
    detail: str = ""
    principles: tuple[Principle, ...] = ()
    critique: str = ""


def parse_judgement(
    text: str,
    n: int,
    finish_reason: str | None = "stop",
    scale: tuple[int, int] = (1, 10),
) -> ParsedJudgement:
    r"""Read scores, principles and critique from a judge's answer. Never raises on any text.

    Args:
        text: The whole answer; everything up to the last `</think>` is dropped.
        n: How many scores are expected.
        finish_reason: The engine's word on how the answer ended; "length" is always `truncated`,
            "content_filter" always `refused`.
        scale: Lowest and highest allowed score, both included.

    Returns:
        Scores in the order the judge saw the completions, or a failure: `truncated`, `refused`,
        `no_scores` (no closed box, or one that does not hold integers), `wrong_count`,
        `out_of_range`.
    """
    if finish_reason == "length":
        return ParsedJudgement(None, "truncated", "the answer hit max_tokens; raise it")
    if finish_reason == "content_filter":
        return ParsedJudgement(None, "refused", "the engine's content filter stopped the answer")
    answer = text[text.rfind(THINK_CLOSE) + len(THINK_CLOSE) :] if THINK_CLOSE in text else text
    if THINK_OPEN in answer:
        return ParsedJudgement(None, "truncated", f"{THINK_OPEN} was never closed")
    start = answer.rfind(BOX)
    end = answer.find("}", start) if start >= 0 else -1
    principles, critique = _sections(answer[:start] if start >= 0 else answer)
    if end < 0:
        detail = f"no closed {BOX}...}} in the answer"
        return ParsedJudgement(None, "no_scores", detail, principles, critique)
    scores, failure, detail = _scores(answer[start + len(BOX) : end], n, scale)
    return ParsedJudgement(scores, failure, detail, principles, critique)


def _scores(
    content: str, n: int, scale: tuple[int, int]
) -> tuple[tuple[int, ...] | None, Failure | None, str]:
    """Read a box's content: (scores, None, "") or (None, failure, detail)."""
    numbers: list[int] = []
    position = 0
    while position < len(content):
        match = _INTEGER.match(content, position)
        if match is None:
            return None, "no_scores", f"expected integers in the last box, found {content[:40]!r}"
        numbers.append(int(match[1]))
        position = match.end()
    if not numbers or content.rstrip().endswith(","):
        return None, "no_scores", f"expected integers in the last box, found {content[:40]!r}"
    if len(numbers) != n:
        return None, "wrong_count", f"expected {n} scores, found {len(numbers)}: {numbers[:10]}"
    low, high = scale
    if any(not low <= number <= high for number in numbers):
        return None, "out_of_range", f"expected scores in {low}..{high}, found {numbers[:10]}"
    return tuple(numbers), None, ""


def _sections(text: str) -> tuple[tuple[Principle, ...], str]:
    """Split what stands before the box into principles and critique, by the known headings."""
    parts: dict[str, str] = {}
    heads = list(_SECTION.finditer(text))
    ends = [head.start() for head in heads[1:]] + [len(text)]
    for head, end in zip(heads, ends, strict=False):
        parts[head[1].lower()] = text[head.end() : end].strip()
    critique = parts.get("analysis", "" if heads else text.strip())
    return _principles(parts.get("specific criteria", "")), critique


def _principles(section: str) -> tuple[Principle, ...]:
    """Read criteria from list items, or from one line in which every criterion ends in a weight."""
    if _ITEM_MARK.search(section):
        items = [line for line in _ITEM_MARK.split(section) if line.strip()]
        return tuple(_principle(item) for item in items)
    items: list[str] = []
    position = 0
    for weight in _WEIGHT.finditer(section):
        items.append(section[position : weight.end()])
        position = weight.end()
    if section[position:].strip(" \n.,;:*"):
        items.append(section[position:])
    return tuple(_principle(item) for item in items)


def _principle(item: str) -> Principle:
    weight = _WEIGHT.search(item)
    text = item[: weight.start()] + item[weight.end() :] if weight else item
    text = " ".join(text.replace("**", "").split()).strip(" ,;.:")
    return Principle(text.removeprefix("and "), weight[1] if weight else None)
