"""`spct judge`: rewards for a file of tasks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from spct_plugin.cli.judging import describe, judge_with_progress, load_judge
from spct_plugin.cli.options import ConfigFile, Overrides
from spct_plugin.data.judging import check_files
from spct_plugin.reward_model import RewardModel


def judge(
    source: Annotated[Path, typer.Argument(metavar="FILE", help="Tasks, JSONL.")],
    target: Annotated[Path, typer.Option("--output", "-o", help="Rewards, JSONL; resumed.")],
    config: ConfigFile = None,
    k: Annotated[int | None, typer.Option("-k", help="Votes per group (vote.k).")] = None,
    override: Overrides = None,
) -> None:
    """Judge prompts and completions; a run that was stopped goes on where it was."""
    overrides = [*(override or []), *([f"vote.k={k}"] if k is not None else [])]
    loaded = load_judge(config, overrides)
    # Before the model, whose libraries take seconds to import.
    check_files(source, target)
    summary = judge_with_progress(RewardModel(loaded), source, target, what="judging")
    typer.echo(describe(summary, target), err=True)
    if summary.bad or summary.lost:
        raise typer.Exit(1)
