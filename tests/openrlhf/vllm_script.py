"""Rolls out three prompts in OpenRLHF's own actor on a real vLLM for CPUs; prints what came back.

    python vllm_script.py MODEL AGENT_FILE

Runs in a process of its own, which owns its Ray.
"""

import json
import sys

import ray
from openrlhf.trainer.ray.vllm_engine import RolloutRayActor
from transformers import AutoTokenizer
from vllm import SamplingParams

SAMPLES = 4


def rollout(model, agent_file):
    """Start an engine as create_vllm_engines does (trainer/ray/vllm_engine.py:209-327)."""
    engine = RolloutRayActor.options(num_cpus=1, num_gpus=0).remote(
        model=model,
        enforce_eager=True,
        worker_extension_cls="openrlhf.trainer.ray.vllm_worker_wrap.WorkerWrap",
        tensor_parallel_size=1,
        seed=1,
        distributed_executor_backend="uni",
        max_model_len=128,
        enable_prefix_caching=False,
        dtype="bfloat16",
        full_determinism=False,
        num_gpus=0,
        agent_func_path=agent_file,
        remote_rm_url=["agent"],
    )
    tokenizer = AutoTokenizer.from_pretrained(model)
    sampling = SamplingParams(temperature=1.0, max_tokens=16, logprobs=1, skip_special_tokens=False)
    rendered = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": f"write a note {number}"}],
            tokenize=False,
            add_generation_prompt=True,
        )
        for number in range(3)
    ]
    return ray.get(
        [
            engine.generate_responses.remote(
                prompt=prompt,
                label="",
                sampling_params=sampling,
                max_length=128,
                hf_tokenizer=tokenizer,
                num_samples=SAMPLES,
            )
            for prompt in rendered
        ]
    )


if __name__ == "__main__":
    ray.init(address="local", num_cpus=2, include_dashboard=False, object_store_memory=2**28)
    kept = ("reward", "scores", "extra_logs", "rollout_log_probs", "action_ranges")
    groups = [[{key: o[key] for key in kept} for o in group] for group in rollout(*sys.argv[1:])]
    sys.stdout.write(f"\nGROUPS {json.dumps(groups)}\n")
