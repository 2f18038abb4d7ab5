"""What the runs of OpenRLHF's own trainers share: flags, rows of data, and whether a model moved.

rows = write_rows(folder / "rows.jsonl", chats(range(2 * GROUPS_PER_STEP)))
flags = PPO_RAY | GRPO | AGENT | {"--data.prompt_dataset": rows}
run = run_cli("train_ppo_ray", folder, flags, SPCT_CONFIG=...)
assert moved(MODELS / "policy", run.model) > 0.5
"""

import importlib.util
import json
import statistics

from safetensors.torch import load_file

from spct_plugin.tiny import MODELS

N = 4
GROUPS_PER_STEP = 2


def adapter(name):
    """Give the file of an adapter, as `spct path` does."""
    return importlib.util.find_spec(name).origin


PPO_RAY = {
    "--actor.model_name_or_path": MODELS / "policy",
    "--data.input_key": "prompt",
    "--data.apply_chat_template": True,
    "--rollout.batch_size": GROUPS_PER_STEP,
    "--rollout.n_samples_per_prompt": N,
    "--rollout.micro_batch_size": N,
    "--rollout.max_new_tokens": 16,
    "--train.batch_size": GROUPS_PER_STEP * N,
    "--train.num_episodes": 1,
    "--actor.num_gpus_per_node": 1,
    "--ref.num_gpus_per_node": 1,
    "--critic.num_gpus_per_node": 1,
    "--vllm.num_engines": 1,
    # Anything but nccl: engine and trainer do not share a GPU's memory here.
    "--vllm.sync_backend": "gloo",
    "--actor.adam.lr": 1e-3,
    "--actor.lr_scheduler": "constant",
    "--critic.adam.lr": 1e-3,
    "--critic.lr_scheduler": "constant",
}
GRPO = {
    "--algo.advantage.estimator": "group_norm",
    "--algo.kl.use_loss": True,
    "--algo.kl.estimator": "k3",
    "--algo.kl.init_coef": 0.01,
}
ASYNC = {"--train.async_enable": True}
AGENT = {"--train.agent_func_path": adapter("spct_openrlhf_agent")}
REWARD_FILE = {"--reward.remote_url": adapter("spct_openrlhf_reward")}


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def chats(numbers):
    return [{"prompt": [{"role": "user", "content": f"write note {i}"}]} for i in numbers]


def moved(before, after):
    """Count the tensors that training changed, as share of all; both in the trainer's bfloat16."""
    old, new = load_file(before / "model.safetensors"), load_file(after / "model.safetensors")
    return statistics.mean(not old[name].bfloat16().equal(new[name]) for name in old)
