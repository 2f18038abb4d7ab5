"""Our reward function inside TRL's own trainers, in one process."""

import math
import pickle

import pytest

pytest.importorskip("trl", reason="needs the extra `trl`")

from scripted_plugin import content_score
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

import spct_trl
from spct_plugin import ConfigError, RewardError, SPCTConfig
from spct_plugin.failures import FAILURES

TRAINERS = pytest.mark.parametrize(
    ("trainer_class", "config_class"),
    [(GRPOTrainer, GRPOConfig), (RLOOTrainer, RLOOConfig)],
    ids=["grpo", "rloo"],
)
METRICS = {
    "votes", "parse_rate", "spread", "ties", "groups_without_spread", "position_bias",
    "length_correlation", "tokens", "seconds", *(f"failed/{kind}" for kind in FAILURES),
}  # fmt: skip


@TRAINERS
def test_whole_groups_are_judged_and_every_completion_gets_its_own_score(
    trainer_class, config_class, train, config_file, shown
):
    trainer = train(trainer_class, config_class, spct_trl.make_reward(config_file()))
    completions = list(trainer._logs["completion"])
    assert len(completions) == 8
    assert {len(group) for group in shown()} == {4}
    rewards = list(trainer._logs["rewards"]["grm_reward"])
    assert rewards == [content_score(text) for text in completions]


@TRAINERS
def test_metrics_have_the_same_names_in_every_step(trainer_class, config_class, train, config_file):
    reward = spct_trl.make_reward(config_file("some"))
    trainer = train(trainer_class, config_class, reward, max_steps=3)
    steps = [entry for entry in trainer.state.log_history if "reward" in entry]
    assert len(steps) == 3
    for step in steps:
        names = {name.removeprefix("grm_reward/") for name in step if name.startswith("grm_")}
        assert names == METRICS
    assert any(step["grm_reward/failed/engine_error"] > 0 for step in steps)


def test_columns_of_judged_completions_are_logged_for_every_row(train, config_file):
    trainer = train(GRPOTrainer, GRPOConfig, spct_trl.make_reward(config_file()))
    extra = trainer._logs["extra"]
    assert len(extra["grm_reward/votes"]) == 8
    assert all("boxed" in text for text in extra["grm_reward/judgement"])


def test_failed_judgements_are_none_and_the_group_has_no_gradient(train, config_file):
    config = config_file("all", reward={"breaker": {"infrastructure": 1.0}})
    trainer = train(GRPOTrainer, GRPOConfig, spct_trl.make_reward(config))
    assert all(math.isnan(reward) for reward in trainer._logs["rewards"]["grm_reward"])
    assert list(trainer._logs["advantages"]) == [0.0] * 8


def test_groups_fail_apart_from_each_other(train, config_file):
    config = config_file("some", reward={"breaker": {"infrastructure": 1.0}})
    trainer = train(GRPOTrainer, GRPOConfig, spct_trl.make_reward(config), max_steps=4)
    failed = [step["grm_reward/failed/engine_error"] for step in trainer.state.log_history[:4]]
    assert set(failed) <= {0.0, 0.5, 1.0}
    assert len(set(failed)) > 1


def test_the_breaker_stops_a_run_whose_judge_is_out(train, config_file):
    with pytest.raises(RewardError, match="4 of 4 judgements of this step failed"):
        train(GRPOTrainer, GRPOConfig, spct_trl.make_reward(config_file("all")))


def test_the_breaker_stops_a_run_whose_judge_goes_out_later(train, config_file, shown):
    with pytest.raises(RewardError, match="failed in infrastructure"):
        train(GRPOTrainer, GRPOConfig, spct_trl.make_reward(config_file("later")), max_steps=9)
    assert len(shown()) > 16


def test_evaluation_with_another_group_size(train, config_file, shown):
    trainer = train(
        GRPOTrainer, GRPOConfig, spct_trl.make_reward(config_file()),
        per_device_eval_batch_size=4, num_generations_eval=2,
    )  # fmt: skip
    before = len(shown())
    metrics = trainer.evaluate()
    assert {len(group) for group in shown()[before:]} == {2}
    assert 1 <= metrics["eval_rewards/grm_reward/mean"] <= 10


def test_evaluation_of_one_completion_alone(train, config_file, shown):
    trainer = train(
        GRPOTrainer, GRPOConfig, spct_trl.make_reward(config_file()),
        per_device_eval_batch_size=4, num_generations_eval=1,
    )  # fmt: skip
    before = len(shown())
    trainer.evaluate()
    assert {len(group) for group in shown()[before:]} == {1}


def test_two_of_our_functions_together(train, config_file):
    first = spct_trl.make_reward(config_file())
    second = spct_trl.make_reward(config_file(reward={"scale": "unit"}), name="unit_reward")
    trainer = train(GRPOTrainer, GRPOConfig, [first, second])
    rewards = trainer._logs["rewards"]
    assert [(value - 1) / 9 for value in rewards["grm_reward"]] == pytest.approx(
        list(rewards["unit_reward"])
    )


def test_as_a_second_function_our_none_counts_as_zero(train, config_file):
    """Documented: TRL sums with nansum; so rules are combined inside our own function."""

    def rule(completions, **_):
        return [1.0, 0.0] * (len(completions) // 2)

    config = config_file("all", reward={"breaker": {"infrastructure": 1.0}})
    trainer = train(GRPOTrainer, GRPOConfig, [spct_trl.make_reward(config), rule])
    assert any(advantage != 0 for advantage in trainer._logs["advantages"])


def test_rules_inside_our_function_do_not_outlive_a_failed_judge(train, config_file, tmp_path):
    (tmp_path / "rule.py").write_text(
        "def half(completions, **columns):\n    return [0.5] * len(completions)\n"
    )
    reward = {
        "rewards": [{"grm": {}}, {"path": f"{tmp_path / 'rule.py'}:half", "weight": 2}],
        "breaker": {"infrastructure": 1.0},
    }
    alone = train(GRPOTrainer, GRPOConfig, spct_trl.make_reward(config_file(reward=reward)))
    scores = [content_score(text) for text in alone._logs["completion"]]
    assert list(alone._logs["rewards"]["grm_reward"]) == [score + 1 for score in scores]
    failed = train(GRPOTrainer, GRPOConfig, spct_trl.make_reward(config_file("all", reward=reward)))
    assert list(failed._logs["advantages"]) == [0.0] * 8


def test_a_column_of_the_data_set_is_the_reference(train, config_file, tmp_path):
    template = tmp_path / "with_reference.jinja"
    template.write_text(
        "ref {{ reference }}\n{% for r in responses %}{{ begin('Response ' ~ loop.index) }}\n"
        "{{ r }}\n{{ end('Response ' ~ loop.index) }}\n{% endfor %}"
    )
    config = config_file(template={"name": str(template)}, trl={"columns": {"reference": "gold"}})
    rows = [{"prompt": f"write a note {i}", "gold": f"gold {i}"} for i in range(8)]
    reward = spct_trl.make_reward(config)
    train(GRPOTrainer, GRPOConfig, reward, rows=rows)
    prompts = [request.prompt for request in reward._model._voter._engine.requests]
    assert all(prompt.startswith("ref gold ") for prompt in prompts)


def test_a_missing_column_is_named(train, config_file):
    config = config_file(trl={"columns": {"reference": "gold"}})
    with pytest.raises(ConfigError, match=r"trl\.columns: expected one of \[.*\], found 'gold'"):
        train(GRPOTrainer, GRPOConfig, spct_trl.make_reward(config))


def test_a_group_size_that_differs_from_the_trainers_is_refused(train, config_file):
    config = config_file(trl={"group_size": 2})
    with pytest.raises(ConfigError, match="expected the trainer's num_generations 4, found 2"):
        train(GRPOTrainer, GRPOConfig, spct_trl.make_reward(config))


def test_conversational_rows(train, config_file, shown):
    rows = [{"prompt": [{"role": "user", "content": f"write a note {i}"}]} for i in range(8)]
    trainer = train(GRPOTrainer, GRPOConfig, spct_trl.make_reward(config_file()), rows=rows)
    assert {len(group) for group in shown()} == {4}
    logged = list(trainer._logs["completion"])  # TRL 1.14 logs texts, 1.16 messages
    texts = [entry if isinstance(entry, str) else entry[0]["content"] for entry in logged]
    assert list(trainer._logs["rewards"]["grm_reward"]) == [content_score(t) for t in texts]


def test_the_function_travels_by_pickle(config_file):
    reward = spct_trl.make_reward(config_file(), name="judge")
    copy = pickle.loads(pickle.dumps(reward))
    assert copy.__name__ == "judge"
    assert copy.config.model_dump() == reward.config.model_dump()


def test_grm_reward_reads_its_configuration_from_the_environment(config_file, monkeypatch):
    monkeypatch.setenv("SPCT_CONFIG", str(config_file(vote={"k": 3})))
    monkeypatch.delitem(vars(spct_trl), "grm_reward", raising=False)
    assert spct_trl.grm_reward.config.vote.k == 3
    monkeypatch.delitem(vars(spct_trl), "grm_reward")


def test_without_a_configuration_no_policy_is_trained_on_a_toy(monkeypatch):
    monkeypatch.delenv("SPCT_CONFIG", raising=False)
    monkeypatch.delitem(vars(spct_trl), "grm_reward", raising=False)
    with pytest.raises(ConfigError, match="expected the environment variable SPCT_CONFIG"):
        spct_trl.grm_reward  # noqa: B018


@pytest.mark.parametrize(
    ("engine", "named"), [({}, False), ({"device": "cpu"}, False), ({"model": "tiny"}, True)]
)
async def test_a_toy_that_nobody_named_is_told(engine, named, caplog):
    sections = {"reward": {"breaker": {"judge": 1}}} | ({"engine": engine} if engine else {})
    config = SPCTConfig.model_validate(sections)
    await spct_trl.make_reward(config)(prompts=["Say."] * 2, completions=["a", "b"])
    assert ("toy judge" in caplog.text) is not named


def test_a_wrong_configuration_is_refused_before_anything_is_generated(tmp_path):
    path = tmp_path / "wrong.yaml"
    path.write_text("vote: {kk: 3}")
    with pytest.raises(ConfigError, match=r"vote\.kk: unknown key"):
        spct_trl.make_reward(path)


def test_a_mapping_is_no_configuration():
    with pytest.raises(ConfigError, match="expected an SPCTConfig or a path, found dict"):
        spct_trl.make_reward({"vote": {"k": 2}})


def test_a_reward_travels_with_its_file_and_to_other_directories(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(
        "from spct_plugin import hookimpl\n\n@hookimpl\ndef spct_register_votes(register): ...\n"
    )
    (tmp_path / "judge.yaml").write_text("plugins: [mine.py]\nvote: {k: 3}\n")
    monkeypatch.chdir(tmp_path)
    packed = pickle.dumps(spct_trl.make_reward("judge.yaml"))
    monkeypatch.chdir("/")
    assert pickle.loads(packed).config.vote.k == 3
