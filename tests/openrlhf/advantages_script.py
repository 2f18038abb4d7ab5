"""Has OpenRLHF's own experience maker compute advantages: cases in, numbers out, as JSON.

Runs in a process of its own, as the stand-ins change torch.
"""

import json
import sys
from types import SimpleNamespace

import torch
from openrlhf.trainer.ppo_utils.experience import Experience
from openrlhf.trainer.ppo_utils.experience_maker import RemoteExperienceMaker


def advantages(estimator, rewards, n=4):
    """Compute the advantages of completions of one token each, by a critic that says 0."""
    advantage = SimpleNamespace(estimator=estimator, gamma=1.0, lambd=1.0, no_std_norm=False)
    args = SimpleNamespace(
        algo=SimpleNamespace(advantage=advantage),
        reward=SimpleNamespace(
            clip_range=(-10, 10), overlong_buffer_len=None, stop_properly_penalty_coef=None
        ),
        rollout=SimpleNamespace(n_samples_per_prompt=n),
    )
    strategy = SimpleNamespace(args=args)
    control = SimpleNamespace(value=0.0)
    maker = RemoteExperienceMaker(None, None, None, None, control, strategy, None)
    experiences = [
        Experience(
            action_mask=torch.ones(1, 1),
            kl=torch.zeros(1, 1),
            values=torch.zeros(1, 1),
            rewards=torch.tensor([reward]),
            index=[at],
        )
        for at, reward in enumerate(rewards)
    ]
    done = maker.compute_advantages_and_returns(experiences)
    return [float(experience.advantages) for experience in done]


if __name__ == "__main__":
    found = [advantages(estimator, rewards) for estimator, rewards in json.load(sys.stdin)]
    sys.stdout.write(f"\nADVANTAGES {json.dumps(found)}\n")
