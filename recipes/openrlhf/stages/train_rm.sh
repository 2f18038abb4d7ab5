#!/usr/bin/env bash
# A meta RM by OpenRLHF's pairwise loss, whatever the model; called by a recipe's train_rm.sh with the
# flags of the model. The paper's is pointwise: spct train meta-rm (README.md).
set -euo pipefail

flags=(
  --data.dataset pairs.jsonl               # data/pairs.py made both
  --eval.dataset eval_pairs.jsonl          # without one, a hundredth of the pairs, or a crash
  --data.chosen_key chosen                 # a right judgement
  --data.rejected_key rejected             # a wrong one
  --data.apply_chat_template
  --data.tokenizer_chat_template "$(< ../data/meta_rm.jinja)"   # ends with the end token, whose place is
                                           # scored in training, and is saved for use
  --train.batch_size 256                   # pairs: 512 judgements (paper App. C)
  --train.max_epochs 1                     # not given: chosen because a second one fits the labels' noise
  --model.loss_type sigmoid                # log sigmoid of the difference
  --model.compute_fp32_loss_enable
  --adam.lr 1.0e-5                         # paper App. C
  --lr_scheduler cosine_with_min_lr        # not given: chosen as in rft.sh
  --min_lr_ratio 0
  --lr_warmup_ratio 0.03                   # not given: chosen as in rft.sh

  --ds.zero_stage 3
  --ds.param_dtype bf16
  --model.gradient_checkpointing_enable

  --ckpt.output_dir runs/train_rm
  --ckpt.path runs/train_rm/checkpoints
  --ckpt.save_steps 100
  --ckpt.max_num 2
  --ckpt.load_enable                       # killed and started again, it goes on
  --logger.tensorboard_dir runs/logs
)
exec ../launch/torchrun.sh openrlhf.cli.train_rm "${flags[@]}" "$@"
