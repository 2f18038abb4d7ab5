"""`spct demo`: the offline main job."""

from __future__ import annotations

import json
import logging
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from spct_plugin.data import check_writable


def demo(
    report: Annotated[Path, typer.Option("--report", help="The HTML page.")] = Path(
        "demo_report.html"
    ),
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write the numbers as JSON.")
    ] = None,
    folder: Annotated[Path, typer.Option("--folder", help="For the run's files.")] = Path(
        "runs/demo"
    ),
    steps: Annotated[int | None, typer.Option(help="Updates of the policy.", min=1)] = None,
    prompts: Annotated[int | None, typer.Option(help="Held-out prompts.", min=1)] = None,
    k: Annotated[int | None, typer.Option("-k", help="Votes per group.", min=1)] = None,
    seed: Annotated[int, typer.Option(help="Of the training run.")] = 0,
    permuted: Annotated[
        bool, typer.Option("--permuted", help="The control: permute rewards inside each group.")
    ] = False,
) -> None:
    """Train a tiny policy with TRL's GRPO by a tiny GRM's rewards, offline, and compare."""
    from spct_plugin.tiny.demo import DemoSettings, run_demo

    for target in (report, json_file):
        if target is not None:
            check_writable(target)
    _prepare_process()
    chosen = {"steps": steps, "prompts": prompts, "k": k}
    given = {name: value for name, value in chosen.items() if value is not None}
    settings = DemoSettings(seed=seed, permuted=permuted, **given)
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(
        *columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal
    ) as progress:
        bar = progress.add_task("loading", total=settings.steps)
        result = run_demo(
            folder,
            settings,
            report=report,
            advance=lambda what, done, total: progress.update(
                bar, description=what, completed=done, total=total
            ),
        )
    if json_file is not None:
        json_file.write_text(json.dumps(asdict(result), indent=2) + "\n")
    typer.echo(result.table())
    typer.echo(f"report             {report.resolve()}")


def _prepare_process() -> None:
    """Use one thread, and keep loading bars and notes on what is as it should be out of the output.

    Models this small run slower on two threads. TRL warns of every completion without a reward;
    here the report counts them.
    """
    import torch
    from transformers.utils import logging as transformers_logging

    torch.set_num_threads(1)

    transformers_logging.disable_progress_bar()
    logging.getLogger("trl").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
