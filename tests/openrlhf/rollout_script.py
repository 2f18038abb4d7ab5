"""Has OpenRLHF's own rollout actors generate: a specification on standard input, samples.json out.

Runs in a process of its own, with whatever vLLM its PYTHONPATH finds, and without a GPU.
"""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import ray
from openrlhf.datasets import PromptDataset
from openrlhf.trainer.ppo_utils.samples_generator import SamplesGenerator
from openrlhf.trainer.ray.vllm_engine import RolloutRayActor
from torch.utils.data import DataLoader
from transformers import AutoTokenizer

MAX_LEN = 128


def strategy_for(spec):
    """Give what dataset and generator read of the command line."""
    args = SimpleNamespace(
        rollout=SimpleNamespace(
            batch_size=len(spec["prompts"]),
            n_samples_per_prompt=spec["n"],
            vllm_generate_batch_size=None,
        ),
        vllm=SimpleNamespace(enable_sleep=False),
        algo=SimpleNamespace(
            dynamic_filtering_enable=False,
            advantage=SimpleNamespace(is_correction_level="token"),
        ),
        data=SimpleNamespace(input_key="prompt", apply_chat_template=True),
    )
    return SimpleNamespace(args=args, is_rank_0=lambda: True)


def start_engine(spec, seed):
    """Start an actor as create_vllm_engines does (trainer/ray/vllm_engine.py:264), but on a CPU."""
    return RolloutRayActor.options(num_cpus=0, num_gpus=0).remote(
        model=spec["model"],
        agent_func_path=spec["agent"],
        remote_rm_url=["agent"],
        worker_extension_cls="openrlhf.trainer.ray.vllm_worker_wrap.WorkerWrap",
        seed=seed,
        num_gpus=0,
        dtype="bfloat16",
        max_model_len=MAX_LEN,
        enforce_eager=True,
        tensor_parallel_size=1,
        distributed_executor_backend="uni",
        logprobs_mode="processed_logprobs",
        max_logprobs=1,
    )


def as_json(sample):
    """Show one sample: its completion is what the action mask covers."""
    [ids], [mask] = sample.sequences, sample.action_mask.bool()
    return {
        "prompt": sample.prompts[0],
        "prompt_ids": ids[: len(ids) - int(mask.sum())].tolist(),
        "ids": ids[1:][mask].tolist(),
        "logprobs": sample.rollout_log_probs[0][mask].tolist(),
        "reward": sample.rewards.item(),
        "score": sample.scores.item(),
        "truncated": sample.truncated.item(),
        "info": {name: value.item() for name, value in sample.info.items()},
    }


def main(spec):
    ray.init(address="local", num_cpus=2, include_dashboard=False, object_store_memory=2**28)
    tokenizer = AutoTokenizer.from_pretrained(spec["model"])
    strategy = strategy_for(spec)
    dataset = PromptDataset([{"prompt": p} for p in spec["prompts"]], tokenizer, strategy)
    loader = DataLoader(dataset, batch_size=1, collate_fn=dataset.collate_fn)
    engines = [start_engine(spec, seed) for seed in range(spec["engines"])]
    generator = SamplesGenerator(strategy, loader, loader, tokenizer, engines)
    limits = {"max_new_tokens": spec["max_new_tokens"], "max_len": MAX_LEN}
    trained, *_ = generator.generate_samples(temperature=1.0, **limits)
    evaluated = generator.generate_eval_samples(
        temperature=0.0, n_samples_per_prompt=spec["eval_n"], **limits
    )
    found = {"train": trained, "eval": evaluated}
    shown = {name: [as_json(s) for s in samples] for name, samples in found.items()}
    Path("samples.json").write_text(json.dumps(shown))


if __name__ == "__main__":
    main(json.load(sys.stdin))
