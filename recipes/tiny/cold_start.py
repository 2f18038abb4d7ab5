"""Cold start: a tiny GRM learns from nothing to judge, from a teacher that is often right.

    python cold_start.py --out /tmp/grm            # 20 to 40 minutes on a CPU
    python cold_start.py --out /tmp/grm --steps 2  # does it run?

First only checks by given criteria, then faultless judgements, then the noisy teacher, whose share
of sloppy judgements the model keeps: what rejective fine-tuning and RL have to improve on. Some
prompts of the last part end with the answer, so that the model can be asked with a hint.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

from training import finetune, row, save

from spct_plugin.templates import load_template
from spct_plugin.tiny.model import build_model, build_tokenizer
from spct_plugin.tiny.teacher import FAULTLESS, Teacher, judge_task, make_drill
from spct_plugin.tiny.world import make_task
from spct_plugin.training.hints import hint_line
from spct_plugin.training.outcome import outcome_reward

BATCH = 32
TEMPLATE = load_template("tiny")
CHECKS_UNTIL, FAULTLESS_UNTIL = 0.3, 0.5
"""Shares of the run: checks alone, then with faultless judgements, then with the noisy teacher."""
HINTED = 0.15
"""Share of the noisy teacher's rows that end with the answer; chosen by us."""


def texts(rng: Random, count: int) -> Iterator[str]:
    """Write what the tokenizer should know."""
    for number in range(count):
        yield "\n".join(judge_row(rng, Teacher(), 1 + number % 4))
        yield "\n".join(hinted_row(rng, Teacher(), 2 + number % 3))


def judge_row(rng: Random, teacher: Teacher, n: int) -> tuple[str, str]:
    """Write a prompt with n completions in random order, and a judgement of them."""
    task, _ = make_task(rng, n)
    order = rng.sample(range(n), n)
    return TEMPLATE.render(task, order), judge_task(rng, teacher, task, order)


def hinted_row(rng: Random, teacher: Teacher, n: int) -> tuple[str, str]:
    """Write a prompt that ends with the answer, and a judgement that mostly comes to it."""
    task, label = make_task(rng, n)
    order = rng.sample(range(n), n)
    for _ in range(4):
        judgement = judge_task(rng, teacher, task, order)
        parsed = TEMPLATE.parse(judgement, n, "stop")
        if outcome_reward(parsed.scores, order.index(label)) > 0:
            break
    return TEMPLATE.render(task, order) + hint_line(order, label), judgement


def drill_row(rng: Random, n: int) -> tuple[str, str]:
    """Write a drill and its answer."""
    task, answer = make_drill(rng, n)
    return TEMPLATE.render(task, range(n)), answer


def curriculum(rng: Random, steps: int) -> Iterator[dict[str, Any]]:
    """Write the rows of every step; a step's rows have one n, so that little is padding."""
    for step in range(steps):
        done = step / steps
        n = rng.choice((1, 2, 2, 3, 4, 4))
        drill_share = 1.0 if done < CHECKS_UNTIL else 0.3 if done < FAULTLESS_UNTIL else 0.05
        teacher = FAULTLESS if done < FAULTLESS_UNTIL else Teacher()
        for _ in range(BATCH):
            if rng.random() < drill_share:
                yield row(*drill_row(rng, n))
            elif n > 1 and done >= FAULTLESS_UNTIL and rng.random() < HINTED:
                yield row(*hinted_row(rng, teacher, n))
            else:
                yield row(*judge_row(rng, teacher, n))


def main() -> None:
    """Train and save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for the model")
    parser.add_argument("--steps", type=int, default=1500, help="optimizer steps")
    parser.add_argument("--seed", type=int, default=0, help="of texts, weights and order")
    options = parser.parse_args()
    tokenizer = build_tokenizer(texts(Random(f"tokenizer {options.seed}"), 1000))
    model = build_model(tokenizer, options.seed)
    rows = list(curriculum(Random(f"cold start {options.seed}"), options.steps))
    log = finetune(model, tokenizer, rows, batch=BATCH)
    save(options.out, model, tokenizer, log)


if __name__ == "__main__":
    main()
