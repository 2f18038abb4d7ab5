#!/usr/bin/env bash
# Rejective fine-tuning on 2 nodes: sbatch --nodes=2 ../launch/torchrun.sbatch ./rft.sh [--flag value]
set -euo pipefail

flags=(
  --model.model_name_or_path start
  --model.aux_loss_coef 0                  # not given: transformers' deepseek_v2 computes no balancing loss
  --ds.attn_implementation sdpa            # its keys and values differ in width
  --data.max_len 8192                      # not given: as in judge.yaml; longer ones would lose their end
  --train.micro_batch_size 2               # 2 x 32 x 16 GPUs = 1024 (paper App. C)
)
exec ../stages/rft.sh "${flags[@]}" "$@"
