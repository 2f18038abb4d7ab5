"""`spct path`: the files that OpenRLHF loads by their path."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
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
    for problem in _problems(file):
        typer.echo(f"spct: {problem}", err=True)


def _problems(file: AdapterFile) -> Iterator[str]:
    """Say now what would end the run: OpenRLHF itself says it late, and among other errors."""
    configuration = os.environ.get("SPCT_CONFIG")
    if not configuration:
        yield "SPCT_CONFIG is not set here: it names the configuration"
        return
    if not Path(configuration).is_absolute():
        yield f"SPCT_CONFIG: {configuration!r} is relative, and Ray's workers have other folders"
    from spct_openrlhf import with_fallback  # pyright: ignore[reportMissingTypeStubs]

    try:
        config = with_fallback(SPCTConfig.load(configuration))
    except SPCTError as error:
        yield f"the run will end: {error}"
        return
    if file is AdapterFile.reward and config.openrlhf.tokenizer is None:
        yield "the run will end: openrlhf.tokenizer: the reward file needs the policy's"
