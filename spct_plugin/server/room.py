"""How many groups are in work, of whom, and whether there is room for more.

What finds no room is refused at once, with a time to come back: no queue grows without end.
"""

from __future__ import annotations

import math
from collections import Counter

from spct_plugin.errors import SPCTError, TaskError
from spct_plugin.sections import ServeConfig

# Longest Retry-After, and the one before anything was judged, in seconds; chosen by us.
LONGEST_RETRY_S, FIRST_RETRY_S = 60, 1


class BusyError(SPCTError):
    """No room for these groups now.

    Attributes:
        retry_after_s: When to ask again.
    """

    def __init__(self, message: str = "", retry_after_s: int = FIRST_RETRY_S) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Room:
    """Counts accepted groups by run.

    Args:
        serve: How many there may be.
    """

    def __init__(self, serve: ServeConfig) -> None:
        self._most = serve.at_once + serve.waiting
        self._per_run = serve.per_run
        self._accepted: Counter[str] = Counter()
        self._mean_s: float | None = None

    @property
    def groups(self) -> int:
        """Accepted groups that are not finished."""
        return self._accepted.total()

    def take(self, run: str, groups: int) -> None:
        """Accept groups.

        Raises:
            TaskError: There will never be room for so many at once.
            BusyError: There is none now.
        """
        most = min(self._most, self._per_run)
        if groups > most:
            raise TaskError(
                f"expected at most {most} groups in a request (the smaller of serve.per_run and "
                f"serve.at_once + serve.waiting), found {groups}; send fewer at a time"
            )
        if self.groups + groups > self._most:
            found = f"{self.groups} groups are in work, room is for {self._most}"
            raise BusyError(f"{found}; serve.waiting", self._retry_after_s())
        if self._accepted[run] + groups > self._per_run:
            found = f"run {run!r} has {self._accepted[run]} groups in work of {self._per_run}"
            raise BusyError(f"{found}; serve.per_run", self._retry_after_s())
        self._accepted[run] += groups

    def give_back(self, run: str, groups: int) -> None:
        """Note that accepted groups are finished."""
        self._accepted[run] -= groups
        if not self._accepted[run]:
            del self._accepted[run]

    def learn(self, seconds: float) -> None:
        """Note how long a group took."""
        before = seconds if self._mean_s is None else self._mean_s
        self._mean_s = 0.9 * before + 0.1 * seconds

    def _retry_after_s(self) -> int:
        """Guess when there is room: when about one group's time has passed."""
        if self._mean_s is None:
            return FIRST_RETRY_S
        return min(LONGEST_RETRY_S, max(FIRST_RETRY_S, math.ceil(self._mean_s)))
