"""`spct judge`: rewards for a file of tasks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from spct_plugin.cli.options import ConfigFile, Overrides
from spct_plugin.config import SPCTConfig
from spct_plugin.data.judging import Summary, count_lines, judge_file
from spct_plugin.data.rows import BadRow, TaskRow
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
    model = RewardModel(SPCTConfig.load(config, overrides))
    console = Console(stderr=True)
    columns = (TextColumn("judging"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        bar = progress.add_task("judging", total=count_lines(source))

        def advance(row: TaskRow | BadRow) -> None:
            progress.advance(bar)
            if isinstance(row, BadRow):
                typer.echo(f"spct: {source}, line {row.line}: {row.problem}", err=True)

        try:
            summary = asyncio.run(_judge_and_close(model, source, target, advance))
        except KeyboardInterrupt:
            typer.echo(
                f"spct: stopped; what is finished is in {target}, the same command goes on",
                err=True,
            )
            raise typer.Exit(130) from None
    typer.echo(_describe(summary, target), err=True)
    if summary.bad or summary.lost:
        raise typer.Exit(1)


async def _judge_and_close(
    model: RewardModel, source: Path, target: Path, advance: Callable[[TaskRow | BadRow], None]
) -> Summary:
    try:
        return await judge_file(model, source, target, advance)
    finally:
        await model.aclose()


def _describe(summary: Summary, target: Path) -> str:
    kinds = ", ".join(f"{kind} {count}" for kind, count in summary.failures.most_common())
    parts = [f"{summary.rows} rows judged into {target}"]
    if summary.resumed:
        parts.append(f"{summary.resumed} were there already")
    if summary.bad:
        parts.append(f"{len(summary.bad)} bad lines left out")
    parts.append(f"{summary.judgements} judgements, failed: {kinds or 'none'}")
    parts += [f"first {kind}: {detail}" for kind, detail in summary.details.items()]
    if summary.unrewarded:
        parts.append(f"{summary.unrewarded} completions without a reward")
    if summary.lost:
        parts.append(
            f"{summary.lost} rows lost judgements to infrastructure: mend that and run it again"
        )
    return "; ".join(parts)
