"""`spct path`: the files that OpenRLHF loads by their path."""

from __future__ import annotations

import importlib.util
import os
from enum import StrEnum
from typing import Annotated

import typer

from spct_plugin.config import SPCTConfig
from spct_plugin.errors import SPCTError


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
    _warn()


def _warn() -> None:
    """Say now what would end the run: OpenRLHF itself says it late, and among other errors."""
    configuration = os.environ.get("SPCT_CONFIG")
    if not configuration:
        typer.echo("spct: SPCT_CONFIG is not set here: it names the configuration", err=True)
        return
    from spct_openrlhf import settled  # pyright: ignore[reportMissingTypeStubs]

    try:
        settled(SPCTConfig.load(configuration))
    except SPCTError as error:
        typer.echo(f"spct: the run will end: {error}", err=True)
