"""The rows that a judge is trained on: read, checked, and nothing cut."""

# TRL exports its names lazily.
# pyright: reportPrivateImportUsage=false, reportArgumentType=false
from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from datasets import Dataset, DatasetDict, load_dataset
from datasets.exceptions import DatasetsError
from trl import DatasetMixtureConfig, ScriptArguments, get_dataset

from spct_plugin.errors import ConfigError, TaskError
from spct_plugin.training.chat import Chat
from spct_trl_run import note


def read_splits(
    script: ScriptArguments, mixture: DatasetMixtureConfig, args: Any
) -> tuple[Dataset, Dataset | None]:
    """Load the data for training, and for evaluation where `eval_strategy` asks for it.

    Raises:
        ConfigError: No data is named, or there is no such split.
        TaskError: The data cannot be loaded, or there is none.
    """
    if mixture.datasets:
        data = _loaded(lambda: get_dataset(mixture))
    elif script.dataset_name is not None:
        name, config = script.dataset_name, script.dataset_config
        data = _loaded(lambda: load_dataset(name, config))
    else:
        raise ConfigError("expected datasets: [{path: json, data_files: FILE}], or dataset_name")
    train = _split(data, script.dataset_train_split)
    if args.eval_strategy == "no":
        return train, None
    return train, _split(data, script.dataset_test_split)


def without_long(rows: Dataset, chat: Chat, max_length: int | None) -> Dataset:
    """Leave out rows whose end would be cut off, and say how many.

    Raises:
        TaskError: None is left, or a row is not a prompt and a completion.
    """
    _check_columns(rows, ("prompt", "completion"))
    texts = list(zip(rows["prompt"], rows["completion"], strict=True))
    for number, pair in enumerate(texts, start=1):
        if not all(isinstance(text, str) for text in pair):
            raise TaskError(
                f"row {number}: expected prompt and completion as texts, found {pair!r:.80}"
            )
    if max_length is None:
        return rows
    # One more: the trainer adds an end token where the turn's end is not one.
    lengths = [chat.tokens(prompt + completion) + 1 for prompt, completion in texts]
    return _up_to(rows, lengths, max_length, "max_length")


def without_long_prompts(rows: Dataset, tokenizer: Any, room: int | None) -> Dataset:
    """Leave out prompts that leave no room for a judgement, and say how many.

    Args:
        rows: With prompts as texts.
        tokenizer: Of the model that is trained.
        room: Tokens a prompt may have; None = any number.

    Raises:
        TaskError: None is left.
    """
    if room is None:
        return rows
    lengths = [len(tokenizer(text, verbose=False)["input_ids"]) for text in rows["prompt"]]
    return _up_to(rows, lengths, room, "the context without max_completion_length,")


def with_labels(rows: Dataset) -> Dataset:
    """Check that every row says which of its completions is the best.

    Raises:
        TaskError: One does not.
    """
    _check_columns(rows, ("prompt", "label", "n"))
    for number, (label, n) in enumerate(zip(rows["label"], rows["n"], strict=True), start=1):
        if type(n) is not int or type(label) is not int or not 0 <= label < max(2, n):
            raise TaskError(
                f"row {number}: expected the place of the best of n completions as label, from 0 "
                f"to n - 1, found label {label!r} and n {n!r}"
            )
    return rows


def general_rows(path: str, chat: Chat, max_length: int | None, count: int, seed: int) -> Dataset:
    """Take so many rows of general instruction data, rendered like the others.

    Raises:
        TaskError: The file cannot be read, or holds rows of another form or too few.
    """
    rows = _split(_loaded(lambda: load_dataset("json", data_files=path)), "train")
    rows = rows.shuffle(seed=seed)
    if "messages" in rows.column_names:
        pairs = [_last_turn(chat, turns) for turns in rows["messages"]]
        rows = Dataset.from_list([{"prompt": p, "completion": c} for p, c in pairs])
    rows = without_long(rows, chat, max_length).select_columns(["prompt", "completion"])
    if len(rows) < count:
        raise TaskError(
            f"general_data: expected {count} rows for general_ratio, found {len(rows)} in "
            f"{path!r}; lower general_ratio"
        )
    return rows.select(range(count))


def _last_turn(chat: Chat, turns: Any) -> tuple[str, str]:
    whole = isinstance(turns, list) and all(
        isinstance(turn, dict) and isinstance(turn.get("content"), str) for turn in turns
    )
    if not whole:
        raise TaskError(f"general_data: expected messages with texts, found {turns!r:.80}")
    return chat.last_turn(turns)


def _up_to(rows: Dataset, lengths: Sequence[int], limit: int, what: str) -> Dataset:
    kept = [at for at, length in enumerate(lengths) if length <= limit]
    remedy = f"the longest has {max(lengths)} tokens: raise it or leave such rows out"
    if not kept:
        raise TaskError(f"all {len(rows)} rows are longer than {what} {limit}; {remedy}")
    if len(kept) < len(rows):
        left_out = len(rows) - len(kept)
        note(f"left out {left_out} of {len(rows)} rows longer than {what} {limit}; {remedy}")
    return rows.select(kept)


def _check_columns(rows: Dataset, columns: Sequence[str]) -> None:
    if not set(columns) <= set(rows.column_names):
        raise TaskError(
            f"expected rows with {', '.join(columns)}, as spct reject writes them, found "
            f"{rows.column_names}"
        )


def _split(data: DatasetDict, name: str) -> Dataset:
    if name not in data:
        raise ConfigError(
            f"expected a split {name!r} of the data, found {sorted(data)}; set dataset_train_split "
            "or dataset_test_split, or test_split_size"
        )
    if not len(data[name]):
        raise TaskError(f"split {name!r} of the data is empty")
    return data[name]


def _loaded(load: Callable[[], DatasetDict]) -> DatasetDict:
    try:
        return load()
    # An empty file ends in StopIteration.
    except (OSError, ValueError, DatasetsError, StopIteration) as error:
        reason = error.__cause__ or error
        raise TaskError(f"cannot load the data: {' '.join(repr(reason).split())[:300]}") from None
