#!/usr/bin/env bash
# Rejective fine-tuning on one node: ./rft.sh [--flag value]
set -euo pipefail

flags=(
  --model.model_name_or_path start
  --ds.attn_implementation flash_attention_2   # OpenRLHF needs flash-attn anyway
  --ds.packing_samples                     # the examples of a micro batch without padding; the batch
                                           # counts examples all the same
  --data.max_len 16384                     # not given: as in judge.yaml; longer ones would lose their end
  --train.micro_batch_size 2               # 2 x 64 x 8 GPUs = 1024 (paper App. C)
)
exec ../stages/rft.sh "${flags[@]}" "$@"
