#!/usr/bin/env bash
# OpenRLHF's PPO trainer, as a job on the Ray cluster of this node, or of RAY_ADDRESS:
#   ../launch/ray_job.sh --flag value ...
# SPCT_CONFIG reaches every worker by Ray's runtime environment. An API key that judge.yaml names is
# read there too: add its variable, or set it before `ray start`. NCCL_DEBUG, TOKENIZERS_PARALLELISM and
# RAY_ENABLE_ZERO_COPY_TORCH_TENSORS are OpenRLHF's own, and Ray refuses what is set twice.
set -euo pipefail

exec ray job submit \
  --runtime-env-json "{\"env_vars\": {\"SPCT_CONFIG\": \"${SPCT_CONFIG:?}\"}}" \
  -- python3 -m openrlhf.cli.train_ppo_ray "$@"
