#!/usr/bin/env bash
# A pairwise meta RM on 2 nodes: sbatch --nodes=2 ../launch/torchrun.sbatch ./train_rm.sh [--flag value]
set -euo pipefail

flags=(
  --model.model_name_or_path start         # the paper has a meta RM for 27B only
  --model.aux_loss_coef 0                  # as in rft.sh
  --ds.attn_implementation sdpa            # as in rft.sh
  --data.max_len 8192                      # not given: as in judge.yaml
  --train.micro_batch_size 2               # 2 x 8 x 16 GPUs = 256 pairs
)
exec ../stages/train_rm.sh "${flags[@]}" "$@"
