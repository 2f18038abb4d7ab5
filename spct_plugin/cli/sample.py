"""`spct sample`: judgements of labelled tasks to learn from, the first stage of SPCT."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from spct_plugin.cli.judging import describe, judge_with_progress, load_judge, spent
from spct_plugin.cli.options import ConfigFile, Overrides
from spct_plugin.data.judging import check_files
from spct_plugin.data.rows import check_labelled
from spct_plugin.plugins import load_plugins
from spct_plugin.reward_model import RewardModel
from spct_plugin.training.hints import HintedTemplate
from spct_plugin.training.rejection import N_RFT


def sample(
    source: Annotated[Path, typer.Argument(metavar="FILE", help="Labelled tasks, JSONL.")],
    target: Annotated[Path, typer.Option("--output", "-o", help="Trajectories, JSONL; resumed.")],
    config: ConfigFile = None,
    k: Annotated[
        int | None,
        typer.Option("-k", min=1, help=f"Judgements per task; {N_RFT}, with --hinted 1."),
    ] = None,
    hinted: Annotated[bool, typer.Option("--hinted", help="Tell the judge the answer.")] = False,
    price: Annotated[
        float | None, typer.Option(help="Of a million written tokens; shows the cost.", min=0)
    ] = None,
    override: Overrides = None,
) -> None:
    """Sample judgements of every task; a run that was stopped goes on where it was."""
    check_labelled(source)
    samples = k or (1 if hinted else N_RFT)
    overrides = [*(override or []), f"vote.k={samples}", "vote.stop=never", "meta_rm=null"]
    loaded = load_judge(config, overrides)
    check_files(source, target)
    template = None
    if hinted:
        asked, _ = loaded.template_and_vote(load_plugins(loaded.plugins))
        template = HintedTemplate(asked)
    model = RewardModel(loaded, template=template)
    summary = judge_with_progress(
        model,
        source,
        target,
        what="sampling",
        mark={"hinted": hinted},
        learnt_from=True,
        price=price,
    )
    typer.echo(f"{describe(summary, target)}; {spent(summary.tokens, price)}", err=True)
    if summary.bad or summary.lost:
        raise typer.Exit(1)
