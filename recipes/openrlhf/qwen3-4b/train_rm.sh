#!/usr/bin/env bash
# A pairwise meta RM on one node: ./train_rm.sh [--flag value]
set -euo pipefail

flags=(
  --model.model_name_or_path start
  --ds.attn_implementation flash_attention_2   # as in rft.sh
  --ds.packing_samples                     # as in rft.sh
  --data.max_len 16384                     # not given: as in judge.yaml
  --train.micro_batch_size 2               # 2 x 16 x 8 GPUs = 256 pairs
)
exec ../stages/train_rm.sh "${flags[@]}" "$@"
