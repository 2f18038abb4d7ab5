"""The folder of `pynccl`."""
