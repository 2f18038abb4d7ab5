r"""Problems whose answers a program can check: pairs of solutions, or one solution and 0/1.

{"problem": "2 + 2?", "answer": "4", "completions": ["\\boxed{4}", "\\boxed{5}"]}
{"prompt": "2 + 2?", "completion": "\\boxed{4}", "label": true}

- The first form is MATH (hendrycks/competition_math, MIT: {problem, solution, ...} with the answer
  boxed in `solution`), GSM8K (openai/gsm8k, MIT: {question, answer: "... #### 4"}) with sampled
  `completions` added, or open-r1/OpenR1-Math-220k as it is (Apache-2.0: {problem, answer,
  generations, ...}).
- The second is TRL's unpaired preference format; https://huggingface.co/docs/trl/dataset_formats.

A solution counts by its last `\boxed{}`. One without it (or cut off while still thinking) is left
out: nothing says that it is wrong. The answer goes to the metadata, never to the judge.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from fractions import Fraction

from spct_plugin.data.sources import Example, Row, Skip, items, one_of, text, turns
from spct_plugin.errors import TaskError

BOX = "\\boxed{"
NO_ANSWER = Skip("no solution with a boxed answer")


def math(row: Row) -> Iterator[Example | Skip]:
    """Pair every correct solution with a wrong one, each used once, as far as they go."""
    problem, answer, right, wrong = _checked(row)
    if not right and not wrong:
        yield NO_ANSWER
    elif not right or not wrong:
        yield Skip("all solutions right" if right else "all solutions wrong")
    for good, bad in zip(right, wrong, strict=False):
        yield Example(problem, [good, bad], 0, {"answer": answer})


def verifiable(row: Row) -> Iterator[Example | Skip]:
    """Give each completion alone, with 1 when it is correct and 0 when not."""
    if "completion" in row:
        label = row.get("label")
        flag = one_of({"label": int(label) if isinstance(label, bool) else label}, "label", (0, 1))
        yield Example(turns(row, "prompt"), [turns(row, "completion")], flag)
        return
    problem, answer, right, wrong = _checked(row)
    if not right and not wrong:
        yield NO_ANSWER
    for label, solutions in ((1, right), (0, wrong)):
        for solution in solutions:
            yield Example(problem, [solution], label, {"answer": answer})


def same_answer(first: str, second: str) -> bool:
    r"""Compare answers as text, or as numbers: "0.5", "\frac12" and "1/2" are the same."""
    return _normal(first) == _normal(second)


def last_box(written: str) -> str | None:
    r"""Give what the last `\boxed{}` holds, braces inside included; None without a whole one."""
    start = written.rfind(BOX)
    depth = 1
    for end in range(start + len(BOX), len(written) if start >= 0 else 0):
        depth += {"{": 1, "}": -1}.get(written[end], 0)
        if depth == 0:
            return written[start + len(BOX) : end]
    return None


def _checked(row: Row) -> tuple[str, str, list[str], list[str]]:
    """Give problem, answer, right and wrong solutions."""
    answer = _answer(row)
    right: list[str] = []
    wrong: list[str] = []
    for solution in dict.fromkeys(_solutions(row)):
        thinking = "<think>" in solution and "</think>" not in solution
        found = None if thinking else last_box(solution)
        if found is not None:
            (right if same_answer(found, answer) else wrong).append(solution)
    return text(row, "problem" if "problem" in row else "question"), answer, right, wrong


def _solutions(row: Row) -> Sequence[str]:
    key = "completions" if "completions" in row else "generations"
    found = items(row, key)
    if not all(isinstance(one, str) for one in found):
        raise TaskError(f"{key}: expected texts, found {found!r:.40}")
    return found


def _answer(row: Row) -> str:
    if row.get("answer") is not None:
        return text(row, "answer").rpartition("####")[2].strip()
    boxed = last_box(text(row, "solution"))
    if boxed is None:
        raise TaskError("expected an answer, or a solution that boxes it; found neither")
    return boxed


def _normal(answer: str) -> str | Fraction:
    plain = answer.strip().strip("$").rstrip(".")
    plain = re.sub(
        r"\\(?:left|right|displaystyle|[!,;: ])|\\?[$%]|\^\\circ|\^\{\\circ\}", "", plain
    )
    plain = re.sub(r"\\(?:text|mathrm|mbox)\{\s*([^{}]*)\}", r"\1", plain)
    plain = re.sub(r"\\[dt]frac", r"\\frac", plain)
    plain = re.sub(r"\\frac\s*(\d)\s*(\d)", r"\\frac{\1}{\2}", plain)
    plain = re.sub(r"^[a-zA-Z]\s*=", "", plain)
    plain = re.sub(r"\s+", "", plain)
    fraction = re.sub(r"^(-?)\\frac\{(-?\d+)\}\{(\d+)\}$", r"\1\2/\3", plain)
    if re.fullmatch(r"-?\d{1,3}(,\d{3})+(\.\d+)?", fraction):
        fraction = fraction.replace(",", "")
    try:
        return Fraction(fraction)
    except (ValueError, ZeroDivisionError):
        return plain
