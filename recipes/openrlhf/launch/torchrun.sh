#!/usr/bin/env bash
# A trainer of OpenRLHF that torchrun starts, on this node:
#   ../launch/torchrun.sh openrlhf.cli.train_sft --flag value ...
# GPUS: how many of this node train (8). On several nodes torchrun.sbatch starts it once on each.
set -euo pipefail

exec torchrun --nnodes "${NNODES:-1}" --nproc-per-node "${GPUS:-8}" \
  --rdzv-backend c10d --rdzv-id "${SLURM_JOB_ID:-0}" --rdzv-endpoint "${HEAD:-localhost}:29500" \
  --module "$@"
