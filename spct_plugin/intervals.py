"""Confidence intervals: by bootstrap, and Wilson's for shares. Pure: the seed is passed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Interval = tuple[float, float]

# Resamples; chosen by us: the percentiles of 10,000 move by less than the second digit shown.
RESAMPLES = 10_000
# Numbers drawn at once, to bound memory: 16 MB.
DRAWN_AT_ONCE = 2_000_000


def bootstrap_mean(values: Sequence[float], seed: int = 0) -> tuple[float, Interval]:
    """Give the mean and its 95 % interval (percentile bootstrap over the values).

    Args:
        values: One per independent unit, such as a prompt; pass differences for a paired test.
        seed: Same seed, same interval.

    Returns:
        Mean, and the lower and upper end.
    """
    [estimate] = bootstrap_means([np.asarray(values, dtype=np.float64)], seed)
    return estimate


def bootstrap_means(series: Sequence[Floats], seed: int = 0) -> list[tuple[float, Interval]]:
    """Do what `bootstrap_mean` does for several series over the same units, drawn together.

    Args:
        series: Arrays of the same length, one value per unit.
        seed: Same seed, same intervals.
    """
    values_U_S = np.stack(series, axis=1)
    units = len(values_U_S)
    rng = np.random.default_rng(seed)
    means = [_times_drawn(rng, rows, units) @ values_U_S / units for rows in _pieces(units)]
    return _with_intervals(values_U_S.mean(axis=0), np.concatenate(means))


def bootstrap_aucs(series: Sequence[Floats], seed: int = 0) -> list[tuple[float, Interval]]:
    """Give areas under the ROC curve with 95 % intervals, drawing good and bad units apart.

    Args:
        series: Arrays of good x bad units of the same shape, no side empty: 1 where the good one is
            scored higher, 0.5 for a tie, 0 where it is lower; or differences of such arrays.
        seed: Same seed, same intervals.

    Returns:
        For each array its mean, and the lower and upper end.
    """
    good, bad = series[0].shape
    rng = np.random.default_rng(seed)
    areas: list[Floats] = []
    for rows in _pieces(max(good, bad)):
        drawn_good, drawn_bad = _times_drawn(rng, rows, good), _times_drawn(rng, rows, bad)
        piece = [((drawn_good @ wins) * drawn_bad).sum(axis=1) / (good * bad) for wins in series]
        areas.append(np.stack(piece, axis=1))
    return _with_intervals(np.array([wins.mean() for wins in series]), np.concatenate(areas))


def wilson(successes: int, trials: int) -> Interval:
    """Give the 95 % interval of a share: unlike the bootstrap's it is one for 0 successes, too.

    Args:
        successes: At most `trials`.
        trials: At least 1.

    Source: Wilson (1927), the score interval.
    """
    z = 1.959964
    share = successes / trials
    middle = share + z * z / (2 * trials)
    half = z * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    scale = 1 + z * z / trials
    return max(0.0, (middle - half) / scale), min(1.0, (middle + half) / scale)


def _pieces(units: int) -> Iterator[int]:
    """Split the resamples into as many at once as memory should hold."""
    most = max(1, DRAWN_AT_ONCE // units)
    for start in range(0, RESAMPLES, most):
        yield min(most, RESAMPLES - start)


def _times_drawn(rng: np.random.Generator, rows: int, units: int) -> Floats:
    """Draw `units` of `units` with replacement, `rows` times; count how often each came."""
    drawn = rng.integers(0, units, (rows, units))
    drawn += np.arange(rows)[:, None] * units
    return np.bincount(drawn.ravel(), minlength=rows * units).reshape(rows, units).astype(float)


def _with_intervals(values: Floats, resampled: Floats) -> list[tuple[float, Interval]]:
    lows, highs = np.quantile(resampled, [0.025, 0.975], axis=0)
    return [
        (float(value), (float(low), float(high)))
        for value, low, high in zip(values, lows, highs, strict=True)
    ]
