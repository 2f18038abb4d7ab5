"""Pairs and lists of benchmarks and of OffsetBias, whose rows name two outputs and the better one.

- offsetbias: NCSOFT/offsetbias, train.jsonl {instruction, output_1, output_2, label: 1 | 2};
  BSD-3-Clause; arXiv:2407.06551.
- llmbar: princeton-nlp/LLMBar, dataset.json {input, output_1, output_2, label: 1 | 2}; MIT.
- judgebench: ScalerLab/JudgeBench {pair_id, original_id, source, question, response_model,
  response_A, response_B, label: "A>B" | "B>A"}; MIT.
- rmbench: THU-KEG/RM-Bench {id, prompt, subset, chosen[3], rejected[3]}, styles in the order
  concise, detailed plain, detailed markdown; ODC-By. Nine pairs a row, fewer where two styles are
  the same text; `styles` lists the cells [chosen, rejected] of the 3x3 matrix a pair stands for.
- rewardmath: kimsh0507/RewardMATH_official {problem, answer, eval_solution[steps],
  solution_reference, solution_type: chosen | rejected, problem_id, ...}, a solution a row; MIT.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

from spct_plugin.data.sources import Example, Row, Skip, items, keep, one_of, text
from spct_plugin.errors import TaskError


def offsetbias(row: Row) -> Iterator[Example | Skip]:
    """Read a pair of OffsetBias."""
    pair = [text(row, "output_1"), text(row, "output_2")]
    yield Example(text(row, "instruction"), pair, one_of(row, "label", (1, 2)))


def llmbar(row: Row) -> Iterator[Example | Skip]:
    """Read a pair of LLMBar."""
    pair = [text(row, "output_1"), text(row, "output_2")]
    yield Example(text(row, "input"), pair, one_of(row, "label", (1, 2)), keep(row, "subset"))


def judgebench(row: Row) -> Iterator[Example | Skip]:
    """Read a pair of JudgeBench."""
    pair = [text(row, "response_A"), text(row, "response_B")]
    metadata = keep(row, "pair_id", "source", "response_model")
    yield Example(text(row, "question"), pair, one_of(row, "label", ("A>B", "B>A")), metadata)


def rmbench(row: Row) -> Iterator[Example | Skip]:
    """Read a row of RM-Bench into the pairs of its 3x3 matrix."""
    chosen, rejected = items(row, "chosen"), items(row, "rejected")
    if len(chosen) != 3 or len(rejected) != 3:
        raise TaskError(
            f"expected 3 chosen and 3 rejected, found {len(chosen)} and {len(rejected)}"
        )
    cells: dict[tuple[str, str], list[list[int]]] = {}
    for i, j in product(range(3), repeat=2):
        pair = (text({"chosen": chosen[i]}, "chosen"), text({"rejected": rejected[j]}, "rejected"))
        cells.setdefault(pair, []).append([i, j])
    metadata = {"item": row.get("id"), "domain": row.get("domain") or row.get("_domain_file")}
    for pair, styles in cells.items():
        yield Example(text(row, "prompt"), pair, 0, {**metadata, "styles": styles})


def rewardmath(row: Row) -> Iterator[Example | Skip]:
    """Read all solutions of one problem: the chosen one against the rejected ones."""
    rows = items(row, "rows")
    kinds = [one_of(one, "solution_type", ("chosen", "rejected")) for one in rows]
    if kinds.count(0) != 1 or len(rows) < 2:
        raise TaskError(
            f"expected 1 chosen and some rejected solutions together, found {kinds.count(0)} and "
            f"{kinds.count(1)}"
        )
    completions = ["\n".join(map(str, items(one, "eval_solution"))) for one in rows]
    metadata = keep(rows[0], "problem_id", "answer", "subject", "level")
    yield Example(text(rows[0], "problem"), completions, kinds.index(0), metadata)
