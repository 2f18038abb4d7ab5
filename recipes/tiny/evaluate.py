"""Measure a tiny judge on held-out tasks, and how well it rewards a tiny policy.

    python evaluate.py judge /tmp/grm
    python evaluate.py reward /tmp/grm /tmp/policy

Accuracy: the share of tasks whose best completion gets the best mean score; among tied ones the
share of the right one; a task without any readable judgement counts as a guess. Votes go through
cyclic orders, so every completion stands in every place equally often.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from sampling import sample
from training import about, write_log

from spct_plugin.parsing import ParsedJudgement
from spct_plugin.templates import load_template
from spct_plugin.tiny.model import load_model
from spct_plugin.tiny.tasks import HELD_OUT, labelled_tasks
from spct_plugin.tiny.teacher import criterion, is_sloppy, read_criterion
from spct_plugin.tiny.world import CLEAR, make_instruction, read_instruction, satisfied, truth
from spct_plugin.types import JudgeTask

TEMPLATE = load_template("tiny")
JUDGE_TOKENS, POLICY_TOKENS = 384, 64
_LINE = re.compile(r"^Response (\d+): (.*)$", re.MULTILINE)
_CHECK = re.compile(r"(\w+ \w+): (?:found|absent|clean|garbled), (yes|no) \d+")


@dataclass
class Vote:
    """One judgement of one task; `scores` in the task's own order, None where not seen."""

    order: Sequence[int]
    text: str
    parsed: ParsedJudgement
    scores: list[float | None]


def judge(
    judge_path: Path,
    tasks: Sequence[JudgeTask],
    orders: Sequence[Sequence[Sequence[int]]],
    temperature: float,
) -> tuple[list[list[Vote]], dict[str, float]]:
    """Judge every task once per order; an order may leave completions out."""
    model, tokenizer = load_model(judge_path)
    jobs = [(i, order) for i, its_orders in enumerate(orders) for order in its_orders]
    prompts = [TEMPLATE.render(tasks[i], order) for i, order in jobs]
    answers = sample(model, tokenizer, prompts, max_tokens=JUDGE_TOKENS, temperature=temperature)
    votes: list[list[Vote]] = [[] for _ in tasks]
    for (i, order), text in zip(jobs, answers.texts, strict=True):
        parsed = TEMPLATE.parse(text, len(order), "stop")
        scores: list[float | None] = [None] * len(tasks[i].completions)
        for at, score in zip(order, parsed.scores or (), strict=False):
            scores[at] = score
        votes[i].append(Vote(order, text, parsed, scores))
    return votes, {"tokens": answers.tokens, "seconds": round(answers.seconds, 1)}


def mean_scores(votes: Sequence[Vote], n: int) -> list[float]:
    """Average over the votes that saw a completion; without any, the middle of the scale."""
    seen = [[vote.scores[i] for vote in votes if vote.scores[i] is not None] for i in range(n)]
    return [float(np.mean(scores)) if scores else 5.5 for scores in seen]


def credit(scores: Sequence[float], label: int) -> float:
    """Give 1 for the right winner, a share for a tie, else 0."""
    winners = [i for i, score in enumerate(scores) if score >= max(scores) - 1e-9]
    return (label in winners) / len(winners)


def evaluate_judge(path: Path, n: int, count: int, k: int, temperature: float) -> dict[str, Any]:
    """Measure accuracy (n > 1) or agreement with the truth (n = 1), and the judgements' quality."""
    rows = list(labelled_tasks(HELD_OUT, count, n))
    tasks = [JudgeTask(row["prompt"], row["completions"]) for row in rows]
    starts = Random(0)
    orders = []
    for _ in tasks:
        first = starts.randrange(n)
        orders.append([[(first + vote + i) % n for i in range(n)] for vote in range(k)])
    votes, cost = judge(path, tasks, orders, temperature)
    result: dict[str, Any] = {"n": n, "tasks": count, "T": temperature, "k": k}
    for size in dict.fromkeys((1, k)):
        scores = [
            [mean_scores(v[start : start + size], n) for start in range(0, k, size)] for v in votes
        ]
        result |= agreement(rows, scores, size)
    result |= quality(tasks, votes) | cost
    result["tokens_per_second"] = round(cost["tokens"] / cost["seconds"])
    return {key: round(v, 3) if isinstance(v, float) else v for key, v in result.items()}


def agreement(
    rows: Sequence[dict[str, Any]], scores: Sequence[Sequence[Sequence[float]]], k: int
) -> dict[str, float]:
    """Compare voted scores (task, repetition, completion) with label and truth."""
    if len(rows[0]["completions"]) > 1:
        credits = [
            credit(s, row["label"]) for row, own in zip(rows, scores, strict=True) for s in own
        ]
        return {f"accuracy@{k}": float(np.mean(credits))}
    voted = np.array([own[0][0] for own in scores])
    truths = np.array([row["metadata"]["truth"][0] for row in rows])
    labels = np.array([row["label"] for row in rows])
    return {
        f"pearson@{k}": float(np.corrcoef(voted, truths)[0, 1]),
        f"spearman@{k}": float(np.corrcoef(ranks(voted), ranks(truths))[0, 1]),
        f"auc@{k}": auc(voted, labels),
    }


def ranks(values: np.ndarray) -> np.ndarray:
    """Rank values from 0, ties in the middle of theirs."""
    return (values[:, None] > values).sum(1) + ((values[:, None] == values).sum(1) - 1) / 2


def auc(scores: np.ndarray, labels: np.ndarray) -> float:
    """Give the probability that a good one is scored above a bad one (ROC-AUC)."""
    good, bad = scores[labels == 1][:, None], scores[labels == 0]
    return float(((good > bad) + 0.5 * (good == bad)).mean())


def quality(tasks: Sequence[JudgeTask], votes: Sequence[Sequence[Vote]]) -> dict[str, float]:
    """Say how the judgements were reached: form, principles, checks, places of the winners."""
    pairs = [
        (task, vote) for task, its_votes in zip(tasks, votes, strict=True) for vote in its_votes
    ]
    relevant, right = [], []
    for task, vote in pairs:
        asked = {
            criterion(c) for c in (*read_instruction(task.prompt[0].content).constraints, CLEAR)
        }
        relevant += [principle.text in asked for principle in vote.parsed.principles]
        right += checks_right(task, vote)
    winners = [
        vote.parsed.scores.index(max(vote.parsed.scores))
        for _, vote in pairs
        if vote.parsed.scores and vote.parsed.scores.count(max(vote.parsed.scores)) == 1
    ]
    readable = [vote.parsed.scores for _, vote in pairs if vote.parsed.scores]
    places = np.bincount(winners, minlength=len(tasks[0].completions)) / max(1, len(winners))
    return {
        "parsed": len(readable) / len(pairs),
        "ties": float(np.mean([scores.count(max(scores)) > 1 for scores in readable])),
        "sloppy": float(np.mean([is_sloppy(vote.text) for _, vote in pairs])),
        "relevant": float(np.mean(relevant)),
        "checks_right": float(np.mean(right)),
        "winner_places": [round(float(place), 3) for place in places],
    }


def checks_right(task: JudgeTask, vote: Vote) -> list[bool]:
    """Compare every check that states evidence with the world."""
    right = []
    for number, line in _LINE.findall(vote.text):
        if 1 <= int(number) <= len(vote.order):
            completion = str(task.completions[vote.order[int(number) - 1]])
            for name, verdict in _CHECK.findall(line):
                constraint = read_criterion(name)
                if constraint is not None:
                    right.append((verdict == "yes") == satisfied(constraint, completion))
    return right


def evaluate_reward(
    judge_path: Path, policy_path: Path, prompts: int, list_size: int, k: int, temperature: float
) -> dict[str, Any]:
    """Sample groups of 4 from the policy, judge them whole or in pairs, compare with the truth."""
    rng = Random(f"held-out instructions {HELD_OUT}")
    texts = [make_instruction(rng).text for _ in range(prompts)]
    policy = load_model(policy_path)
    answers = sample(*policy, [t for t in texts for _ in range(4)], max_tokens=POLICY_TOKENS).texts
    tasks = [JudgeTask(text, answers[4 * i : 4 * i + 4]) for i, text in enumerate(texts)]
    truths = np.array([[truth(t.prompt[0].content, str(c)) for c in t.completions] for t in tasks])
    orders = []
    for _ in tasks:
        cycle = rng.sample(range(4), 4)
        rounds = [cycle[v % 4 :] + cycle[: v % 4] for v in range(k)]
        if list_size == 2:
            rounds = [rng.sample(range(4), 4) for _ in range(k)]
        orders.append([o[at : at + list_size] for o in rounds for at in range(0, 4, list_size)])
    votes, cost = judge(judge_path, tasks, orders, temperature)
    voted = np.array([mean_scores(its_votes, 4) for its_votes in votes])
    varied = (truths.std(1) > 0) & (voted.std(1) > 0)
    within = [np.corrcoef(v, t)[0, 1] for v, t in zip(voted[varied], truths[varied], strict=True)]
    centred = [(a - a.mean(1, keepdims=True)).ravel() for a in (voted, truths)]
    return {
        "groups": prompts,
        "list_size": list_size,
        "k": k,
        "T": temperature,
        "truth": round(float(truths.mean()), 3),
        "best_of_4_by_truth": round(float(truths.max(1).mean()), 3),
        "best_of_4_by_judge": round(float(truths[range(prompts), voted.argmax(1)].mean()), 3),
        "within_group_correlation": round(float(np.mean(within)), 3),
        "pooled_centred_correlation": round(float(np.corrcoef(*centred)[0, 1]), 3),
        "varied_groups": int(varied.sum()),
        **cost,
        "tokens_per_second": round(cost["tokens"] / cost["seconds"]),
    }


def main() -> None:
    """Measure, print, and add to the judge's log."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("judge", "reward"))
    parser.add_argument("paths", type=Path, nargs="+", help="judge folder; for reward also policy")
    parser.add_argument("--tasks", type=int, default=400)
    parser.add_argument("--temperatures", type=float, nargs="+", default=[0.5, 1.0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 2, 3, 4])
    options = parser.parse_args()
    entries = [about()]
    for temperature in options.temperatures:
        for size in options.sizes:
            if options.what == "judge":
                entry = evaluate_judge(options.paths[0], size, options.tasks, 8, temperature)
            elif size in (2, 4):
                entry = evaluate_reward(*options.paths, options.tasks, size, 4, temperature)
            else:
                continue
            entries.append({"evaluation": options.what, **entry})
            sys.stdout.write(f"{entries[-1]}\n")
            sys.stdout.flush()
    write_log(options.paths[0] / "log.jsonl", entries)


if __name__ == "__main__":
    main()
