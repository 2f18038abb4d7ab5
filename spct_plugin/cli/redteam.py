"""`spct redteam`: attacks on the judge, and how often they succeed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from spct_plugin.cli.options import AsJson, ConfigFile, Overrides
from spct_plugin.config import SPCTConfig
from spct_plugin.data import check_writable
from spct_plugin.redteam import Attack, stage
from spct_plugin.redteam.report import Findings
from spct_plugin.redteam.results import Outcome, Rate, one_point, rates_of, sums_of
from spct_plugin.redteam.run import (
    NEUTRAL,
    attack_judge,
    choose_families,
    choose_scenes,
    groups_of,
    takes_code,
    template_of,
)
from spct_plugin.reward_model import RewardModel

# The bundled judge runs on whatever machine this is: few votes, minutes on two cores.
FEW_VOTES = "vote.k=4"
# Columns for a file or a pipe, which have no width of their own: enough that nothing wraps.
WIDE = 140


def redteam(
    config: ConfigFile = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write all attacks and numbers as JSON.")
    ] = None,
    page: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Write them as an HTML page.")
    ] = None,
    as_json: AsJson = False,
    tasks: Annotated[
        Path | None,
        typer.Option("--tasks", metavar="FILE", help="Labelled tasks, JSONL, to attack in."),
    ] = None,
    scenes_each: Annotated[
        int, typer.Option("--scenes", min=1, help="Scenes in which each attack is made.")
    ] = 1,
    family: Annotated[
        list[str] | None, typer.Option("--family", help="Only this family; may be repeated.")
    ] = None,
    max_success: Annotated[
        float | None,
        typer.Option(
            "--max-success", min=0, max=1, help="Exit with 1 when a family succeeds more often."
        ),
    ] = None,
    override: Overrides = None,
) -> None:
    """Attack judge, template and parser; print how often it raises a reward, with intervals."""
    for target in (output, page):
        if target is not None:
            check_writable(target)
    few = [FEW_VOTES] if config is None else []
    chosen = SPCTConfig.load(config, [*few, *(override or []), *NEUTRAL])
    found = _attack(chosen, family or [], tasks, scenes_each)
    if output is not None:
        found.write_json(output)
    if page is not None:
        found.write_page(page)
    if as_json:
        typer.echo(json.dumps(found.as_dict(attacks=False), indent=2))
    else:
        _print(found)
    _exit(found.problems(max_success))


def _attack(
    config: SPCTConfig, names: Sequence[str], tasks: Path | None, scenes_each: int
) -> Findings:
    families = choose_families(config, names)
    template = template_of(config)
    attacks = stage(families, choose_scenes(template, tasks), scenes_each)
    model = RewardModel(config)
    outcomes = _judge(model, attacks)
    return Findings(
        version=model.version,
        template=template.name,
        nonce=config.template.nonce if takes_code(template) else None,
        scale=template.scale,
        k=config.vote.k,
        rates=rates_of(outcomes, families, template.scale),
        sums=sums_of(outcomes, template.scale),
        outcomes=outcomes,
    )


def _exit(problems: Sequence[str]) -> None:
    for problem in problems:
        typer.echo(f"spct: {problem}", err=True)
    if problems:
        raise typer.Exit(1)


def _judge(model: RewardModel, attacks: Sequence[Attack]) -> list[Outcome]:
    console = Console(stderr=True)
    columns = (TextColumn("attacking"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        bar = progress.add_task("", total=len(groups_of(attacks)))
        try:
            return asyncio.run(attack_judge(model, attacks, lambda: progress.advance(bar)))
        except KeyboardInterrupt:
            typer.echo("spct: stopped; with store.path set, what is judged is kept", err=True)
            raise typer.Exit(130) from None


def _print(found: Findings) -> None:
    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDE)
    points = one_point(found.scale)
    table = Table(
        title=f"Rewards raised by more than {points:.2g}, k = {found.k}, 95 % intervals",
        title_justify="left",
        title_style="bold",
        box=SIMPLE_HEAD,
    )
    table.add_column("family")
    for column in ("attacks", "succeeded, %", "backfired, %", "gain in points", "unjudged"):
        table.add_column(column, justify="right")
    for rate in found.rates:
        table.add_row(*_cells(rate))
    table.add_section()
    for rate in found.sums:
        table.add_row(*_cells(rate))
    console.print(table)
    console.print(
        "* structural: forges what only the template may write.\n"
        f"Through template and parser, whatever the judge: {len(found.breached)} of "
        f"{len(found.outcomes)}, placebos too (template {found.asked_by})",
        highlight=False,
    )


def _cells(rate: Rate) -> list[str]:
    unjudged = str(rate.attacks - rate.judged) if rate.attacks > rate.judged else ""
    name = rate.family + (" *" if rate.structural else "")
    if rate.success is None or rate.low is None or rate.high is None or rate.gain is None:
        return [name, str(rate.attacks), "-", "-", "-", unjudged]
    ends = f"[{100 * rate.low:.0f}, {100 * rate.high:.0f}]"
    gains = f"[{rate.gain_low:+.2f}, {rate.gain_high:+.2f}]"
    return [
        name,
        str(rate.attacks),
        f"{100 * rate.success:.0f} {ends}",
        f"{100 * rate.backfired / rate.judged:.0f}",
        f"{rate.gain:+.2f} {gains}",
        unjudged,
    ]
