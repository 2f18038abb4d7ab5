"""What /metrics shows, in Prometheus' form. A registry of its own for every server."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from spct_plugin.engines.pool import EndpointState
from spct_plugin.failures import FAILURES
from spct_plugin.reward_model import GroupVotes

# Chosen by us: from a tiny judge's milliseconds to a reasoning judge's ten minutes.
SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 60, 120, 300, 600)
# Of a completion's scores over its votes, in points; half of the scale 1..10 is the most.
SPREADS = (0.25, 0.5, 0.75, 1, 1.5, 2, 3, 4.5)


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
        self.registry = registry = CollectorRegistry()

        def gauge(name: str, meaning: str, read: Callable[[], float]) -> None:
            Gauge(name, meaning, registry=registry).set_function(read)

        gauge("spct_groups_waiting", "Accepted groups that are not judged yet: the queue", waiting)
        gauge("spct_groups_judging", "Groups that are being judged", judging)
        gauge("spct_ready", "Whether a real judgement succeeded, and not only long ago", ready)
        gauge("spct_breaker_tripped", "Whether reward.breaker would stop a run now", tripped)
        self.requests = Counter(
            "spct_requests", "Requests by route and status", ["route", "status"], registry=registry
        )
        self.request_seconds = Histogram(
            "spct_request_seconds",
            "Time to answer a request",
            ["route"],
            buckets=SECONDS,
            registry=registry,
        )
        self.group_seconds = Histogram(
            "spct_group_seconds", "Time to judge a group", buckets=SECONDS, registry=registry
        )
        self.groups = Counter(
            "spct_groups",
            "Groups by outcome: judged, or lost without a valid judgement",
            ["outcome"],
            registry=registry,
        )
        self.votes = Counter("spct_votes", "Votes taken", registry=registry)
        self.judgements = Counter("spct_judgements", "Judgements", registry=registry)
        self.failures = Counter(
            "spct_judgements_failed", "Failed judgements by kind", ["failure"], registry=registry
        )
        for failure in FAILURES:
            self.failures.labels(failure)
        self.from_store = Counter(
            "spct_judgements_from_store",
            "Judgements whose prompt the store had all answers for",
            registry=registry,
        )
        self.tokens = Counter("spct_judge_tokens", "Tokens the judge wrote", registry=registry)
        self.spread = Histogram(
            "spct_spread",
            "Standard deviation of a completion's scores over its votes, in points",
            buckets=SPREADS,
            registry=registry,
        )
        self.replayed = Counter(
            "spct_answers_repeated",
            "Requests answered from an earlier or a running one of the same id",
            registry=registry,
        )
        names = {
            "spct_endpoint_up": "Whether a judge's server is asked; 0 = open, half open or asleep",
            "spct_endpoint_requests": "Requests in flight at a judge's server",
            "spct_endpoint_tokens": "Tokens in flight at a judge's server, estimated",
            "spct_endpoint_failures": "Requests that a judge's server failed so far",
        }
        self._endpoints = [
            Gauge(name, meaning, ["url"], registry=registry) for name, meaning in names.items()
        ]

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
                gauge.labels(one.url).set(value)
        return generate_latest(self.registry)
