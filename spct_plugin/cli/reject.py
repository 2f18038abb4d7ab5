"""`spct reject`: from sampled judgements to the files that trainers read."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from spct_plugin.cli.options import AsJson, ConfigFile, Overrides
from spct_plugin.config import SPCTConfig
from spct_plugin.data.rows import BadRow
from spct_plugin.engines.builtin import TransformersConfig
from spct_plugin.errors import ConfigError
from spct_plugin.training.chat import Chat
from spct_plugin.training.prompts import JudgePrompts
from spct_plugin.training.rejecting import RejectCounts, reject_files, rl_rows, sft_rows


class Stage(StrEnum):
    """What the file is for."""

    rft = "rft"
    rl = "rl"


class Framework(StrEnum):
    """Whose trainer reads the file."""

    trl = "trl"
    openrlhf = "openrlhf"


def reject(
    sources: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Of spct sample.")],
    target: Annotated[Path, typer.Option("--output", "-o", help="Training rows, JSONL.")],
    stage: Annotated[
        Stage, typer.Option(help="rft: right judgements; rl: prompts not too easy.")
    ] = Stage.rft,
    framework: Annotated[
        Framework, typer.Option("--for", help="Whose trainer reads the file.")
    ] = Framework.trl,
    tokenizer: Annotated[
        str | None, typer.Option(help="Whose chat template renders; default: engine.model.")
    ] = None,
    config: ConfigFile = None,
    override: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Keep what is worth learning from, and say where every judgement went and why."""
    loaded = SPCTConfig.load(config, override or [])
    chat = Chat(tokenizer or _own_model(loaded), framework.value)
    rows = (sft_rows if stage is Stage.rft else rl_rows)(JudgePrompts(loaded), chat)

    def advance(path: Path, bad: BadRow | None) -> None:
        if bad is not None:
            typer.echo(f"spct: {bad.within(path)}; left out", err=True)

    counts = reject_files(sources, target, rows, advance)
    typer.echo(json.dumps(vars(counts))) if as_json else _print(counts, target)
    if counts.bad:
        raise typer.Exit(1)


def _own_model(config: SPCTConfig) -> str:
    if not isinstance(config.engine, TransformersConfig):
        raise ConfigError(
            "expected --tokenizer MODEL, the model to be trained; the configuration's engine is "
            f"{config.engine.kind!r}, which has no tokenizer here"
        )
    return config.engine.model


def _print(counts: RejectCounts, target: Path) -> None:
    table = Table("what", "became of it", "count")
    for what, counter in (("task", counts.tasks), ("judgement", counts.judgements)):
        for reason, count in counter.most_common():
            table.add_row(what, escape(reason), str(count))
    if counts.bad:
        table.add_row("line", "bad, left out", str(counts.bad))
    table.add_row("row", f"written to {escape(str(target))}", str(counts.rows))
    Console().print(table)
