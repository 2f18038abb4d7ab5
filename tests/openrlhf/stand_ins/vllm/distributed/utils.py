"""A process group beside torch's default one, on gloo."""

from datetime import timedelta

from torch.distributed import ProcessGroupGloo, TCPStore

TIMEOUT = timedelta(seconds=60)


class StatelessProcessGroup:
    """Joins the trainer's rank 0 and the engines (OpenRLHF: utils/distributed_util.py:24)."""

    @staticmethod
    def create(host, port, rank, world_size):
        """Wait for all ranks, then give the group."""
        store = TCPStore(host, port, world_size, is_master=rank == 0, timeout=TIMEOUT)
        return ProcessGroupGloo(store, rank, world_size, TIMEOUT)
