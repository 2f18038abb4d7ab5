"""Figures as inline SVG, drawn by matplotlib (extra `report`)."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from spct_plugin.errors import ConfigError

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Series:
    """One curve.

    Attributes:
        name: For the legend.
        xs: Steps.
        ys: Values, one per step.
    """

    name: str
    xs: Sequence[int]
    ys: Sequence[float]


def new_figure(width: float, height: float) -> Figure:
    """Make an empty figure of so many inches, without a window system.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ConfigError("a report needs matplotlib: pip install 'spct-plugin[report]'") from None
    return Figure(figsize=(width, height), layout="constrained")


def line_chart(series: Sequence[Series]) -> str:
    """Draw curves over training steps; give the `<svg>` element.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    figure = new_figure(7.5, 2.6)
    axes = figure.subplots()
    for curve in series:
        axes.plot(curve.xs, curve.ys, label=curve.name, marker="." if len(curve.xs) < 80 else "")
    axes.set_xlabel("step")
    axes.grid(visible=True, alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    if len(series) > 1:
        axes.legend(frameon=False)
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    drawing = buffer.getvalue()
    return drawing[drawing.index("<svg") :]
