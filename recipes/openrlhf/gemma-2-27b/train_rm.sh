#!/usr/bin/env bash
# A pairwise meta RM on 4 nodes: sbatch --nodes=4 ../launch/torchrun.sbatch ./train_rm.sh [--flag value]
set -euo pipefail

flags=(
  --model.model_name_or_path start         # paper Fig. 5: the pretrained model with a scalar head
  --ds.attn_implementation flash_attention_2   # as in rft.sh
  --data.max_len 8192                      # not given: the whole context
  --train.micro_batch_size 1               # 1 x 8 x 32 GPUs = 256 pairs
)
exec ../stages/train_rm.sh "${flags[@]}" "$@"
