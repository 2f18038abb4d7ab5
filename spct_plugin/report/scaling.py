"""Accuracy over votes as a picture, drawn by matplotlib (extra `report`)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from spct_plugin.errors import ConfigError
from spct_plugin.evaluation import Evaluation, Group, Point
from spct_plugin.report.charts import new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SUFFIXES = (".png", ".svg", ".pdf")


def check_plot(path: Path) -> None:
    """Find out before the work, and not after it, that no picture can be drawn.

    Raises:
        ConfigError: matplotlib is not installed, or the ending names no form we draw.
    """
    if path.suffix not in SUFFIXES:
        raise ConfigError(f"expected a picture that ends in {SUFFIXES}, found {str(path)!r}")
    new_figure(1, 1)


def plot_scaling(evaluation: Evaluation, path: Path) -> None:
    """Draw one panel per group: plain and meta RM over k (log2), greedy as a horizontal line.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    groups = evaluation.groups
    figure = new_figure(1.2 + 3.6 * len(groups), 3.4)
    for number, group in enumerate(groups):
        _draw(figure.add_subplot(1, len(groups), number + 1), group)
    figure.savefig(path, dpi=150)


def _draw(axes: Axes, group: Group) -> None:
    _line(axes, group.plain, "all votes")
    if group.meta:
        _line(axes, group.meta, "meta RM, half kept")
    greedy = group.greedy
    if greedy.value is not None and greedy.low is not None and greedy.high is not None:
        axes.axhline(greedy.value, color="0.4", linestyle="--", label="greedy")
        axes.axhspan(greedy.low, greedy.high, color="0.4", alpha=0.1, linewidth=0)
    axes.set_xscale("log", base=2)
    ks = [point.k for point in group.plain]
    axes.set_xticks(ks, [str(k) for k in ks])
    axes.minorticks_off()
    axes.set_title(f"n = {group.n}, {group.tasks} tasks", fontsize="medium")
    axes.set_xlabel("votes k")
    axes.set_ylabel("ROC-AUC" if group.measure == "auc" else "accuracy")
    axes.grid(visible=True, alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False)


def _line(axes: Axes, points: Sequence[Point], name: str) -> None:
    """Draw what is defined, with its 95 % interval as a band."""
    known = [
        (point.k, point.value, point.low, point.high)
        for point in points
        if point.value is not None and point.low is not None and point.high is not None
    ]
    if known:
        ks, values, lows, highs = zip(*known, strict=True)
        [line] = axes.plot(ks, values, marker=".", label=name)
        axes.fill_between(ks, lows, highs, color=line.get_color(), alpha=0.15, linewidth=0)
