"""`spct tiny`: the offline world."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from spct_plugin.data import check_writable

tiny = typer.Typer(no_args_is_help=True, help="The offline world behind the bundled tiny models.")


@tiny.callback()
def root() -> None:
    """Hold the commands about the offline world."""


@tiny.command()
def tasks(
    output: Annotated[Path, typer.Option("--output", "-o", help="Labelled tasks, JSONL.")],
    seed: Annotated[int, typer.Option(help="Same seed, same tasks.")] = 0,
    count: Annotated[int, typer.Option("-n", min=1, help="Tasks.")] = 100,
    completions: Annotated[int, typer.Option(min=1, max=4, help="Completions per task.")] = 2,
) -> None:
    """Write tasks of the offline world with their labels, for `spct judge`."""
    from spct_plugin.tiny.tasks import labelled_tasks

    check_writable(output)
    with output.open("w", encoding="utf-8") as file:
        for row in labelled_tasks(seed, count, completions):
            file.write(json.dumps(row) + "\n")
    typer.echo(f"{count} tasks: {output}")
