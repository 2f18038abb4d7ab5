"""What the tiny recipes share: one SFT run on rows in a fixed order, and its log."""

from __future__ import annotations

import json
import platform
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast
from trl import SFTConfig, SFTTrainer

MUON_LR, ADAMW_LR = 0.01, 4e-3
"""Learning rates; with twice Muon's, checks are learnt later (docs/log.md)."""
WARMUP, DECAY = 0.02, 0.5
"""Share of the steps in which the learning rate rises, and in which it falls to zero."""


class MuonWithAdamW(torch.optim.Optimizer):
    """Muon for the hidden matrices, AdamW for embeddings and norms, on one schedule."""

    def __init__(self, model: torch.nn.Module, muon_lr: float, adamw_lr: float) -> None:
        """Split the parameters of `model`."""
        hidden, rest = [], []
        for name, parameter in model.named_parameters():
            is_hidden = parameter.ndim == 2 and "embed" not in name and "lm_head" not in name
            (hidden if is_hidden else rest).append(parameter)
        muon = torch.optim.Muon(hidden, muon_lr, weight_decay=0.01)
        adamw = torch.optim.AdamW(rest, adamw_lr, betas=(0.9, 0.98), weight_decay=0.0)
        self.parts = [muon, adamw]
        groups = [{"params": hidden, "lr": muon_lr}, {"params": rest, "lr": adamw_lr}]
        super().__init__(groups, {"lr": adamw_lr})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """Step both at the learning rate that the schedule set on this one."""
        for part, group in zip(self.parts, self.param_groups, strict=True):
            part.param_groups[0]["lr"] = group["lr"]
            part.step(closure)


def row(prompt: str, answer: str) -> dict[str, Any]:
    """Make one training example: a user message and the assistant's answer."""
    return {
        "prompt": [{"role": "user", "content": prompt}],
        "completion": [{"role": "assistant", "content": answer}],
    }


def finetune(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    rows: Sequence[dict[str, Any]],
    *,
    batch: int,
) -> list[dict[str, Any]]:
    """Train on the rows once, in their order, on answers only; give the log, a dict per line."""
    started = time.perf_counter()
    steps = len(rows) // batch
    optimizer = MuonWithAdamW(model, MUON_LR, ADAMW_LR)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: trapezoid(step / steps))
    with tempfile.TemporaryDirectory() as scratch:
        config = SFTConfig(
            output_dir=scratch,
            max_steps=steps,
            per_device_train_batch_size=batch,
            max_length=tokenizer.model_max_length,
            completion_only_loss=True,
            loss_type="nll",
            shuffle_dataset=False,
            train_sampling_strategy="sequential",
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            logging_steps=max(1, steps // 50),
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            seed=0,
        )
        trainer = SFTTrainer(
            model=model,
            args=config,
            train_dataset=Dataset.from_list(list(rows[: steps * batch])),
            processing_class=tokenizer,
            optimizers=(optimizer, schedule),
        )
        trainer.train()
    curve = [
        {"step": entry["step"], "loss": round(entry["loss"], 4), "tokens": int(entry["num_tokens"])}
        for entry in trainer.state.log_history
        if "loss" in entry
    ]
    return [*curve, {"steps": steps, "seconds": round(time.perf_counter() - started)}]


def trapezoid(done: float) -> float:
    """Give the learning rate's factor when a share `done` of the steps is over."""
    return min(1.0, (done + 1e-3) / WARMUP, (1 - done) / DECAY)


def save(
    path: Path,
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    log: Sequence[dict[str, Any]],
) -> None:
    """Write a model in bfloat16, its tokenizer, and how it came about."""
    path.mkdir(parents=True, exist_ok=True)
    model.to(torch.bfloat16).save_pretrained(path)
    tokenizer.save_pretrained(path)
    write_log(path / "log.jsonl", [about(), *log], "w")


def about() -> dict[str, Any]:
    """Say when, by which command and with which versions a log was made."""
    import transformers
    import trl

    return {
        "date": time.strftime("%Y-%m-%d"),
        "command": " ".join(["python", Path(sys.argv[0]).name, *sys.argv[1:]]),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "trl": trl.__version__,
        "threads": torch.get_num_threads(),
    }


def write_log(path: Path, entries: Sequence[dict[str, Any]], mode: str = "a") -> None:
    """Write log entries, one JSON object per line."""
    with path.open(mode, encoding="utf-8") as file:
        file.writelines(json.dumps(entry) + "\n" for entry in entries)
