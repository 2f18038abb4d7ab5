"""Confidence intervals by bootstrap. Pure: the seed is passed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

# Resamples; chosen by us: the percentiles of 10,000 move by less than the second digit shown.
RESAMPLES = 10_000


def bootstrap_mean(values: Sequence[float], seed: int = 0) -> tuple[float, tuple[float, float]]:
    """Give the mean and its 95 % interval (percentile bootstrap over the values).

    Args:
        values: One per independent unit, such as a prompt; pass differences for a paired test.
        seed: Same seed, same interval.

    Returns:
        Mean, and the lower and upper end.
    """
    sample = np.asarray(values, dtype=np.float64)
    rng = np.random.default_rng(seed)
    means = np.array(
        [sample[rng.integers(0, len(sample), len(sample))].mean() for _ in range(RESAMPLES)]
    )
    low, high = np.quantile(means, [0.025, 0.975])
    return float(sample.mean()), (float(low), float(high))
