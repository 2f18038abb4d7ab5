#!/usr/bin/env bash
# Rule-based RL by GRPO on one node: ray start --head --num-gpus 8; ./rl.sh [--flag value]; ray stop
set -euo pipefail

flags=(
  --algo.kl.init_coef 0.02                 # not given for 4B: chosen between 0.002 (16B) and 0.08 (27B)
  --ds.attn_implementation flash_attention_2   # as in rft.sh
  --ds.packing_samples                     # as in rft.sh
  --data.max_len 16384                     # 14336 of prompt + 2048
  --train.micro_batch_size 2               # 2 x 32 x 8 GPUs = 512 (paper App. C)
  --rollout.micro_batch_size 2             # for the log probabilities, of the reference too

  --actor.num_nodes 1                      # x 8 GPUs of 80 GB
  --actor.num_gpus_per_node 8
  --ref.num_nodes 1                        # the same GPUs
  --ref.num_gpus_per_node 8
  --vllm.num_engines 8                     # 8 x 1 GPU, the same ones
  --vllm.tensor_parallel_size 1
  --vllm.gpu_memory_utilization 0.6        # 48 of 80 GB: weights 8, cache 40
)
exec ../stages/rl.sh "${ALGORITHM:-grpo}" "${flags[@]}" "$@"
