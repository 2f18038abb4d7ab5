"""`spct eval`: how right a judge is on labelled tasks, by the votes it takes."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from spct_plugin.blocks import JudgedTask
from spct_plugin.cli.eval_tables import print_evaluation
from spct_plugin.cli.judging import describe, judge_with_progress
from spct_plugin.cli.options import ConfigFile, Overrides
from spct_plugin.config import SPCTConfig
from spct_plugin.data import check_writable
from spct_plugin.data.judged import Labels, read_judgements, read_labels, recorded_votes
from spct_plugin.errors import ConfigError, TaskError
from spct_plugin.evaluation import evaluate
from spct_plugin.plugins import load_plugins
from spct_plugin.reward_model import RewardModel

# Neither rewards nor the way of voting matter while judging; fixed, so that other ones reuse the
# judgements. Rules beside the judge are not asked, and no reward can stop the run.
NEUTRAL = ("vote.stop=never", "vote.how=mean", "vote.k_meta=null", "reward={}")
NO_META = "meta_rm=null"


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
    greedy = judged.with_name(f"{judged.stem}.greedy.jsonl")
    sampled = _sampled(config, override or [], _votes(judged, ks[-1]), meta_rm=meta_rm)
    given = SPCTConfig.load(config, override or [])
    greedily = [*(override or []), *NEUTRAL, NO_META, "vote.k=1", "sampling.temperature=0"]
    _check_outputs([path for path in (json_file, plot) if path], [source, judged, greedy])
    if plot is not None:
        from spct_plugin.report.scaling import check_plot

        check_plot(plot)
    labels = read_labels(source)
    lost = _judge(sampled, source, judged, "judging")
    lost += _judge(SPCTConfig.load(config, greedily), source, greedy, "judging greedily")
    _, vote = given.template_and_vote(load_plugins(given.plugins))
    found = evaluate(_judged_tasks(labels, judged, greedy), ks, k_metas, vote=vote)
    print_evaluation(found)
    if json_file is not None:
        json_file.write_text(json.dumps({**asdict(found), "lost": lost}, indent=2) + "\n")
    if plot is not None:
        from spct_plugin.report.scaling import plot_scaling

        plot_scaling(found, plot)
    if lost:
        raise typer.Exit(1)


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


def _votes(judged: Path, k: int) -> int:
    """Go on with the votes of an earlier run when they are enough."""
    recorded = recorded_votes(judged)
    if recorded is not None and recorded < k:
        raise ConfigError(
            f"expected {k} votes a task in {str(judged)!r}, found {recorded}; choose another "
            f"output file, or ask for k up to {recorded}"
        )
    return recorded or k


def _sampled(config: Path | None, override: list[str], votes: int, *, meta_rm: bool) -> SPCTConfig:
    ours = [*NEUTRAL, f"vote.k={votes}", *([] if meta_rm else [NO_META])]
    loaded = SPCTConfig.load(config, [*override, *ours])
    if loaded.sampling.temperature == 0:
        raise ConfigError(
            "sampling.temperature: expected more than 0 for votes that differ, found 0; greedy "
            "judging is always done too"
        )
    if meta_rm and loaded.meta_rm is None:
        raise ConfigError("--meta-rm: the configuration has no section meta_rm; add one")
    return loaded


def _check_outputs(results: list[Path], others: list[Path]) -> None:
    for path in results:
        if path.resolve() in {other.resolve() for other in others}:
            raise TaskError(f"expected another file for the results, found {str(path)!r} for both")
        check_writable(path)


def _judge(config: SPCTConfig, source: Path, target: Path, what: str) -> int:
    """Judge what is missing in a file; give how many rows lost judgements to infrastructure."""
    summary = judge_with_progress(RewardModel(config), source, target, what=what)
    typer.echo(describe(summary, target), err=True)
    return summary.lost


def _judged_tasks(labels: Labels, judged: Path, greedy: Path) -> list[JudgedTask]:
    sampled, greedily = read_judgements(judged, labels), read_judgements(greedy, labels)
    return [
        JudgedTask(task, n, label, sampled[task], greedily[task])
        for task, (n, label) in labels.items()
    ]
