#!/usr/bin/env bash
# Rule-based RL, whatever the model; called by a recipe's rl.sh with the flags of the model:
#   ../stages/rl.sh grpo|ppo --flag value ...
# Ray's workers have a folder of their own, hence $PWD.
set -euo pipefail
export SPCT_CONFIG=${SPCT_CONFIG:-$PWD/judge.yaml}

case ${1:?usage: rl.sh grpo|ppo [--flag value]} in
  grpo) algorithm=(
    --algo.advantage.estimator group_norm      # paper Eq. 15: (r - mean) / std of the group
    --actor.loss_agg_mode seq-mean-token-mean  # paper Eq. 15: mean per judgement, then over judgements
    --algo.kl.use_loss                         # paper Eq. 15: the KL stands beside the reward,
    --algo.kl.estimator k3                     # by GRPO's estimator
    --ckpt.output_dir "$PWD/runs/rl"
    --ckpt.path "$PWD/runs/rl/checkpoints"
  ) ;;
  ppo) algorithm=(                             # the paper has no PPO
    --algo.advantage.estimator gae
    --algo.advantage.lambd 1                   # not given: OpenRLHF's default, as the reward comes
    --algo.advantage.gamma 1                   # only at the end
    --algo.kl.estimator k1                     # without use_loss: the KL is taken from the reward
    --critic.adam.lr 9.0e-6                    # not given: OpenRLHF's default
    --critic.lr_scheduler constant_with_warmup # not given: as the actor's
    --critic.lr_warmup_ratio 0.011
    --critic.value_clip 0.5                    # not given: OpenRLHF's default
    --ckpt.output_dir "$PWD/runs/rl_ppo"
    --ckpt.path "$PWD/runs/rl_ppo/checkpoints"
  ) ;;
  *) echo "expected grpo or ppo, found $1" >&2; exit 2 ;;
esac
shift

flags=(
  --reward.remote_url "$(spct path openrlhf-reward)"   # paper Eq. 11: +1 or -1; no format reward
  --data.prompt_dataset "$PWD/rl.jsonl"
  --data.input_key prompt                      # texts that spct rendered: no chat template here
  --data.label_key label
  --data.max_samples 115200                    # paper App. C: 900 steps x 128 prompts
  --train.num_episodes 1                       # more, where 900 steps need it

  --actor.model_name_or_path "$PWD/runs/rft"   # what rft.sh wrote; also the reference of the KL
  --rollout.batch_size 128                     # prompts. 128 x 4 = 512 rollouts (paper App. C)
  --rollout.n_samples_per_prompt 4             # paper App. C: G
  --train.batch_size 512                       # rollouts: one update for each batch of them
  --rollout.max_new_tokens 2048                # not given: sampling.max_tokens of judge.yaml
  --rollout.temperature 1.0                    # not given: usual, and what is sampled is trained
  --actor.adam.lr 4.0e-7                       # paper App. C
  --actor.lr_scheduler constant_with_warmup    # not given: chosen because RL may be stopped anywhere
  --actor.lr_warmup_ratio 0.011                # not given: 10 of the 900 steps
  --actor.eps_clip 0.2                         # not given: PPO's usual
  --actor.gradient_checkpointing_enable        # of the critic, too

  --train.colocate_all                         # all on the same GPUs; what is not at work sleeps
  --vllm.enable_sleep
  --ds.enable_sleep
  --vllm.enable_prefix_caching                 # siblings share their prompt
  --ds.zero_stage 3
  --ds.param_dtype bf16                        # with fp32 masters: a step of 4e-7 is nothing in bf16

  --ckpt.save_steps 100
  --ckpt.max_num 2
  --ckpt.load_enable                           # killed and started again, it goes on
  --logger.tensorboard_dir "$PWD/runs/logs"
)
exec ../launch/ray_job.sh "${flags[@]}" "${algorithm[@]}" "$@"
