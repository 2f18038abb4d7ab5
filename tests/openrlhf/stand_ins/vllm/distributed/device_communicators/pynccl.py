"""The broadcast of one tensor, on gloo instead of NCCL."""

from torch.distributed import BroadcastOptions


class PyNcclCommunicator:
    """Sends from one rank of a group to all others."""

    def __init__(self, group, device):
        self._group = group

    def broadcast(self, tensor, src, stream=None):
        """Overwrite `tensor` with rank `src`'s; wait until it is there."""
        options = BroadcastOptions()
        options.rootRank = src
        self._group.broadcast([tensor], options).wait()
