"""The tables that `spct eval` prints; shares in percent."""

from __future__ import annotations

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from spct_plugin.evaluation import Estimate, Evaluation, Group, Point

# Columns for a file or a pipe, which have no width of their own: enough that nothing wraps.
WIDE = 140


def print_evaluation(evaluation: Evaluation) -> None:
    """Print accuracy over k, over k_meta with a meta RM, and what the judgements are like."""
    console, groups = Console(), evaluation.groups
    if not console.is_terminal:
        console = Console(width=WIDE)
    console.print(_accuracy(groups))
    if any(group.k_meta_sweep for group in groups):
        console.print(_sweep(groups))
    console.print(_quality(groups))


def _accuracy(groups: Sequence[Group]) -> Table:
    with_meta = any(group.meta for group in groups)
    failed = any(p.unjudged for group in groups for p in (group.greedy, *group.plain))
    columns = ["n", "k", "all votes"]
    columns += ["meta RM, half kept", "meta RM - all"] if with_meta else []
    columns += ["unjudged blocks"] if failed else []
    table = _table("Accuracy (n = 1: ROC-AUC), %, 95 % intervals", columns)
    for group in groups:
        blank = [""] * (2 * with_meta)
        lead = [str(group.n), "greedy", _show(group.greedy), *blank]
        table.add_row(*lead, *[_unjudged(group.greedy)] * failed)
        for at, point in enumerate(group.plain):
            more = _with_meta(group.meta[at]) if group.meta else blank
            table.add_row("", str(point.k), _show(point), *more, *[_unjudged(point)] * failed)
        span = f"{group.plain[-1].k} - {group.plain[0].k}"
        table.add_row("", span, _show(group.gain, sign="+"), end_section=True)
    return table


def _sweep(groups: Sequence[Group]) -> Table:
    k = groups[0].plain[-1].k
    table = _table(f"Kept by the meta RM of k = {k}", ["n", "k_meta", "meta RM", "meta RM - all"])
    for group in groups:
        for at, point in enumerate(group.k_meta_sweep):
            table.add_row("" if at else str(group.n), str(point.k_meta), *_with_meta(point))
    return table


def _quality(groups: Sequence[Group]) -> Table:
    columns = ["n", "tasks", "judgements", "valid", "ties", "winner's place", "tokens"]
    columns += ["meta scored", "meta AUC"] if any(group.meta for group in groups) else []
    table = _table("Judgements, %", [*columns, "failures"])
    for group in groups:
        found = group.quality
        positions = " ".join(_percent(share) for share in found.winner_positions or ())
        tokens = found.tokens_per_judgement
        table.add_row(
            str(group.n),
            str(group.tasks),
            str(found.judgements),
            _percent(found.parse_rate),
            _percent(found.tie_rate),
            positions or "-",
            "-" if tokens is None else f"{tokens:.0f}",
            *_meta(group),
            ", ".join(f"{kind} {count}" for kind, count in found.failures.items()) or "none",
        )
    return table


def _meta(group: Group) -> list[str]:
    """Say how many valid judgements the meta RM scored, and how well it tells right from wrong."""
    if not group.meta:
        return []
    found = group.quality
    scored = found.meta_scored / found.valid if found.valid else None
    return [_percent(scored), _percent(found.meta_auc)]


def _table(title: str, columns: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD)
    for column in columns:
        table.add_column(column, justify="right")
    return table


def _with_meta(point: Point) -> list[str]:
    return [_show(point), "-" if point.over_plain is None else _show(point.over_plain, sign="+")]


def _show(found: Estimate, sign: str = "") -> str:
    if found.value is None or found.low is None or found.high is None:
        return "-"
    low, high = 100 * found.low, 100 * found.high
    return f"{100 * found.value:{sign}.1f} [{low:{sign}.1f}, {high:{sign}.1f}]"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}"


def _unjudged(point: Point) -> str:
    return f"{point.unjudged} of {point.blocks}"
