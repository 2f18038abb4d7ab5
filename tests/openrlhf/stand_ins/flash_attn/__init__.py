"""Stands in for flash-attn, which OpenRLHF 0.11.2 imports even where it is not used.

Only the names of models/ring_attn_utils.py:3-4 are here, and all of them raise. Training processes
import this module and the rollout does not, so DeepSpeed is made fit for a CPU here.
"""

import on_cpu

on_cpu.use_torch_adam()


def missing(*_, **__):
    """Say what to leave out of the flags."""
    raise RuntimeError(
        "flash-attn is a stand-in here: leave out --ds.packing_samples and pass "
        "--ds.attn_implementation eager"
    )
