"""`spct path`: the files that OpenRLHF loads by their path."""

from __future__ import annotations

import importlib.util
from enum import StrEnum
from typing import Annotated

import typer


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
