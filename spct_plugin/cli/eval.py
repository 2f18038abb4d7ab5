"""`spct eval`: how right a judge is on labelled tasks, by the votes it takes."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from spct_plugin.cli.eval_tables import print_evaluation
from spct_plugin.cli.judging import describe, judge_with_progress, load_judge
from spct_plugin.cli.options import ConfigFile, Overrides
from spct_plugin.config import SPCTConfig
from spct_plugin.errors import ConfigError
from spct_plugin.evaluation.run import prepare
from spct_plugin.report.scaling import check_plot, plot_scaling
from spct_plugin.reward_model import RewardModel


def evaluate_judge(
    source: Annotated[Path, typer.Argument(metavar="TASKS", help="Labelled tasks, JSONL.")],
    config: ConfigFile = None,
    k: Annotated[str, typer.Option("-k", help="Numbers of votes to compare.")] = "1,2,4,8,16,32",
    meta_rm: Annotated[bool, typer.Option("--meta-rm", help="Ask the meta RM too.")] = False,
    k_meta: Annotated[
        str | None,
        typer.Option("--k-meta", help="Votes it keeps of the largest k; else 1, 2, 4, ... of it."),
    ] = None,
    target: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="Judged tasks, resumed; else TASKS.judged.jsonl, here."
        ),
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write the numbers as JSON.")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option("--plot", metavar="FILE", help="Draw them: .png, .svg, .pdf.")
    ] = None,
    override: Overrides = None,
) -> None:
    """Judge labelled tasks k times and greedily; print accuracy over k, with intervals."""
    ks = _numbers("-k", k)
    if k_meta and not meta_rm:
        raise ConfigError("--k-meta: says what the meta RM keeps; it needs --meta-rm")
    k_metas = _k_metas(k_meta, ks[-1]) if meta_rm else []
    judged = target or Path(f"{source.stem}.judged.jsonl")
    own = override or []
    run = prepare(source, judged, ks, k_metas, lambda ours: load_judge(config, [*own, *ours]))
    run.check_results([path for path in (json_file, plot) if path])
    if plot is not None:
        check_plot(plot)
    found, lost = run.evaluate(_judge)
    print_evaluation(found)
    if json_file is not None:
        json_file.write_text(json.dumps({**asdict(found), "lost": lost}, indent=2) + "\n")
    if plot is not None:
        plot_scaling(found, plot)
    if lost:
        raise typer.Exit(1)


def _judge(config: SPCTConfig, source: Path, target: Path, what: str) -> int:
    summary = judge_with_progress(RewardModel(config), source, target, what=what)
    typer.echo(describe(summary, target), err=True)
    return summary.lost


def _numbers(option: str, text: str) -> list[int]:
    """Read whole numbers with commas between them: ascending, each once."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) for part in parts):
        raise ConfigError(f"{option}: expected whole numbers from 1 like 1,2,4, found {text!r}")
    return sorted({int(part) for part in parts})


def _k_metas(text: str | None, k: int) -> list[int]:
    """Read what to keep of k votes; powers of two and k itself when nothing is said."""
    if text is None:
        return sorted({k, *(2**power for power in range(k.bit_length()))})
    found = _numbers("--k-meta", text)
    if found[-1] > k:
        raise ConfigError(f"--k-meta: expected at most the largest k, {k}, found {found[-1]}")
    return found
