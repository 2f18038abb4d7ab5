#!/usr/bin/env bash
# rl.sh by PPO, with a critic of the same size, on the same node:
#   ray start --head --num-gpus 8; ./rl_ppo.sh [--flag value]; ray stop
set -euo pipefail

flags=(
  --critic.num_nodes 1                     # the GPUs of rl.sh: 17 GB of states on each, of which actor
  --critic.num_gpus_per_node 8             # and critic sleep by turns
)
ALGORITHM=ppo exec ./rl.sh "${flags[@]}" "$@"
