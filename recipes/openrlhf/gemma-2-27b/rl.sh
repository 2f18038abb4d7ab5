#!/usr/bin/env bash
# Rule-based RL by GRPO on 4 nodes: sbatch --nodes=4 ../launch/ray.sbatch ./rl.sh [--flag value]
set -euo pipefail

flags=(
  --algo.kl.init_coef 0.08                 # paper App. C, for 27B; less collapses on Chat
  --ds.attn_implementation flash_attention_2   # as in rft.sh
  --data.max_len 8192                      # 6144 of prompt + 2048
  --train.micro_batch_size 1               # 1 x 16 x 32 GPUs = 512 (paper App. C)
  --rollout.micro_batch_size 1             # for the log probabilities, of the reference too

  --actor.num_nodes 4                      # x 8 GPUs of 80 GB
  --actor.num_gpus_per_node 8
  --ref.num_nodes 4                        # the same GPUs
  --ref.num_gpus_per_node 8
  --vllm.num_engines 8                     # 8 x 4 GPUs, the same ones
  --vllm.tensor_parallel_size 4            # 14 of the 54 GB of weights on a GPU
  --vllm.gpu_memory_utilization 0.6        # 48 of 80 GB: weights 14, cache 34
)
exec ../stages/rl.sh "${ALGORITHM:-grpo}" "${flags[@]}" "$@"
