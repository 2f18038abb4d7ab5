"""How a tiny judge came to its scores, which only the world's program knows.

    python quality.py eval_tasks.jsonl eval_cold.jsonl eval_rft.jsonl eval_rl.jsonl

Reads what `spct eval` left. relevant: share of the stated criteria that were asked for.
checks_right: share of the checks with evidence that the world agrees with. sloppy: share of the
judgements of which fewer than half the responses were added up.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from spct_plugin.data.rows import TaskRow, read_tasks
from spct_plugin.templates import load_template
from spct_plugin.tiny.teacher import criterion, is_sloppy, read_criterion
from spct_plugin.tiny.world import CLEAR, read_instruction, satisfied
from spct_plugin.types import JudgeTask

TEMPLATE = load_template("tiny")
_LINE = re.compile(r"^Response (\d+): (.*)$", re.MULTILINE)
_CHECK = re.compile(r"(\w+ \w+): (?:found|absent|clean|garbled), (yes|no) \d+")


def quality(tasks: dict[str, JudgeTask], path: Path) -> dict[str, Any]:
    """Compare all judgements of a file with the world."""
    relevant: list[bool] = []
    right: list[bool] = []
    sloppy: list[bool] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        task = tasks[row["id"]]
        asked = {
            criterion(c) for c in (*read_instruction(task.prompt[0].content).constraints, CLEAR)
        }
        for judgement in row["judgements"]:
            parsed = TEMPLATE.parse(judgement["text"], len(judgement["order"]), "stop")
            relevant += [principle.text in asked for principle in parsed.principles]
            right += checks_right(task, judgement)
            sloppy.append(is_sloppy(judgement["text"]))
    shares = {"relevant": relevant, "checks_right": right, "sloppy": sloppy}
    return {name: round(sum(found) / max(1, len(found)), 3) for name, found in shares.items()}


def checks_right(task: JudgeTask, judgement: dict[str, Any]) -> Iterator[bool]:
    """Compare every check that states evidence with the world."""
    order = judgement["order"]
    for number, line in _LINE.findall(judgement["text"]):
        if 1 <= int(number) <= len(order):
            completion = str(task.completions[order[int(number) - 1]])
            for name, verdict in _CHECK.findall(line):
                constraint = read_criterion(name)
                if constraint is not None:
                    yield (verdict == "yes") == satisfied(constraint, completion)


def main() -> None:
    """Print one line per file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tasks", type=Path)
    parser.add_argument("judged", type=Path, nargs="+", help="what spct eval left")
    options = parser.parse_args()
    tasks = {row.id: row.task for row in read_tasks(options.tasks) if isinstance(row, TaskRow)}
    for path in options.judged:
        print(json.dumps({"file": path.name, **quality(tasks, path)}))


if __name__ == "__main__":
    main()
