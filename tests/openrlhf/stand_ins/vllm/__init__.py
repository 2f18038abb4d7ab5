"""Stands in for vLLM: the names that OpenRLHF 0.11.2 uses, generating with transformers on a CPU.

Sampling, stopping, log-probabilities, pausing and the broadcast of new weights are real; speed,
memory and sharding are not imitated.
"""

import on_cpu  # noqa: F401 - a worker of Ray may import vLLM first

from vllm.engine import AsyncEngineArgs, AsyncLLMEngine, SamplingParams

__all__ = ["AsyncEngineArgs", "AsyncLLMEngine", "SamplingParams"]
__version__ = "0.29.0"  # OpenRLHF 0.11.2 pins it and asks trainer/ray/vllm_engine.py:91
