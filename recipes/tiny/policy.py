"""The tiny policy: it learns to write completions of mixed quality; RL has something to teach it.

python policy.py --tokenizer /tmp/grm --out /tmp/policy            # a few minutes on 2 cores
python policy.py --tokenizer /tmp/grm --out /tmp/policy --steps 2  # does it run?
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

from training import finetune, row, save
from transformers import AutoTokenizer

from spct_plugin.tiny.model import build_model
from spct_plugin.tiny.world import make_completion, make_instruction

BATCH = 64
FLAW_RATE = (0.1, 0.6)


def examples(rng: Random, count: int) -> Iterator[dict[str, Any]]:
    """Write instructions, each with one completion that is good by chance."""
    for _ in range(count):
        instruction = make_instruction(rng)
        completion = make_completion(rng, instruction, rng.uniform(*FLAW_RATE))
        yield row(instruction.text, completion)


def main() -> None:
    """Train and save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokenizer", type=Path, required=True, help="folder of the GRM")
    parser.add_argument("--out", type=Path, required=True, help="folder for the model")
    parser.add_argument("--steps", type=int, default=600, help="optimizer steps")
    options = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(options.tokenizer)
    model = build_model(tokenizer)
    rows = list(examples(Random(3), options.steps * BATCH))
    log = finetune(model, tokenizer, rows, batch=BATCH)
    save(options.out, model, tokenizer, log)


if __name__ == "__main__":
    main()
