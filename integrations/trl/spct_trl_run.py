"""How every training stage runs: from the last whole checkpoint, until a loss is no number."""

# TRL exports its names lazily.
# pyright: reportPrivateImportUsage=false, reportArgumentType=false
from __future__ import annotations

import json
import logging
import math
import os
from pathlib import Path
from typing import Any

import transformers
from transformers import TrainerCallback
from trl import ModelConfig

from spct_plugin.errors import ConfigError, TrainingError

log = logging.getLogger(__name__)


class StopOnNaN(TrainerCallback):
    """Ends a run whose loss is no number, instead of training on."""

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Look at what the trainer logs.

        Raises:
            TrainingError: The loss or the gradient's norm is NaN or infinite.
        """
        for name in ("loss", "grad_norm"):
            value = (logs or {}).get(name)
            if value is not None and not math.isfinite(float(value)):
                raise TrainingError(
                    f"{name} is {value} at step {state.global_step}: lower learning_rate or "
                    f"max_grad_norm; the last good checkpoint is in {args.output_dir}"
                )


def run(trainer: transformers.Trainer) -> None:
    """Train, from the last checkpoint where there is one, and save model and tokenizer."""
    args = trainer.args
    last = args.resume_from_checkpoint or last_checkpoint(Path(args.output_dir))
    trainer.add_callback(StopOnNaN())
    # The filter would show the mean of the other steps where a loss is NaN.
    args.logging_nan_inf_filter = False
    trainer.train(resume_from_checkpoint=last)
    trainer.save_model(args.output_dir)
    if trainer.is_world_process_zero():
        trainer.save_state()


def last_checkpoint(folder: Path) -> str | None:
    """Find the last checkpoint that was written whole: a killed run may leave half of one.

    The trainer writes trainer_state.json last.
    """
    found = [path for path in folder.glob("checkpoint-*") if path.name[11:].isdigit()]
    for path in sorted(found, key=lambda path: int(path.name[11:]), reverse=True):
        try:
            json.loads((path / "trainer_state.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        return str(path)
    return None


def model_name(model: ModelConfig) -> str:
    """Give the model to start from.

    Raises:
        ConfigError: None is named.
    """
    if model.model_name_or_path is None:
        raise ConfigError("expected model_name_or_path: the model to start from, found none")
    return model.model_name_or_path


def note(text: str) -> None:
    """Tell people something that is no error; under a launcher once."""
    if int(os.environ.get("RANK", "0")) == 0:
        log.warning("spct: %s", text)
