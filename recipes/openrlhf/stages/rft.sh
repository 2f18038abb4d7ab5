#!/usr/bin/env bash
# Rejective fine-tuning, whatever the model; called by a recipe's rft.sh with the flags of the model.
set -euo pipefail

flags=(
  --data.dataset sft.jsonl,general.jsonl   # texts that spct rendered; with sft.jsonl alone the paper's
  --data.dataset_probs 0.148,0.852         # 27B loses 5.5 points (Table 4). Paper App. C: 186K : 1070K
  --data.max_samples 921600                # paper App. C: 900 steps x 1024
  --data.input_key prompt
  --data.output_key completion
  --data.input_template ""                 # nothing around the texts

  --train.batch_size 1024                  # paper App. C
  --train.max_epochs 1                     # of what is mixed; more, where 900 steps need it
  --adam.lr 5.0e-6                         # paper App. C
  --lr_scheduler cosine_with_min_lr        # not given: chosen as usual for fine-tuning,
  --min_lr_ratio 0                         # down to 0
  --lr_warmup_ratio 0.03                   # not given: 27 of the 900 steps

  --ds.zero_stage 3
  --ds.param_dtype bf16                    # with masters and moments in fp32
  --model.gradient_checkpointing_enable

  --ckpt.output_dir runs/rft
  --ckpt.path runs/rft/checkpoints
  --ckpt.save_steps 100
  --ckpt.max_num 2
  --ckpt.load_enable                       # killed and started again, it goes on
  --logger.tensorboard_dir runs/logs
)
exec ../launch/torchrun.sh openrlhf.cli.train_sft "${flags[@]}" "$@"
