#!/usr/bin/env bash
# Rejective fine-tuning on 4 nodes: sbatch --nodes=4 ../launch/torchrun.sbatch ./rft.sh [--flag value]
set -euo pipefail

flags=(
  --model.model_name_or_path start         # the pretrained model: paper Fig. 5
  --ds.attn_implementation flash_attention_2   # soft-capping rules sdpa out; flash-attn >= 2.6.3
  --data.max_len 8192                      # not given: the whole context; longer ones would lose their end
  --train.micro_batch_size 1               # 1 x 32 x 32 GPUs = 1024 (paper App. C)
)
exec ../stages/rft.sh "${flags[@]}" "$@"
