"""Rejective fine-tuning and rule-based RL of a judge, on TRL's SFTTrainer and GRPOTrainer.

Source: DeepSeek-GRM (arXiv:2504.02495), section 3 and App. C.
"""

# TRL exports its names lazily and annotates more narrowly than it accepts.
# pyright: reportPrivateImportUsage=false, reportArgumentType=false, reportAttributeAccessIssue=false
from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from datasets import Dataset, DatasetDict, concatenate_datasets, load_dataset
from datasets.exceptions import DatasetsError
from trl import (
    DatasetMixtureConfig,
    GRPOConfig,
    GRPOTrainer,
    ModelConfig,
    ScriptArguments,
    SFTConfig,
    SFTTrainer,
    get_dataset,
    get_peft_config,
    get_quantization_config,
)

from spct_plugin.errors import ConfigError, TaskError
from spct_plugin.training.chat import Chat
from spct_trl_outcome import OutcomeReward
from spct_trl_run import model_name, note, run


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


def train_rft(
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


def train_rl(
    script: RLArguments, args: GRPOConfig, model: ModelConfig, mixture: DatasetMixtureConfig
) -> None:
    """Reinforce judgements that pick the labelled best."""
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
        note(
            f"left out {len(rows) - len(kept)} of {len(rows)} rows longer than max_length "
            f"{max_length}; {remedy}"
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
