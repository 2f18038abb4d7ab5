"""`spct config`: check a configuration, or describe all keys."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
import yaml

from spct_plugin.cli.options import Overrides
from spct_plugin.config import SPCTConfig
from spct_plugin.config_reference import reference, schema
from spct_plugin.probes import Probes


def config(
    path: Annotated[Path | None, typer.Argument(metavar="[FILE]", help="YAML file.")] = None,
    override: Overrides = None,
    as_schema: Annotated[bool, typer.Option("--schema", help="Print the JSON schema.")] = False,
    as_reference: Annotated[
        bool, typer.Option("--reference", help="Print the reference page (Markdown).")
    ] = False,
) -> None:
    """Check a configuration file and print it whole, defaults filled in."""
    if as_schema:
        typer.echo(json.dumps(schema(), indent=2))
    elif as_reference:
        typer.echo(reference(), nl=False)
    else:
        loaded = SPCTConfig.load(path, override or []).with_bundled_meta_rm()
        # Reads the gold tasks, as the run will.
        Probes(loaded)
        typer.echo(yaml.safe_dump(loaded.model_dump(mode="json"), sort_keys=False), nl=False)
