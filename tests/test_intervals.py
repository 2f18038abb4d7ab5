"""Bootstrap intervals, and Wilson's for shares."""

import pytest

from spct_plugin.intervals import bootstrap_mean, wilson


def test_the_interval_holds_the_mean_and_narrows_with_more_values():
    mean, (low, high) = bootstrap_mean([0.0, 1.0] * 50)
    assert mean == 0.5
    assert (low, high) == pytest.approx((0.4, 0.6), abs=0.02)
    _, (low_more, high_more) = bootstrap_mean([0.0, 1.0] * 500)
    assert high_more - low_more < (high - low) / 2


def test_the_same_seed_gives_the_same_interval():
    values = [0.1, 0.5, 0.9, 0.4]
    assert bootstrap_mean(values, seed=3) == bootstrap_mean(values, seed=3)


def test_values_that_are_all_equal_have_no_width():
    assert bootstrap_mean([0.25] * 10) == (0.25, (0.25, 0.25))


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    # The worked values of Newcombe (1998), table I.
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilsons_interval_of_a_share(successes, trials, low, high):
    assert wilson(successes, trials) == pytest.approx((low, high), abs=0.0001)
    mirrored = wilson(trials - successes, trials)
    assert mirrored == pytest.approx((1 - high, 1 - low), abs=0.0001)
