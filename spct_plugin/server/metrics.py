"""What /metrics shows, in Prometheus' form. A registry of its own for every server."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from spct_plugin.engines.pool import EndpointState
from spct_plugin.failures import FAILURES
from spct_plugin.voter import GroupVotes

# Chosen by us: from a tiny judge's milliseconds to a reasoning judge's ten minutes.
SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 60, 120, 300, 600)
# Of a completion's scores over its votes, in points; half of the scale 1..10 is the most.
SPREADS = (0.25, 0.5, 0.75, 1, 1.5, 2, 3, 4.5)
OUTCOMES = ("judged", "lost")

ENDPOINT_GAUGES = {
    "spct_endpoint_up": "Whether a server of engine or meta RM is asked: not open nor asleep",
    "spct_endpoint_requests": "Requests in flight at it",
    "spct_endpoint_tokens": "Tokens in flight at it, estimated",
    "spct_endpoint_failures": "Requests that it failed so far",
}


class Metrics:
    """Counts of one server.

    Args:
        waiting: Gives the accepted groups that are not judged yet.
        judging: Gives the groups that are being judged.
        ready: Tells whether the server is ready.
        tripped: Tells whether the breaker would stop a run by the last groups.
    """

    def __init__(
        self,
        waiting: Callable[[], float],
        judging: Callable[[], float],
        ready: Callable[[], float],
        tripped: Callable[[], float],
    ) -> None:
        self._registry = CollectorRegistry()
        self._gauge("spct_groups_waiting", "Accepted groups not judged yet: the queue", waiting)
        self._gauge("spct_groups_judging", "Groups that are being judged", judging)
        self._gauge("spct_ready", "Whether a judgement succeeded, and the last ones too", ready)
        self._gauge("spct_breaker_tripped", "Whether reward.breaker would stop a run now", tripped)

        self.requests = self._counter("spct_requests", "Requests", "route", "status")
        self.request_seconds = self._histogram(
            "spct_request_seconds", "Time to answer a request", SECONDS, "route"
        )
        self.replayed = self._counter(
            "spct_answers_repeated", "Requests answered by an earlier or running one of the same id"
        )
        self.group_seconds = self._histogram("spct_group_seconds", "Time to judge a group", SECONDS)
        self.groups = self._counter(
            "spct_groups", "Groups: judged, or lost without a valid judgement", "outcome"
        )
        for outcome in OUTCOMES:
            self.groups.labels(outcome)
        self.votes = self._counter("spct_votes", "Votes taken")
        self.judgements = self._counter("spct_judgements", "Judgements")
        self.failures = self._counter("spct_judgements_failed", "Failed ones by kind", "failure")
        for failure in FAILURES:
            self.failures.labels(failure)
        self.from_store = self._counter(
            "spct_judgements_from_store", "Judgements whose prompt the store had all answers for"
        )
        self.tokens = self._counter("spct_judge_tokens", "Tokens the judge wrote")
        self.spread = self._histogram(
            "spct_spread", "Standard deviation of a completion's scores over its votes", SPREADS
        )
        self._endpoints = [
            Gauge(name, meaning, ["section", "url"], registry=self._registry)
            for name, meaning in ENDPOINT_GAUGES.items()
        ]

    def _gauge(self, name: str, meaning: str, read: Callable[[], float]) -> None:
        Gauge(name, meaning, registry=self._registry).set_function(read)

    def _counter(self, name: str, meaning: str, *labels: str) -> Counter:
        return Counter(name, meaning, labels, registry=self._registry)

    def _histogram(
        self, name: str, meaning: str, buckets: Sequence[float], *labels: str
    ) -> Histogram:
        return Histogram(name, meaning, labels, buckets=buckets, registry=self._registry)

    def count_group(self, votes: GroupVotes) -> None:
        """Count one judged group."""
        self.group_seconds.observe(votes.seconds)
        self.groups.labels("judged" if votes.counted else "lost").inc()
        self.votes.inc(votes.k_used)
        self.judgements.inc(len(votes.judgements))
        for failure, count in votes.failures.items():
            self.failures.labels(failure).inc(count)
        came = [j for j in votes.judgements if j.text]
        self.from_store.inc(sum(j.seconds == 0 for j in came))
        self.tokens.inc(sum(j.tokens for j in came if j.seconds))
        for spread in votes.tally.spread:
            if spread is not None:
                self.spread.observe(spread)

    def page(self, endpoints: Sequence[EndpointState]) -> bytes:
        """Write the page, with the judge's servers as they are now."""
        for gauge in self._endpoints:
            gauge.clear()
        for one in endpoints:
            values = (one.state == "up", one.requests, one.tokens, one.failures)
            for gauge, value in zip(self._endpoints, values, strict=True):
                gauge.labels(one.section, one.url).set(value)
        return generate_latest(self._registry)
