"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", "-c", help="YAML file; without one the bundled tiny GRM judges."),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", "-s", metavar="KEY=VALUE", help="Override, like -s vote.k=16."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
