"""A report of a run as one self-contained HTML page: curves, failures, judgements to read.

write_report(read_groups(Path("runs/store")), Path("report.html"))
"""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from spct_plugin import store
from spct_plugin.data.judging import is_torn
from spct_plugin.data.rows import BadRow, line_problem, parse_line
from spct_plugin.errors import TaskError
from spct_plugin.report.charts import Series, line_chart
from spct_plugin.types import JudgeTask, Message, is_mapping

log = logging.getLogger(__name__)

HERE = Path(__file__).parent
# Groups shown with all their judgements, spread evenly over the run; chosen by us, to be read.
SHOWN_GROUPS = 12

Group = Mapping[str, Any]


@dataclass(frozen=True)
class Chart:
    """One figure of the report: a heading, what to see in it, and its curves."""

    title: str
    caption: str
    series: Sequence[Series]


def read_groups(path: Path) -> list[Group]:
    """Read a run's groups from a store's directory or from the output of `spct judge`.

    A last line that a killed run did not write to its end is left out, with a warning.

    Raises:
        TaskError: There is nothing to read, or a line is not one of `spct judge`.
        StoreError: A file of the store is damaged.
    """
    groups: list[Group] = [*store.read_groups(path)] if path.is_dir() else _read_rows(path)
    if not groups:
        raise TaskError(f"expected judged groups in {str(path)!r}, found none")
    return groups


def write_report(
    groups: Sequence[Group],
    target: Path,
    *,
    title: str = "Judged groups",
    summary: Mapping[str, str] | None = None,
    charts: Iterable[Chart] = (),
) -> None:
    """Write the page.

    Args:
        groups: What `read_groups` gave.
        target: The HTML file.
        title: Heading of the page.
        summary: More lines for the table at the top.
        charts: More figures, before those of the groups.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE), autoescape=True, undefined=jinja2.StrictUndefined
    )
    page = environment.get_template("report.html.jinja").render(
        title=title,
        summary={**(summary or {}), **_summary(groups)},
        charts=[
            (chart, line_chart(chart.series)) for chart in [*charts, *_charts(_by_step(groups))]
        ],
        failures=_failures(groups),
        groups=[_readable(group) for group in _spread_evenly(groups)],
    )
    target.write_text(page, encoding="utf-8", errors="replace")


def _read_rows(path: Path) -> list[Group]:
    groups: list[Group] = []
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                try:
                    groups.append(_row(line))
                except (ValueError, RecursionError) as error:
                    if not is_torn(line):
                        bad = BadRow(number, line_problem(error))
                        raise TaskError(bad.within(path)) from None
                    log.warning("%s, line %d: not written to its end; left out", path, number)
    except OSError as error:
        raise TaskError(f"cannot read {str(path)!r}: {error.strerror}") from None
    return groups


def _row(line: bytes) -> Group:
    row = parse_line(line)
    if not is_mapping(row) or not {"rewards", "judgements"} <= set(row):
        raise TaskError(f"expected a row of `spct judge`, found {line.decode()[:60]!r}")
    return row


def _by_step(groups: Sequence[Group]) -> dict[int, list[Group]]:
    """Sort groups by training step; without steps, into 50 equal parts of the run."""
    steps: dict[int, list[Group]] = defaultdict(list)
    for index, group in enumerate(groups):
        step = group.get("step")
        steps[step if step is not None else index * 50 // len(groups)].append(group)
    return dict(sorted(steps.items()))


def _charts(steps: Mapping[int, Sequence[Group]]) -> list[Chart]:
    return [
        Chart(
            "Reward",
            "Mean reward of all completions per step.",
            [Series("reward", *_means(steps, _rewards))],
        ),
        Chart(
            "Vote spread",
            "Standard deviation of a completion's scores over its votes.",
            [Series("spread", *_means(steps, lambda group: group.get("spread") or ()))],
        ),
        Chart(
            "Failed judgements",
            "Share of judgements without scores; none of them became a number.",
            [Series("failed", *_means(steps, _failed))],
        ),
    ]


def _means(steps: Mapping[int, Sequence[Group]], values_of: Any) -> tuple[list[int], list[float]]:
    """Average over each step what `values_of` gives; steps without any value are left out."""
    xs: list[int] = []
    ys: list[float] = []
    for step, groups in steps.items():
        values = [value for group in groups for value in values_of(group) if value is not None]
        if values:
            xs.append(step)
            ys.append(sum(values) / len(values))
    return xs, ys


def _rewards(group: Group) -> Sequence[float | None]:
    return group["rewards"]


def _failed(group: Group) -> list[float]:
    return [float(judgement["failure"] is not None) for judgement in group["judgements"]]


def _summary(groups: Sequence[Group]) -> dict[str, str]:
    judgements = [judgement for group in groups for judgement in group["judgements"]]
    valid = sum(judgement["failure"] is None for judgement in judgements)
    rewards = [reward for group in groups for reward in group["rewards"]]
    known = sum(reward is not None for reward in rewards)
    versions = sorted({str(group.get("version", "")) for group in groups})
    return {
        "groups": f"{len(groups):,}",
        "completions with a reward": f"{known:,} of {len(rewards):,}",
        "judgements with scores": f"{valid:,} of {len(judgements):,}",
        "tokens the judge wrote": f"{sum(j['tokens'] for j in judgements):,}",
        "judge": "; ".join(versions),
    }


def _failures(groups: Sequence[Group]) -> dict[str, int]:
    counted: Counter[str] = Counter()
    for group in groups:
        counted.update(group.get("failures") or {})
    return dict(counted.most_common())


def _spread_evenly(groups: Sequence[Group]) -> list[Group]:
    shown = min(SHOWN_GROUPS, len(groups))
    return [groups[index * len(groups) // shown] for index in range(shown)]


def _readable(group: Group) -> dict[str, Any]:
    """Prepare a group for the page; files of `spct judge` hold no texts of the task itself."""
    if "prompt" not in group:
        return {**group, "prompt": None, "completions": [None] * len(group["rewards"])}
    task = JudgeTask(group["prompt"], group["completions"])
    return {
        **group,
        "prompt": _text(task.prompt),
        "completions": [c if isinstance(c, str) else _text(c) for c in task.completions],
    }


def _text(turns: Sequence[Message]) -> str:
    return "\n".join(f"{turn.role}: {turn.content}" for turn in turns)
