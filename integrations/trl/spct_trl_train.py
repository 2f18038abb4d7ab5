"""SPCT's training stages on TRL's and transformers' own trainers, from their own YAML files.

    spct train rft --config rft.yaml
    accelerate launch --config_file zero3.yaml -m spct_trl_train rft --config rft.yaml

A stage goes on from the last checkpoint in `output_dir` when there is one. A loss that is no
number ends it. Rows longer than `max_length` are left out and counted, never cut: the scores stand
at the end of a judgement.
"""

# TRL exports its names lazily and annotates more narrowly than it accepts.
# pyright: reportPrivateImportUsage=false, reportArgumentType=false, reportAttributeAccessIssue=false

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import transformers
from datasets import Dataset, DatasetDict, concatenate_datasets, load_dataset
from datasets.exceptions import DatasetsError
from transformers import TrainerCallback
from trl import (
    DatasetMixtureConfig,
    GRPOConfig,
    GRPOTrainer,
    ModelConfig,
    ScriptArguments,
    SFTConfig,
    SFTTrainer,
    TrlParser,
    get_dataset,
    get_peft_config,
    get_quantization_config,
)

from spct_plugin.errors import ConfigError, SPCTError, TaskError, TrainingError
from spct_plugin.training.chat import Chat

STAGES = ("rft", "rl", "meta-rm")


@dataclass
class RFTArguments(ScriptArguments):
    """What rejective fine-tuning asks for beside TRL's own keys."""

    general_data: str | None = field(
        default=None, metadata={"help": "JSONL of prompt and completion, or messages, to mix in."}
    )
    general_ratio: float = field(
        # 1070K general rows to 186K rejective ones: DeepSeek-GRM (arXiv:2504.02495), App. C.
        default=5.75,
        metadata={"help": "Rows of general_data per rejective row."},
    )


@dataclass
class RLArguments(ScriptArguments):
    """What rule-based RL asks for beside TRL's own keys."""

    reward_funcs: list[str] = field(
        default_factory=lambda: ["spct_trl_outcome.outcome_reward"],
        metadata={"help": "The outcome reward; named so that the file suits trl grpo too."},
    )


def parser(stage: str) -> TrlParser:
    """Make the parser of a stage's YAML file: TRL's own, with our few keys.

    Raises:
        ConfigError: There is no such stage.
    """
    if stage == "rft":
        return TrlParser((RFTArguments, SFTConfig, ModelConfig, DatasetMixtureConfig))
    if stage == "rl":
        return TrlParser((RLArguments, GRPOConfig, ModelConfig, DatasetMixtureConfig))
    if stage == "meta-rm":
        from spct_trl_meta_rm import MetaRMArguments, MetaRMTrainingArguments

        return TrlParser((MetaRMArguments, MetaRMTrainingArguments, ModelConfig))
    raise ConfigError(f"expected a stage: one of {list(STAGES)}, found {stage!r}")


def train(stage: str, arguments: Sequence[str], *, launched: bool = False) -> None:
    """Run one stage: here, or by `accelerate launch` when the keys say so.

    Args:
        stage: "rft", "rl" or "meta-rm".
        arguments: As of a command line: --config FILE, and keys that override it. Keys that are no
            trainer's belong to `accelerate launch`; accelerate_config names its file.
        launched: This is one of the processes it started.

    Raises:
        SPCTError: A file or key that cannot be used, or a loss that is no number.
    """
    try:
        *parsed, in_file, in_line = parser(stage).parse_args_and_config(
            list(arguments), return_remaining_strings=True, separate_remaining_strings=True
        )
    except (ValueError, TypeError, OSError) as error:
        raise ConfigError(f"spct train {stage}: {' '.join(str(error).split())}") from None
    words = ["--config_file" if w == "--accelerate_config" else w for w in [*in_file, *in_line]]
    if words and not launched:
        launch(stage, _without(arguments, in_line), words)
    elif stage == "meta-rm":
        from spct_trl_meta_rm import train_meta_rm

        train_meta_rm(*parsed)
    else:
        (_rft if stage == "rft" else _rl)(*parsed)


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


def _rft(
    script: RFTArguments, args: SFTConfig, model: ModelConfig, mixture: DatasetMixtureConfig
) -> None:
    """Fine-tune on what `spct reject` kept."""
    chat = Chat(args.chat_template_path or model_name(model))
    data = _dataset(script, mixture)
    train_rows = without_long(data[script.dataset_train_split], chat, args.max_length)
    if script.general_data is not None:
        count = round(script.general_ratio * len(train_rows))
        general = general_rows(script.general_data, chat, args.max_length, count, args.seed)
        train_rows = concatenate_datasets([train_rows, general]).shuffle(seed=args.seed)
    trainer = SFTTrainer(
        model=model_name(model),
        args=_with_model(args, model),
        train_dataset=train_rows,
        eval_dataset=_eval_rows(data, script, args),
        quantization_config=get_quantization_config(model),
        peft_config=get_peft_config(model),
    )
    run(trainer)


def _rl(
    script: RLArguments, args: GRPOConfig, model: ModelConfig, mixture: DatasetMixtureConfig
) -> None:
    """Reinforce judgements that pick the labelled best."""
    from spct_trl_outcome import OutcomeReward

    if script.reward_funcs != ["spct_trl_outcome.outcome_reward"]:
        raise ConfigError(
            "reward_funcs: expected [spct_trl_outcome.outcome_reward], found "
            f"{script.reward_funcs}; other rewards are for trl grpo"
        )
    data = _dataset(script, mixture)
    trainer = GRPOTrainer(
        model=model_name(model),
        reward_funcs=OutcomeReward(os.environ.get("SPCT_CONFIG") or None),
        args=_with_model(args, model),
        train_dataset=data[script.dataset_train_split],
        eval_dataset=_eval_rows(data, script, args),
        quantization_config=get_quantization_config(model),
        peft_config=get_peft_config(model),
    )
    run(trainer)


def without_long(rows: Dataset, chat: Chat, max_length: int | None) -> Dataset:
    """Leave out rows whose end would be cut off, and say how many.

    Raises:
        TaskError: None is left, or a row has no prompt and completion.
    """
    if not {"prompt", "completion"} <= set(rows.column_names):
        raise TaskError(
            f"expected rows with prompt and completion, as spct reject writes them, found "
            f"{rows.column_names}"
        )
    if max_length is None:
        return rows
    # One more: the trainer adds an end token where the turn's end is not one.
    texts = zip(rows["prompt"], rows["completion"], strict=True)
    lengths = [chat.tokens(prompt + completion) + 1 for prompt, completion in texts]
    kept = [at for at, length in enumerate(lengths) if length <= max_length]
    remedy = f"the longest has {max(lengths)} tokens: raise max_length"
    if not kept:
        raise TaskError(f"all {len(rows)} rows are longer than max_length {max_length}; {remedy}")
    if len(kept) < len(rows):
        sys.stderr.write(
            f"spct: left out {len(rows) - len(kept)} of {len(rows)} rows longer than max_length "
            f"{max_length}; {remedy}\n"
        )
    return rows.select(kept)


def general_rows(path: str, chat: Chat, max_length: int | None, count: int, seed: int) -> Dataset:
    """Take so many rows of general instruction data, rendered like the others.

    Raises:
        TaskError: The file cannot be read, or holds rows of another form or too few.
    """
    rows = _loaded(lambda: load_dataset("json", data_files=path))["train"].shuffle(seed=seed)
    if "messages" in rows.column_names:
        pairs = [chat.last_turn(turns) for turns in rows["messages"]]
        rows = Dataset.from_list([{"prompt": p, "completion": c} for p, c in pairs])
    rows = without_long(rows, chat, max_length).select_columns(["prompt", "completion"])
    if len(rows) < count:
        raise TaskError(
            f"general_data: expected {count} rows for general_ratio, found {len(rows)} in "
            f"{path!r}; lower general_ratio"
        )
    return rows.select(range(count))


def launch(stage: str, arguments: Sequence[str], launch_arguments: Sequence[str]) -> None:
    """Start a stage by `accelerate launch`, on as many processes as its keys say."""
    from accelerate.commands.launch import launch_command, launch_command_parser

    command = [*launch_arguments, "--module", "spct_trl_train", stage, *arguments]
    launch_command(launch_command_parser().parse_args(command))


def main() -> None:
    """Run a stage as one of the processes of `accelerate launch`."""
    stage, *arguments = sys.argv[1:] or [""]
    try:
        train(stage, arguments, launched=True)
    except SPCTError as error:
        sys.exit(f"spct: {error}")


def _eval_rows(data: DatasetDict, script: ScriptArguments, args: Any) -> Dataset | None:
    return data[script.dataset_test_split] if args.eval_strategy != "no" else None


def _dataset(script: ScriptArguments, mixture: DatasetMixtureConfig) -> DatasetDict:
    if mixture.datasets:
        return _loaded(lambda: get_dataset(mixture))
    if script.dataset_name is None:
        raise ConfigError("expected datasets: [{path: json, data_files: FILE}], or dataset_name")
    return _loaded(lambda: load_dataset(script.dataset_name, script.dataset_config))


def _loaded(load: Callable[[], DatasetDict]) -> DatasetDict:
    try:
        return load()
    except (OSError, ValueError, DatasetsError) as error:
        raise TaskError(f"cannot load the data: {' '.join(str(error).split())[:300]}") from None


def _with_model(args: Any, model: ModelConfig) -> Any:
    """Hand the model's keys to the trainer, as TRL's own scripts do."""
    owner = args if hasattr(args, "trust_remote_code") else model
    keys = {
        "revision": model.model_revision,
        "trust_remote_code": owner.trust_remote_code,
        "attn_implementation": model.attn_implementation,
        "dtype": model.dtype,
    }
    args.model_init_kwargs = keys | (args.model_init_kwargs or {})
    return args


def _without(arguments: Sequence[str], taken: Sequence[str]) -> list[str]:
    """Leave out what `accelerate launch` reads, where it stands on the command line."""
    waiting = list(taken)
    left: list[str] = []
    for word in arguments:
        if waiting and word == waiting[0]:
            waiting.pop(0)
        else:
            left.append(word)
    return left


if __name__ == "__main__":
    main()
