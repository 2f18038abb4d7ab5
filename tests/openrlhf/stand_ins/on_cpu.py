"""What OpenRLHF 0.11.2 hard-wires to CUDA, made to run on a CPU.

Both stand-ins import this module, so that every process of a run has it: each Ray worker imports
one of them before it asks for a device. Paths are those of the `openrlhf` package.
"""

import torch


class _Cpu(str):
    """The device "cpu", but "0" inside `f"cuda:{...}"` (trainer/ppo_utils/replay_buffer.py:40)."""

    def __format__(self, spec):
        return "0"


# A function each: torch._dynamo refuses one object under several names.
torch.cuda.current_device = lambda: _Cpu("cpu")  # where tensors go: trainer/ray/ppo_actor.py:171
torch.cuda.set_device = lambda device: None  # utils/deepspeed/deepspeed.py:97, and the mesh of :105
torch.cuda.synchronize = lambda: None  # after every barrier: utils/distributed_util.py:10
torch.cuda.current_stream = lambda: None  # for the broadcast: trainer/ray/ppo_actor.py:436


def use_torch_adam():
    """Keep DeepSpeed from compiling its fused Adam: utils/deepspeed/deepspeed.py asks for it."""
    from deepspeed import DeepSpeedEngine

    of_config = DeepSpeedEngine.optimizer_params
    DeepSpeedEngine.optimizer_params = lambda engine: {
        **(of_config(engine) or {}),
        "torch_adam": True,
    }
