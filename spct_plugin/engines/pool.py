"""Which of several servers is asked next: the bookkeeping of load, failures and sleep. No I/O.

    pool = Pool("engine")
    pool.add("http://a:8000/v1")
    use = pool.take(tokens=900, group=b"digest")    # the least loaded one, or the group's own
    pool.answered(use)                              # or pool.failed(use, why), pool.cancelled(use)

Nothing here refuses a request because servers fail: one that fails is asked when no other is left,
and it is the caller who waits between tries. Shared by all event loops of a process.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import threading
import time
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Literal

log = logging.getLogger(__name__)

# Failures in a row, of requests or of health checks, after which a server is left alone (at once
# when nobody listens); chosen by us: one is an accident, and each costs one more try elsewhere.
OPEN_AFTER = 3
# Seconds for which it is left alone before one request tries it again; chosen by us: that request
# is one of hundreds, and it is tried elsewhere at once when it fails.
OPEN_S = 10.0
# Requests of the same size by which a group's own server may be ahead of the least loaded one.
# Chosen by us: the requests of one group of eight stay together, where its prompt is cached.
HOME_LEAD = 8
# What is left of a server's slowest time with every further answer. 0.99: chosen by us, as one that
# took a hundred times as long as the others is forgotten after 460, about a training step.
FADES = 0.99
# Groups whose server is remembered. Chosen by us: more than one training step has.
HOMES = 4096

State = Literal["up", "open", "half_open", "asleep"]
"""up: asked. open: left alone after failures. half_open: one request may try it again. asleep: not
asked until it wakes."""


@dataclass(frozen=True, slots=True)
class EndpointState:
    """One server, for metrics.

    Attributes:
        section: Of the configuration: "engine" or "meta_rm".
        url: Its address.
        state: What is done with it.
        requests: In flight.
        tokens: Of prompts and wanted answers in flight, estimated.
        answers: Requests it answered so far.
        failures: Requests it failed so far, late answers included.
    """

    section: str
    url: str
    state: State
    requests: int
    tokens: int
    answers: int
    failures: int


@dataclass(eq=False, slots=True)
class Use:
    """One request's try of one server.

    Attributes:
        limit: The try's time limit, once it runs; moved up when the server is given up.
        lost: Why the server was given up.
    """

    endpoint: Endpoint
    tokens: int
    started: float
    limit: asyncio.Timeout | None = None
    lost: str = ""
    _loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)

    def give_up(self, why: str) -> None:
        """End the try, from any thread; it ends with a `TimeoutError`."""
        self.lost = why
        # A loop that is closed has no tries.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._end_now)

    def _end_now(self) -> None:
        if self in self.endpoint.uses and self.limit is not None and not self.limit.expired():
            self.limit.reschedule(self._loop.time())


@dataclass(eq=False, slots=True)
class Endpoint:
    """One server's books; only `Pool` writes into them.

    Attributes:
        uses: Requests in flight.
        tokens: Of `uses`.
        in_a_row: Requests that failed since the last answer.
        missed: Health checks that failed since the last one that did not.
        slow_s: Seconds that its slowest answer took, of late; 0 = it has not answered yet.
        opened: Since when it is left alone; None = it is not.
        trial: The one request that tries it again.
        asleep: It sleeps, or is about to: nothing new is sent.
        told: When it was last told to sleep or wake; what it said of itself before is old.
    """

    url: str
    uses: set[Use] = field(default_factory=set[Use])
    tokens: int = 0
    answers: int = 0
    failures: int = 0
    in_a_row: int = 0
    missed: int = 0
    answered_at: float = -math.inf
    slow_s: float = 0.0
    opened: float | None = None
    trial: Use | None = None
    asleep: bool = False
    told: float = -math.inf

    @property
    def state(self) -> State:
        """What is done with it."""
        if self.asleep:
            return "asleep"
        if self.opened is None:
            return "up"
        rested = time.monotonic() - self.opened >= OPEN_S and not self.missed
        return "half_open" if rested else "open"

    @property
    def ready(self) -> bool:
        """Whether it is asked as a matter of course."""
        state = self.state
        return state == "up" or (state == "half_open" and self.trial is None)


class Pool:
    """Servers that answer alike.

    Args:
        section: Of the configuration, for the log: "engine".
    """

    def __init__(self, section: str) -> None:
        self._section = section
        self._lock = threading.Lock()
        self._homes: dict[bytes, Endpoint] = {}
        # Replaced, never changed, so that everybody may iterate.
        self.endpoints: tuple[Endpoint, ...] = ()
        self._removed: tuple[Endpoint, ...] = ()

    def add(self, url: str) -> None:
        """Ask this server too from now on; nothing happens when it is asked already."""
        with self._lock:
            if not self._named(url):
                self.endpoints += (Endpoint(url),)

    def remove(self, url: str) -> None:
        """Send nothing new to this server; what it is at, it may finish."""
        with self._lock:
            self._removed = (*self.watched[len(self.endpoints) :], *self._named(url))
            self.endpoints = tuple(e for e in self.endpoints if e.url != url)

    @property
    def watched(self) -> tuple[Endpoint, ...]:
        """Servers whose health matters: also removed ones, until they have answered."""
        return (*self.endpoints, *(e for e in self._removed if e.uses))

    def states(self) -> list[EndpointState]:
        """Give every server's load and failures, for metrics."""
        return [
            EndpointState(
                self._section, e.url, e.state, len(e.uses), e.tokens, e.answers, e.failures
            )
            for e in self.endpoints
        ]

    def take(self, tokens: int, group: bytes, avoid: Collection[Endpoint] = ()) -> Use | None:
        """Choose a server for a request and count the request as its.

        Args:
            tokens: Of prompt and wanted answers, estimated.
            group: Requests of the same group share a beginning; b"" = no group.
            avoid: Servers that failed this request already.

        Returns:
            None when all the others are asleep, or there are none.
        """
        with self._lock:
            left = [e for e in self.endpoints if not e.asleep and e not in avoid]
            if not left:
                return None
            endpoint = self._best(left, tokens, group)
            use = Use(endpoint, tokens, time.monotonic())
            endpoint.uses.add(use)
            endpoint.tokens += tokens
            if endpoint.opened is not None and endpoint.trial is None:
                endpoint.trial = use
            return use

    def answered(self, use: Use) -> None:
        """Count an answer, also one that refuses the request for the request's own faults."""
        endpoint = use.endpoint
        with self._lock:
            self._drop(use)
            endpoint.answers += 1
            endpoint.answered_at = now = time.monotonic()
            endpoint.slow_s = max(now - use.started, FADES * endpoint.slow_s)
            endpoint.in_a_row = endpoint.missed = 0
            was_open, endpoint.opened = endpoint.opened is not None, None
        if was_open:
            log.warning("%s: %s answers again", self._section, endpoint.url)

    def failed(self, use: Use, why: str, *, gone: bool = False) -> None:
        """Count a failure that is the server's, if it is awake.

        Args:
            use: What failed.
            why: For the log.
            gone: Nobody listens there, which needs no second proof.
        """
        endpoint = use.endpoint
        with self._lock:
            was_trial = endpoint.trial is use
            self._drop(use)
            if endpoint.asleep:
                return
            endpoint.failures += 1
            endpoint.in_a_row += 1
        if gone or was_trial or endpoint.in_a_row >= OPEN_AFTER:
            self._open(endpoint, why, again=was_trial)

    def cancelled(self, use: Use) -> None:
        """Count a request nobody waits for any longer.

        The server failed it if it has answered nobody since, for longer than answers take: a server
        that hangs must not lose a share of every step to the deadline, and a slow one must not be
        left alone because somebody is in a hurry.
        """
        endpoint = use.endpoint
        waited_s = time.monotonic() - use.started
        if endpoint.answered_at < use.started and waited_s > self._usual_s(endpoint):
            self.failed(use, "no answer before the deadline")
            return
        with self._lock:
            self._drop(use)

    def _usual_s(self, endpoint: Endpoint) -> float:
        """Say how long an answer may take: as long as this server's, else the others', did."""
        return endpoint.slow_s or max((e.slow_s for e in self.endpoints), default=0.0) or math.inf

    def healthy(self, endpoint: Endpoint, since: float, asleep: bool | None) -> None:
        """Note a health check that went well.

        Args:
            endpoint: The server.
            since: When the check began.
            asleep: Whether the server says that it sleeps; None = it does not say.
        """
        endpoint.missed = 0
        if asleep is None or endpoint.told > since:
            return
        self._lay(endpoint, asleep=asleep)
        if asleep:
            # Nothing sent to a sleeping vLLM is ever answered.
            self._give_up(endpoint, "sleeps")

    def missed(self, endpoint: Endpoint, since: float, why: str) -> None:
        """Note a health check that failed; after the third, requests in flight go elsewhere."""
        if endpoint.answered_at > since:
            return
        endpoint.missed += 1
        if endpoint.missed >= OPEN_AFTER:
            self._open(endpoint, why)
            # Where there is no elsewhere, an answer may still come.
            if any(other.ready for other in self.endpoints if other is not endpoint):
                self._give_up(endpoint, why)

    def rest(self, endpoint: Endpoint) -> None:
        """Send nothing new to a server that is to sleep, whatever it says of itself."""
        endpoint.asleep, endpoint.told = True, math.inf

    def told(self, endpoint: Endpoint, *, asleep: bool) -> None:
        """Note that a server was sent to sleep, or woken; from now on it is asked which it is."""
        self._lay(endpoint, asleep=asleep)
        endpoint.told = time.monotonic()

    def _lay(self, endpoint: Endpoint, *, asleep: bool) -> None:
        """Send a server to bed, or let it begin anew: what it broke off before was no fault."""
        if endpoint.asleep and not asleep:
            endpoint.opened, endpoint.in_a_row, endpoint.missed = None, 0, 0
        endpoint.asleep = asleep

    def _named(self, url: str) -> tuple[Endpoint, ...]:
        return tuple(e for e in self.endpoints if e.url == url)

    def _best(self, left: list[Endpoint], tokens: int, group: bytes) -> Endpoint:
        ready = [e for e in left if e.ready]
        if ready:
            best = min(ready, key=lambda e: e.tokens)
        else:
            best = min(left, key=lambda e: (e.missed > 0, e.tokens))
        home = self._homes.pop(group, None)
        if home in ready and home.tokens - best.tokens < HOME_LEAD * tokens:
            best = home
        if group:
            self._homes[group] = best
            if len(self._homes) > HOMES:
                del self._homes[next(iter(self._homes))]
        return best

    def _drop(self, use: Use) -> None:
        endpoint = use.endpoint
        endpoint.uses.discard(use)
        endpoint.tokens -= use.tokens
        if endpoint.trial is use:
            endpoint.trial = None

    def _open(self, endpoint: Endpoint, why: str, *, again: bool = False) -> None:
        if endpoint.opened is None:
            log.warning("%s: %s is left alone for a while: %s", self._section, endpoint.url, why)
        if endpoint.opened is None or again:
            endpoint.opened = time.monotonic()

    def _give_up(self, endpoint: Endpoint, why: str) -> None:
        with self._lock:
            uses = tuple(endpoint.uses)
        for use in uses:
            use.give_up(why)
