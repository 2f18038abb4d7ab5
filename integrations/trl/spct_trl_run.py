"""How every training stage runs: from the last whole checkpoint, until a loss is no number."""

# TRL exports its names lazily.
# pyright: reportPrivateImportUsage=false, reportArgumentType=false
from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import shutil
from collections.abc import Iterable, Mapping
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
        # In float16 the scaler tries scales until one does not overflow.
        for name in ("loss",) if args.fp16 else ("loss", "grad_norm"):
            value = (logs or {}).get(name)
            if value is not None and not math.isfinite(float(value)):
                last = last_checkpoint(Path(args.output_dir)) or "none was written yet"
                raise TrainingError(
                    f"{name} is {value} at step {state.global_step}: lower learning_rate or "
                    f"max_grad_norm; last checkpoint: {last}"
                )


def run(trainer: transformers.Trainer, identity: Mapping[str, str]) -> None:
    """Train, from the last checkpoint where there is one, and save model and tokenizer.

    Args:
        trainer: What trains.
        identity: What this run starts from and learns from; another one needs another folder.

    Raises:
        ConfigError: output_dir holds another run.
        TrainingError: The loss is no number.
    """
    args = trainer.args
    folder = Path(args.output_dir)
    last = args.resume_from_checkpoint or last_checkpoint(folder)
    if trainer.is_world_process_zero():
        _claim(folder, dict(identity), going_on=last is not None)
    trainer.accelerator.wait_for_everyone()
    trainer.add_callback(StopOnNaN())
    # The filter would show the mean of the other steps where a loss is NaN.
    args.logging_nan_inf_filter = False
    if args.save_strategy == "steps" and args.logging_steps > args.save_steps:
        # A loss is looked at when it is logged: before a checkpoint keeps what it did.
        args.logging_steps = args.save_steps
    if last is not None and 0 < args.max_steps <= steps_of(Path(last)):
        # A trainer that goes on from its last step takes one more.
        note(f"{last} holds all {args.max_steps} steps: nothing to train")
        if trainer.is_world_process_zero():
            _copy_model(Path(last), folder)
        return
    if last is not None:
        note(f"going on from {last}")
    trainer.train(resume_from_checkpoint=last)
    trainer.save_model(args.output_dir)
    if trainer.is_world_process_zero():
        trainer.save_state()
        note(f"{trainer.state.global_step} steps; the model is in {args.output_dir}")


def last_checkpoint(folder: Path) -> str | None:
    """Find the last checkpoint that was written whole: a killed run may leave half of one.

    The trainer writes trainer_state.json last.
    """
    found = [path for path in folder.glob("checkpoint-*") if path.name[11:].isdigit()]
    for path in sorted(found, key=lambda path: int(path.name[11:]), reverse=True):
        if steps_of(path) >= 0:
            return str(path)
    return None


def steps_of(checkpoint: Path) -> int:
    """Read how many steps a checkpoint holds; -1 when it was not written whole."""
    try:
        state = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
        return int(state["global_step"])
    except (OSError, ValueError, KeyError, TypeError):
        return -1


def digest_of(rows: Iterable[Any]) -> str:
    """Identify training data by its rows: 16 hex digits."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps(row, sort_keys=True, default=str).encode())
    return digest.hexdigest()[:16]


def _claim(folder: Path, identity: dict[str, str], *, going_on: bool) -> None:
    """Write down what a run is, and refuse to go on with another's checkpoints."""
    path = folder / "spct_run.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else identity
        path.write_text(json.dumps(identity, indent=2) + "\n", encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ConfigError(f"output_dir: cannot use {str(folder)!r}: {error}") from None
    other = [key for key in identity if known.get(key) != identity[key]]
    if going_on and other:
        path.write_text(json.dumps(known, indent=2) + "\n", encoding="utf-8")
        raise ConfigError(
            f"output_dir {str(folder)!r} holds checkpoints of another run (other "
            f"{' and '.join(other)}); choose another output_dir, or delete it"
        )


NOT_THE_MODEL = ("optimizer", "scheduler", "scaler", "rng_state", "trainer_state")


def _copy_model(checkpoint: Path, folder: Path) -> None:
    """Put a finished checkpoint's model where a finished run leaves it."""
    for path in checkpoint.iterdir():
        if path.is_file() and not path.name.startswith(NOT_THE_MODEL):
            shutil.copy(path, folder / path.name)
    shutil.copy(checkpoint / "trainer_state.json", folder / "trainer_state.json")


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
