"""`spct report`: a run as one HTML page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from spct_plugin.data import check_writable
from spct_plugin.errors import TaskError


def report(
    source: Annotated[
        Path, typer.Argument(metavar="PATH", help="A store's directory, or output of spct judge.")
    ],
    target: Annotated[Path, typer.Option("--output", "-o", help="The page.")] = Path("report.html"),
) -> None:
    """Write curves, failures and judgements to read as one self-contained HTML page."""
    from spct_plugin.report import read_groups, write_report

    if target.exists() and source.exists() and target.samefile(source):
        raise TaskError(f"expected another file for the page, found {str(target)!r} for both")
    check_writable(target)
    groups = read_groups(source)
    write_report(groups, target, title=f"Judged groups of {source}")
    typer.echo(f"{len(groups)} groups: {target}")
