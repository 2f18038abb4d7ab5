#!/usr/bin/env bash
# rl.sh by PPO, with a critic of the same size, on as many nodes, and as little to be run today:
#   sbatch --nodes=2 ../launch/ray.sbatch ./rl_ppo.sh [--flag value]
set -euo pipefail

flags=(
  --critic.num_nodes 2                     # the GPUs of rl.sh: 33 GB of states on each, of which actor
  --critic.num_gpus_per_node 8             # and critic sleep by turns
)
ALGORITHM=ppo exec ./rl.sh "${flags[@]}" "$@"
