#!/usr/bin/env bash
# A policy trained by a judge's rewards: whole groups are judged together, by the group agent.
#   ./policy.sh [--flag value]                 GRPO: rollouts and training take turns on the same GPUs
#   ALGORITHM=ppo ./policy.sh [--flag value]   PPO, with a critic
#   ASYNC=1 ./policy.sh [--flag value]         rollouts and training at once, on GPUs of their own
# Ray has to run, with GPUs that are not the judge's: README.md. The paper trains no policy.
set -euo pipefail
export SPCT_CONFIG=${SPCT_CONFIG:-$PWD/judge.yaml}

case ${ALGORITHM:-grpo} in
  grpo) algorithm=(
    --algo.advantage.estimator group_norm
    --actor.loss_agg_mode seq-mean-token-mean
    --algo.kl.use_loss
    --algo.kl.estimator k3
  ) ;;
  ppo) algorithm=(
    --algo.advantage.estimator gae
    --algo.kl.estimator k1                     # without use_loss: the KL is taken from the reward
    --critic.adam.lr 9.0e-6                    # not given: OpenRLHF's default
  ) ;;
  *) echo "ALGORITHM: expected grpo or ppo, found $ALGORITHM" >&2; exit 2 ;;
esac

if [[ -n ${ASYNC:-} ]]; then
  placement=(
    --train.async_enable
    --train.async_queue_size 1                 # rollouts are at most so many batches old
    --train.partial_rollout_enable             # new weights do not wait for the last completion
    --algo.advantage.is_correction_level token # and what the old weights wrote is weighted,
    --algo.advantage.is_correction_mode mask   # or left out where the two differ much
    --algo.advantage.is_correction_threshold 0.5 5.0   # not given: OpenRLHF's default
    --actor.num_gpus_per_node 2                # 2 GPUs train,
    --ref.num_gpus_per_node 2
    --critic.num_gpus_per_node 2
    --vllm.num_engines 2                       # 2 others write
    --vllm.gpu_memory_utilization 0.9
  )
else
  placement=(
    --actor.num_gpus_per_node 4                # 4 GPUs do both
    --ref.num_gpus_per_node 4
    --critic.num_gpus_per_node 4
    --vllm.num_engines 4
    --vllm.gpu_memory_utilization 0.6
    --vllm.enable_sleep
  )
fi

flags=(
  --train.agent_func_path "$(spct path openrlhf-agent)"
  --data.prompt_dataset "$PWD/prompts.jsonl"
  --data.input_key prompt
  --data.label_key label                       # the conversation, and a reference where there is one
  --data.apply_chat_template
  --data.max_len 4096                          # chosen: 2048 of prompt + 2048 of completion
  --rollout.max_new_tokens 2048
  --train.num_episodes 1

  --actor.model_name_or_path Qwen/Qwen3-4B-Instruct-2507
  --rollout.batch_size 64                      # prompts. 64 x 8 = 512 rollouts, as in a judge's RL
  --rollout.n_samples_per_prompt 8             # chosen: the judge gets all in one prompt (vote.list_size)
  --train.batch_size 512
  --train.micro_batch_size 2                   # 2 x 64 x 4 GPUs = 512; with ASYNC 2 x 128 x 2
  --rollout.micro_batch_size 2
  --rollout.temperature 1.0                    # usual, and what is sampled is trained
  --actor.adam.lr 1.0e-6                       # OpenRLHF's default
  --actor.lr_scheduler constant_with_warmup    # chosen because RL may be stopped anywhere
  --actor.eps_clip 0.2                         # PPO's usual
  --algo.kl.init_coef 0.01                     # OpenRLHF's default
  --actor.gradient_checkpointing_enable

  --train.colocate_all                         # all but, with ASYNC, vLLM on the same GPUs
  --ds.enable_sleep                            # actor and critic, too, take turns
  --vllm.enable_prefix_caching                 # siblings share their prompt
  --ds.attn_implementation flash_attention_2
  --ds.packing_samples                         # micro batches without padding
  --ds.zero_stage 3
  --ds.param_dtype bf16

  --ckpt.output_dir "$PWD/runs/policy"
  --ckpt.path "$PWD/runs/policy/checkpoints"
  --ckpt.save_steps 50
  --ckpt.max_num 2
  --ckpt.load_enable                           # killed and started again, it goes on
  --logger.tensorboard_dir "$PWD/runs/logs"
)
exec ../launch/ray_job.sh "${flags[@]}" "${algorithm[@]}" "${placement[@]}" "$@"
