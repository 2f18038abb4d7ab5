"""Run by `accelerate launch` with two processes: groups of 4, 6 rows a rank, so that one straddles.

    accelerate launch ... rank_script.py POLICY CONFIG OUT [CONFIG2]

Every rank writes what it was given and what it gave to OUT.RANK, as JSON.
"""

import json
import sys

from datasets import Dataset
from transformers import AutoTokenizer
from trl import GRPOConfig, GRPOTrainer

import spct_trl


def main(policy, config, out, second=None):
    reward = spct_trl.make_reward(config)
    given = []

    class Recording(spct_trl.GRMReward):
        async def __call__(self, **keywords):
            rewards = await super().__call__(**keywords)
            given.append({"completions": keywords["completions"], "rewards": rewards})
            return rewards

    functions = [Recording(config)]
    if second is not None:
        functions.append(spct_trl.make_reward(second, name="second"))
    trainer = GRPOTrainer(
        model=policy,
        reward_funcs=functions,
        args=GRPOConfig(
            output_dir=f"{out}.dir",
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            report_to="none",
            disable_tqdm=True,
            save_strategy="no",
            logging_steps=1,
            max_steps=2,
            max_completion_length=8,
            per_device_train_batch_size=6,
            num_generations=4,
        ),
        train_dataset=Dataset.from_list([{"prompt": f"write a note {i}"} for i in range(12)]),
        processing_class=AutoTokenizer.from_pretrained(policy),
    )
    trainer.train()
    rank = trainer.accelerator.process_index
    report = {
        "given": given,
        "advantages": list(trainer._logs["advantages"]),
        "log": [entry for entry in trainer.state.log_history if "reward" in entry],
        "name": reward.__name__,
    }
    with open(f"{out}.{rank}", "w") as file:
        json.dump(report, file)


if __name__ == "__main__":
    main(*sys.argv[1:])
