#!/usr/bin/env bash
# One stage on this node, called in a recipe's folder; started again, it goes on where it was:
#   ../launch/local.sh rft | rl | meta-rm [--key value, as in the YAML]
# RL with a vLLM server beside the trainer, on GPUs of its own. Fewer GPUs train, so the accumulation
# grows by as much (16 x 8 GPUs = 32 x 4 GPUs):
#   TRAIN_GPUS=0,1,2,3 VLLM_GPUS=4,5,6,7 ../launch/local.sh rl \
#     --vllm_mode server --num_processes 4 --gradient_accumulation_steps 32
set -euo pipefail

stage=${1:?usage: local.sh rft|rl|meta-rm [--key value]}
shift
config=${stage//-/_}.yaml
value() { sed -n "s/^$1: *\([^ #]*\).*/\1/p" "$config"; }

if [[ -n ${VLLM_GPUS:-} ]]; then
  gpus=(${VLLM_GPUS//,/ })
  CUDA_VISIBLE_DEVICES=$VLLM_GPUS "$(dirname "$0")/vllm_policy.sh" \
    "$(value model_name_or_path)" "$(value vllm_max_model_length)" "${#gpus[@]}" &
  trap 'kill $! 2> /dev/null || true' EXIT
  export CUDA_VISIBLE_DEVICES=${TRAIN_GPUS:?TRAIN_GPUS: the GPUs that train, others than VLLM_GPUS}
fi
spct train "$stage" --config "$config" "$@"
