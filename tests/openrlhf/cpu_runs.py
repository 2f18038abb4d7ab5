"""Runs OpenRLHF's own command lines on a CPU, each in a process of its own.

    run = run_cli("train_sft", folder, {"--model.model_name_or_path": model, ...})
    assert run.exit_code == 0, run.log
    run.scalars["train/gpt_loss"]  # {step: value}, as OpenRLHF wrote it for TensorBoard

A run takes well under a minute on two free cores; six minutes were seen at a load of twenty.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from socket import socket

HERE = Path(__file__).parent
STAND_INS = HERE / "stand_ins"
TIMEOUT_S = 900

COMMON = {
    "--ds.zero_stage": 2,
    "--ds.attn_implementation": "eager",
    "--train.batch_size": 8,
    "--train.micro_batch_size": 4,
    "--data.max_len": 128,
}


@dataclass(frozen=True)
class Run:
    """What a finished command line left behind."""

    exit_code: int
    log: str
    folder: Path

    @property
    def model(self):
        """Give the folder of the final model in Hugging Face's format."""
        return self.folder / "model"

    @cached_property
    def scalars(self):
        """Read OpenRLHF's TensorBoard files: {name: {step: value}}."""
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        [file] = (self.folder / "tensorboard").rglob("events.out.tfevents.*")
        events = EventAccumulator(str(file))
        events.Reload()
        return {
            name: {event.step: event.value for event in events.Scalars(name)}
            for name in events.Tags()["scalars"]
        }


def run_cli(cli, folder, flags, **variables):
    """Run `openrlhf.cli.<cli>` to its end.

    A flag that is True stands alone; one that is a tuple has several values.
    """
    places = {
        "--ckpt.output_dir": folder / "model",
        "--ckpt.path": folder / "checkpoints",
        "--logger.tensorboard_dir": folder / "tensorboard",
    }
    line = ["-m", "launch_on_cpu", cli]
    for flag, value in {**COMMON, **places, **flags}.items():
        values = value if isinstance(value, tuple) else (value,)
        line += [flag] if value is True else [flag, *map(str, values)]
    return run_python(line, folder, **variables)


def run_python(line, folder, stdin="", **variables):
    """Run Python with the stand-ins; one that takes too long is ended, with the Ray it started."""
    (folder / "stdin").write_text(stdin)
    # Sockets of Ray lie in this folder, and their paths must be short.
    ray_folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")
    with (folder / "log.txt").open("w") as log, (folder / "stdin").open() as given:
        process = subprocess.Popen(
            [sys.executable, *line],
            cwd=folder,
            env={**_environment(folder, ray_folder), **variables},
            stdin=given,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            with suppress(subprocess.TimeoutExpired):
                process.wait(TIMEOUT_S)
        finally:
            # After a run that ended by itself, too: a daemon of Ray may be late, and still write.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            shutil.rmtree(ray_folder, ignore_errors=True)
    text = (folder / "log.txt").read_text(errors="replace")
    return Run(process.returncode, text, folder)


def _environment(folder, ray_folder):
    with socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, [str(STAND_INS), os.environ.get("PYTHONPATH")])),
        "DS_ACCELERATOR": "cpu",
        # What a launcher of several processes would set.
        "RANK": "0",
        "LOCAL_RANK": "0",
        "WORLD_SIZE": "1",
        "LOCAL_WORLD_SIZE": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_DATASETS_CACHE": str(folder / "datasets"),
        "HF_HUB_OFFLINE": "1",
        "RAY_TMPDIR": ray_folder,
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_DEDUP_LOGS": "0",
        "SPCT_LOAD_PLUGINS": "",
    }
