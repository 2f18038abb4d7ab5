"""`spct data`: preference sets to task files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, TextColumn
from rich.table import Table

from spct_plugin.cli.options import AsJson
from spct_plugin.data.building import Counts, Plan, build
from spct_plugin.data.rows import BadRow
from spct_plugin.errors import ConfigError
from spct_plugin.plugins import load_plugins

NAMED = 20


def data(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="Name of the set's form.")],
    path: Annotated[
        str, typer.Argument(metavar="PATH", help=".jsonl(.gz), .json, .parquet, folder or hub id.")
    ],
    target: Annotated[Path, typer.Option("--output", "-o", help="Tasks, JSONL.")],
    validation: Annotated[
        float, typer.Option(min=0, max=1, help="Share of the prompts to hold out.")
    ] = 0.0,
    validation_file: Annotated[Path | None, typer.Option(help="Held-out tasks, JSONL.")] = None,
    leakage: Annotated[
        list[Path] | None, typer.Option(metavar="BENCH", help="Task file; its prompts are dropped.")
    ] = None,
    split: Annotated[str, typer.Option(help="Split of a folder or hub id.")] = "train",
    as_json: AsJson = False,
) -> None:
    """Turn a preference set into labelled tasks; say where every row went."""
    sources = load_plugins().sources
    if source not in sources:
        raise ConfigError(f"SOURCE: expected one of {sorted(sources)}, found {source!r}")
    files = (validation, validation_file, tuple(leakage or ()))
    plan = Plan(source, sources[source], path, target, split, *files)
    named = 0
    console = Console(stderr=True)
    columns = (TextColumn("reading, {task.completed:.0f} rows"),)
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        bar = progress.add_task("reading", total=None)

        def advance(bad: BadRow | None) -> None:
            nonlocal named
            progress.advance(bar)
            named += bad is not None
            if bad and named <= NAMED:
                more = "; more are only counted" if named == NAMED else ""
                typer.echo(f"spct: {path}, line {bad.line}: {bad.problem}{more}", err=True)

        counts = build(plan, advance)
    typer.echo(json.dumps(vars(counts))) if as_json else _print(counts)
    if counts.bad:
        raise typer.Exit(1)


def _print(counts: Counts) -> None:
    table = Table("what", "count")
    table.add_row("rows read", str(counts.rows))
    table.add_row("malformed rows", str(counts.bad))
    for reason, count in counts.dropped.most_common():
        table.add_row(f"left out, {escape(reason)}", str(count))
    for path, count in counts.written.items():
        table.add_row(f"tasks in {escape(path)}", str(count))
    Console().print(table)
