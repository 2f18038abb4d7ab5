"""`spct train`: the training stages of SPCT, on the frameworks' own trainers."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from spct_plugin.errors import ConfigError


class Stage(StrEnum):
    """What is trained."""

    rft = "rft"
    rl = "rl"
    meta_rm = "meta-rm"


def train(
    context: typer.Context,
    stage: Annotated[
        Stage,
        typer.Argument(help="rejective fine-tuning, rule-based RL, or the meta RM."),
    ],
    config: Annotated[
        str, typer.Option("--config", "-c", help="The trainer's own YAML file (TRL's keys).")
    ],
) -> None:
    """Train the judge or the meta RM; goes on from the last checkpoint in output_dir.

    More options are the trainer's keys and override the file: --learning_rate 1e-6. Keys of
    `accelerate launch`, and accelerate_config, start as many processes as they say.
    """
    try:
        from spct_trl_train import train as run  # pyright: ignore[reportMissingTypeStubs]
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"spct train needs {error.name}; run: pip install 'spct-plugin[trl]'"
        ) from None

    run(stage.value, ["--config", config, *context.args])
