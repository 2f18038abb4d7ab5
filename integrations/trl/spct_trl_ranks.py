"""Groups that straddle ranks: every rank learns all rows, judges its share, and shares the votes.

Both gathers run on a gloo group of their own, made by the first call, so that they can neither
mix with the trainer's collectives nor with those of a second reward function.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, TypeVar

from spct_plugin import RewardError

T = TypeVar("T")


def world_size() -> int:
    """Count the ranks; 1 outside a distributed run."""
    import torch.distributed as dist

    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


class Ranks:
    """All ranks of a run. Making one is a collective call.

    Args:
        timeout_s: Longest wait for the others.

    Attributes:
        rank: Which one this is.
    """

    def __init__(self, timeout_s: float) -> None:
        import torch.distributed as dist

        self.rank = dist.get_rank()
        self._group = dist.new_group(backend="gloo", timeout=timedelta(seconds=timeout_s))

    def gather(self, value: T) -> list[T]:
        """Give every rank's value to every rank, in rank order; blocks.

        Raises:
            RewardError: A rank did not come within the timeout, or is gone.
        """
        import torch.distributed as dist

        values: list[Any] = [None] * dist.get_world_size()
        try:
            dist.all_gather_object(values, value, group=self._group)
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:200]
            raise RewardError(
                f"rank {self.rank} waited in vain for the judging of another rank; see that "
                f"rank's log, or raise trl.gather_timeout_s ({reason})"
            ) from error
        return values

    async def gather_later(self, value: T) -> list[T]:
        """Do what `gather` does in a worker thread, so that the loop goes on."""
        return await asyncio.to_thread(self.gather, value)


def first_error(errors: Sequence[str | None]) -> str | None:
    """Name the first rank that failed, and why; the same on every rank."""
    for rank, error in enumerate(errors):
        if error is not None:
            return f"rank {rank}: {error}"
    return None
