"""`spct plugins`: what is installed, and what it adds."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from spct_plugin.cli.options import AsJson
from spct_plugin.plugins import load_plugins


def plugins(
    as_json: AsJson = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Fail when a plugin cannot be loaded.")
    ] = False,
) -> None:
    """List plugins: name, source, hooks, and why one could not be loaded."""
    found = load_plugins(strict=strict).plugins
    if as_json:
        typer.echo(json.dumps([asdict(plugin) for plugin in found], indent=2))
        return
    table = Table("name", "source", "hooks", "error")
    for plugin in found:
        cells = (plugin.name, plugin.source, "\n".join(plugin.hooks), plugin.error)
        table.add_row(*map(escape, cells))
    Console().print(table)
