"""`AsyncGRPOTrainer` scores one group per call, in a process of its own, without the trainer."""

import pickle

import pytest
from scripted_plugin import content_score

pytest.importorskip("trl", reason="needs the extra `trl`")
worker = pytest.importorskip(
    "trl.experimental.async_grpo.async_rollout_worker", reason="this TRL has no AsyncGRPOTrainer"
)


async def score_group(config, texts):
    """Let TRL's own worker score one group; give its samples, one per completion."""
    from accelerate import PartialState

    import spct_trl

    PartialState(cpu=True)  # TRL's logger wants it
    reward = pickle.loads(pickle.dumps(spct_trl.make_reward(config)))
    [owner] = [
        value for value in vars(worker).values() if "_score_group" in getattr(value, "__dict__", ())
    ]
    loop = object.__new__(owner)
    loop.reward_funcs = [reward]
    loop.reward_func_names = ["grm_reward"]
    loop._env_reward_types = []
    loop._provides_rollout_reward = False
    n = len(texts)
    group = worker.RolloutGroup(
        prompts=[[{"role": "user", "content": "write a note"}]] * n,
        reward_kwargs={"topic": ["notes"] * n},
        completions=[[{"role": "assistant", "content": text}] for text in texts],
        completions_ids=[[1]] * n,
        completions_sequences=[[worker.TrainingSequence([1], [1], [0.0], None)]] * n,
        tool_call_counts=[0] * n,
        tool_failure_counts=[0] * n,
        model_version=0,
        group_id=0,
        env_rewards=[None] * n,
        rollout_rewards=[None] * n,
    )
    return await loop._score_group(group)


async def test_one_call_is_one_group(config_file, shown):
    texts = ["a", "b", "c"]
    samples = await score_group(config_file(), texts)
    assert [s.metrics["rewards/grm_reward"] for s in samples] == [content_score(t) for t in texts]
    assert {len(group) for group in shown()} == {3}


async def test_a_group_without_judgements_has_no_advantage(config_file):
    config = config_file("all", reward={"breaker": {"infrastructure": 1.0}})
    samples = await score_group(config, ["a", "b"])
    assert [sample.advantage for sample in samples] == [0.0, 0.0]
