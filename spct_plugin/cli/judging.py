"""What `spct judge`, `spct sample` and `spct eval` share: judge a file under a progress bar."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from spct_plugin.config import SPCTConfig
from spct_plugin.config_file import read_settings
from spct_plugin.data.judging import Summary, count_finished, count_lines, judge_file
from spct_plugin.data.rows import BadRow, TaskRow
from spct_plugin.errors import ConfigError
from spct_plugin.reward_model import RewardModel
from spct_plugin.types import is_mapping


def load_judge(path: Path | None, overrides: Sequence[str]) -> SPCTConfig:
    """Load a configuration that says what the judge is, which files are resumed by.

    Raises:
        ConfigError: It cannot be used, or names a server, which alone knows what the judge is.
    """
    server = read_settings(path, overrides).get("server")
    if is_mapping(server) and server.get("url") is not None:
        raise ConfigError(
            "`spct sample`, `spct judge` and `spct eval` need the judge's own configuration, found "
            f"one that asks {server['url']!r}; name the server's own file, or leave out `server:`"
        )
    return SPCTConfig.load(path, overrides)


def judge_with_progress(
    model: RewardModel,
    source: Path,
    target: Path,
    *,
    what: str,
    mark: Mapping[str, Any] | None = None,
    learnt_from: bool = False,
    price: float | None = None,
) -> Summary:
    """Judge a file and close the model; name bad lines; end with 130 or 143 when it is stopped.

    Args:
        model: The judge.
        source: Tasks.
        target: Judged rows; resumed.
        what: Stands before the bar.
        mark: Written into every row.
        learnt_from: The labels in `target` will be trusted.
        price: Of a million written tokens, to show the cost; None = tokens only.
    """
    console = Console(stderr=True)
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(
        *columns, TextColumn("{task.description}"), console=console, disable=not console.is_terminal
    ) as progress:
        bar = progress.add_task("", total=count_lines(source))

        def advance(row: TaskRow | BadRow, summary: Summary) -> None:
            progress.update(bar, advance=1, description=spent(summary.tokens, price))
            if isinstance(row, BadRow):
                typer.echo(f"spct: {row.within(source)}", err=True)

        work = judge_file(model, source, target, advance, mark, learnt_from=learnt_from)
        try:
            return asyncio.run(_judge_and_close(model, work))
        except (KeyboardInterrupt, _TerminatedError) as stopped:
            typer.echo(
                f"spct: stopped; {count_finished(target)} rows are finished in {target}, the same "
                "command goes on",
                err=True,
            )
            sig = signal.SIGINT if isinstance(stopped, KeyboardInterrupt) else signal.SIGTERM
            raise typer.Exit(128 + sig) from None


def spent(tokens: int, price: float | None) -> str:
    """Say what was written, and what it costs."""
    cost = "" if price is None else f", {tokens * price / 1e6:.2f} at {price:g} a million"
    return f"{tokens:,} tokens{cost}"


def describe(summary: Summary, target: Path) -> str:
    """Say in one line what became of the rows of a file."""
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


class _TerminatedError(Exception):
    """SIGTERM came."""


async def _judge_and_close(model: RewardModel, work: Coroutine[Any, Any, Summary]) -> Summary:
    """Judge until it is done, or until SIGTERM, which cancels as Ctrl-C does by itself.

    A model in this process finishes the batch that it is at before the process ends.
    """
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    terminated: list[bool] = []

    def terminate() -> None:
        terminated.append(task.cancel())

    try:
        loop.add_signal_handler(signal.SIGTERM, terminate)
        return await work
    except asyncio.CancelledError:
        if terminated:
            raise _TerminatedError from None
        raise
    finally:
        loop.remove_signal_handler(signal.SIGTERM)
        await model.aclose()
