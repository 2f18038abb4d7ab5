"""Copy the trained models to where the package looks for them, as bfloat16, with their logs.

python bundle.py RUN ../../spct_plugin/tiny/models
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

PARTS = {
    "grm": ("rl", AutoModelForCausalLM),
    "meta_rm": ("meta_rm", AutoModelForSequenceClassification),
    "policy": ("policy", AutoModelForCausalLM),
}
KEPT = ("loss", "reward", "outcome_reward/accuracy", "kl", "eval_loss")


def main() -> None:
    """Write the three folders."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("target", type=Path)
    options = parser.parse_args()
    for name, (part, model_class) in PARTS.items():
        source, target = options.run / part, options.target / name
        shutil.rmtree(target, ignore_errors=True)
        model_class.from_pretrained(source, dtype=torch.bfloat16).save_pretrained(target)
        AutoTokenizer.from_pretrained(source).save_pretrained(target)
        (target / "log.jsonl").write_text(training_log(options.run, part))


def training_log(run: Path, part: str) -> str:
    """Put together how a model came about: the logs of its stages, one JSON object per line."""
    stages = {"rl": ("cold", "rft", "rl"), "meta_rm": ("meta_rm",)}.get(part, (part,))
    return "".join(stage_log(run / stage) for stage in stages)


def stage_log(folder: Path) -> str:
    """Give a stage's own log, or what its trainer kept."""
    if (folder / "log.jsonl").exists():
        return (folder / "log.jsonl").read_text()
    state = json.loads((folder / "trainer_state.json").read_text())
    rows = [
        {"stage": folder.name, "step": row["step"], **{k: row[k] for k in KEPT if k in row}}
        for row in state["log_history"]
        if any(key in row for key in KEPT)
    ]
    return "".join(json.dumps(row) + "\n" for row in rows)


if __name__ == "__main__":
    main()
