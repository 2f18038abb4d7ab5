"""Write the fine-tuning file of one ablation: what SPCT does, but for one thing.

    python ablate.py no_rejection -o sft.jsonl trajectories.jsonl hinted.jsonl

no_rejection: every judgement that is no hinted one, right or wrong, readable or not. no_hints: no
hinted ones. no_principles: judgements that begin with the analysis.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from spct_plugin import SPCTConfig
from spct_plugin.training.chat import Chat
from spct_plugin.training.prompts import JudgePrompts
from spct_plugin.training.rejecting import RejectCounts, sft_rows
from spct_plugin.training.trajectories import Trajectories, read_trajectories

PROMPTS = JudgePrompts(SPCTConfig.model_validate({"template": {"name": "tiny"}}))


def ablated(name: str, found: Trajectories, chat: Chat) -> Iterator[dict[str, Any]]:
    """Give the rows of one task."""
    if name == "no_rejection" and not found.hinted:
        for judgement in found.judgements:
            text = PROMPTS.text(found.task, judgement.order)
            prompt, completion = chat.example(text, judgement.text)
            yield {"id": found.id, "prompt": prompt, "completion": completion}
    elif name != "no_rejection" and not (name == "no_hints" and found.hinted):
        for row in sft_rows(PROMPTS, chat)(found, RejectCounts()):
            if name == "no_principles":
                row["completion"] = row["completion"].partition("Analysis:")[2].strip("\n")
            yield row


def main() -> None:
    """Write the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=("no_rejection", "no_hints", "no_principles"))
    parser.add_argument("trajectories", type=Path, nargs="+")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--tokenizer", required=True)
    options = parser.parse_args()
    chat = Chat(options.tokenizer)
    with options.output.open("w", encoding="utf-8") as file:
        for path in options.trajectories:
            for found in read_trajectories(path):
                if isinstance(found, Trajectories):
                    for row in ablated(options.name, found, chat):
                        file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
