#!/usr/bin/env bash
# Rule-based RL by GRPO on 2 nodes: sbatch --nodes=2 ../launch/ray.sbatch ./rl.sh [--flag value]
# Not with OpenRLHF 0.11.2 (read, not run): it sends vLLM the experts as transformers 5 packs them, and
# vLLM's deepseek_v2 knows no such names. For a release that unpacks them; until then the recipe for TRL.
set -euo pipefail

flags=(
  --algo.kl.init_coef 0.002                # paper App. C, for 16B
  --actor.aux_loss_coef 0                  # as in rft.sh
  --ds.attn_implementation sdpa            # as in rft.sh
  --data.max_len 8192                      # 6144 of prompt + 2048
  --train.micro_batch_size 2               # 2 x 16 x 16 GPUs = 512 (paper App. C)
  --rollout.micro_batch_size 2             # for the log probabilities, of the reference too

  --actor.num_nodes 2                      # x 8 GPUs of 80 GB
  --actor.num_gpus_per_node 8
  --ref.num_nodes 2                        # the same GPUs
  --ref.num_gpus_per_node 8
  --vllm.num_engines 16                    # 16 x 1 GPU, the same ones
  --vllm.tensor_parallel_size 1
  --vllm.gpu_memory_utilization 0.6        # 48 of 80 GB: weights 31, cache 17
)
exec ../stages/rl.sh "${ALGORITHM:-grpo}" "${flags[@]}" "$@"
