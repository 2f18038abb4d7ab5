"""SPCT's training stages on TRL's and transformers' own trainers, from their own YAML files.

    spct train rft --config rft.yaml
    accelerate launch --config_file zero3.yaml -m spct_trl_train rft --config rft.yaml

A stage goes on from the last checkpoint in `output_dir` when there is one. A loss that is no
number ends it. Rows longer than `max_length` are left out and counted, never cut: the scores stand
at the end of a judgement.
"""

# TRL exports its names lazily and annotates more narrowly than it accepts.
# pyright: reportPrivateImportUsage=false, reportArgumentType=false
from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from transformers import TrainingArguments
from trl import DatasetMixtureConfig, GRPOConfig, ModelConfig, SFTConfig, TrlParser
from yaml import YAMLError

from spct_plugin.errors import ConfigError, SPCTError
from spct_trl_meta_rm import MetaRMArguments, train_meta_rm
from spct_trl_stages import RFTArguments, RLArguments, train_rft, train_rl

STAGES: dict[str, tuple[tuple[type, ...], Callable[..., None]]] = {
    "rft": ((RFTArguments, SFTConfig, ModelConfig, DatasetMixtureConfig), train_rft),
    "rl": ((RLArguments, GRPOConfig, ModelConfig, DatasetMixtureConfig), train_rl),
    "meta-rm": ((MetaRMArguments, TrainingArguments, ModelConfig), train_meta_rm),
}
"""What a stage's file may hold, and what runs it."""


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
    parsed, launch_words, own_words = parse(stage, arguments)
    if launch_words and not launched:
        launch(stage, own_words, launch_words)
    else:
        STAGES[stage][1](*parsed)


def parse(stage: str, arguments: Sequence[str]) -> tuple[list[Any], list[str], list[str]]:
    """Read a stage's file and command line by the trainers' own parser.

    Returns:
        The trainers' arguments; the words for `accelerate launch`, empty when it is not needed; the
        words of the command line without those.

    Raises:
        ConfigError: The file or a value cannot be used, or there is no such stage.
    """
    if stage not in STAGES:
        raise ConfigError(f"expected a stage: one of {list(STAGES)}, found {stage!r}")
    parser = TrlParser(STAGES[stage][0])
    parser.error = _refuse
    try:
        *parsed, in_file, in_line = parser.parse_args_and_config(
            list(arguments), return_remaining_strings=True, separate_remaining_strings=True
        )
    except ConfigError:
        raise
    except OSError as error:
        raise ConfigError(f"cannot read {error.filename!r}: {error.strerror}") from None
    except (ValueError, TypeError, YAMLError) as error:
        raise ConfigError(f"spct train {stage}: {' '.join(str(error).split())}") from None
    words = [*in_file, *in_line]
    launch_words = ["--config_file" if word == "--accelerate_config" else word for word in words]
    return parsed, launch_words, _without(arguments, in_line)


def launch(stage: str, arguments: Sequence[str], launch_arguments: Sequence[str]) -> None:
    """Start a stage by `accelerate launch`, on as many processes as its keys say."""
    from accelerate.commands.launch import launch_command, launch_command_parser

    parser = launch_command_parser()
    parser.error = _refuse
    command = [*launch_arguments, "--module", "spct_trl_train", stage, *arguments]
    parsed = parser.parse_args(command)
    if parsed.training_script != "spct_trl_train":
        raise ConfigError(f"expected keys like --learning_rate, found {parsed.training_script!r}")
    launch_command(parsed)


def main() -> None:
    """Run a stage as one of the processes of `accelerate launch`."""
    stage, *arguments = sys.argv[1:] or [""]
    try:
        train(stage, arguments, launched=True)
    except SPCTError as error:
        sys.exit(f"spct: {error}")


def _refuse(message: str) -> NoReturn:
    """Say in one line what argparse would say below pages of usage.

    Raises:
        ConfigError: Always.
    """
    raise ConfigError(f"spct train: {message}")


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
