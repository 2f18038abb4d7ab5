"""`spct path`: the files that OpenRLHF loads by their path."""

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


class AdapterFile(StrEnum):
    """What OpenRLHF's flags take."""

    agent = "openrlhf-agent"
    reward = "openrlhf-reward"


def path(
    file: Annotated[
        AdapterFile,
        typer.Argument(
            help="openrlhf-agent: for --train.agent_func_path. "
            "openrlhf-reward: for --reward.remote_url."
        ),
    ],
) -> None:
    """Print the path of a file for a flag of OpenRLHF; every node needs the same installation."""
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
