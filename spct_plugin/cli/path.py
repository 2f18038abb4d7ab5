"""`spct path`: what trainers load by its path: OpenRLHF its files, a first run the tiny policy."""

from __future__ import annotations

import importlib.util
import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from spct_plugin.config import SPCTConfig
from spct_plugin.errors import ConfigError, SPCTError
from spct_plugin.probes import Probes
from spct_plugin.tiny import MODELS


class AdapterFile(StrEnum):
    """What OpenRLHF's flags take, and a policy for any trainer."""

    agent = "openrlhf-agent"
    reward = "openrlhf-reward"
    policy = "tiny-policy"


def path(
    file: Annotated[
        AdapterFile,
        typer.Argument(
            help="openrlhf-agent: for --train.agent_func_path. "
            "openrlhf-reward: for --reward.remote_url. "
            "tiny-policy: a toy to try a trainer with, offline."
        ),
    ],
) -> None:
    """Print a path for a flag of a trainer; every node needs the same installation."""
    if file is AdapterFile.policy:
        typer.echo(MODELS / "policy")
        return
    spec = importlib.util.find_spec(f"spct_{file.value.replace('-', '_')}")
    assert spec is not None, "the adapters are part of every installation"
    typer.echo(spec.origin)
    configuration = os.environ.get("SPCT_CONFIG")
    if not configuration:
        typer.echo("spct: SPCT_CONFIG is not set here: it names the configuration", err=True)
        return
    if not Path(configuration).is_absolute():
        typer.echo(
            f"spct: SPCT_CONFIG: {configuration!r} is relative, and Ray's workers have other "
            "folders",
            err=True,
        )
    try:
        _check(file, configuration)
    except SPCTError as error:
        raise ConfigError(f"the run will end: {error}") from None


def _check(file: AdapterFile, configuration: str) -> None:
    """Refuse now what would end the run: OpenRLHF says it late, and among other errors."""
    from spct_openrlhf import with_fallback  # pyright: ignore[reportMissingTypeStubs]

    config = with_fallback(SPCTConfig.load(configuration))
    Probes(config)
    if file is AdapterFile.reward and config.openrlhf.tokenizer is None:
        raise ConfigError("openrlhf.tokenizer: the reward file needs the policy's")
