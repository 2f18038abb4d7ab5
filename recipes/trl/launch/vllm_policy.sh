#!/usr/bin/env bash
# The vLLM server that writes the rollouts of RL (vllm_mode: server), on GPUs of its own:
#   vllm_policy.sh MODEL MAX_MODEL_LEN TENSOR_PARALLEL_SIZE [more flags of vllm serve]
# TRL pushes the policy's weights to it after every step. The flags are those that TRL 1.16 starts
# its own server with (trl/scripts/vllm_serve.py); `trl vllm-serve` itself is deprecated.
set -euo pipefail

model=${1:?usage: vllm_policy.sh MODEL MAX_MODEL_LEN TENSOR_PARALLEL_SIZE [flags]}
max_model_len=${2:?MAX_MODEL_LEN: the vllm_max_model_length of rl.yaml}
tensor_parallel_size=${3:?TENSOR_PARALLEL_SIZE: the number of GPUs of the server}
shift 3

# From 0.30 on, TRL asks for this flag; older servers do not know it.
scale_out='import importlib.metadata as m; from packaging.version import Version as V
raise SystemExit(V(m.version("vllm")) < V("0.30.0"))'
python -c "$scale_out" && set -- --enable-scale-out "$@"

# Dev mode holds the weight transfer; the log probabilities are those after the temperature, as the
# trainer computes them. --dtype, as vLLM would turn an fp32 checkpoint into what it prefers.
exec env VLLM_SERVER_DEV_MODE=1 vllm serve "$model" \
  --host 0.0.0.0 --port 8000 \
  --max-model-len "$max_model_len" \
  --tensor-parallel-size "$tensor_parallel_size" \
  --gpu-memory-utilization 0.9 \
  --dtype bfloat16 \
  --weight-transfer-config '{"backend": "nccl"}' \
  --logprobs-mode processed_logprobs --max-logprobs -1 \
  "$@"
