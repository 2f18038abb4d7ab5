"""Run one of OpenRLHF's command lines on a CPU: `python -m launch_on_cpu train_sft --flag ...`."""

import runpy
import sys


def start_ray():
    """Start a Ray of this process alone that claims GPUs; OpenRLHF asks for one per model."""
    import ray

    ray.init(
        address="local",
        num_cpus=8,
        num_gpus=4,
        include_dashboard=False,
        object_store_memory=2**28,
    )


if __name__ == "__main__":
    sys.argv = sys.argv[1:]
    if sys.argv[0] == "train_ppo_ray":
        start_ray()
    runpy.run_module(f"openrlhf.cli.{sys.argv[0]}", run_name="__main__")
