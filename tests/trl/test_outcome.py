"""The outcome reward as TRL calls it, and what the log says of a step."""

import pickle

import pytest

pytest.importorskip("trl", reason="needs the extra `trl`")

from spct_plugin import SPCTConfig
from spct_plugin.errors import ConfigError
from spct_plugin.parsing import parse_judgement
from spct_trl_outcome import OutcomeReward

BOX = "Specific Criteria: fit (60%%), tone\nAnalysis: one is better.\nScores: \\boxed{%s}"


class Trainer:
    """Stands in for the trainer behind log_metric."""

    eos_token_ids = (7,)

    def __init__(self):
        self.logged = {}

    def log(self, name, value):
        self.logged[name] = value


@pytest.fixture
def reward():
    return OutcomeReward(SPCTConfig.model_validate({"template": {"name": "default"}}))


def test_a_judgement_is_paid_by_what_it_picks(reward):
    texts = [BOX % "3, 8", BOX % "8, 3", BOX % "8, 8", "no scores", BOX % "3, 8, 9"]
    assert reward(completions=texts, label=[1] * 5, n=[2] * 5) == [1, -1, -1, -1, -1]


def test_messages_are_read_like_texts(reward):
    turns = [[{"role": "assistant", "content": BOX % "3, 8"}]]
    assert reward(completions=turns, label=[1], n=[2]) == [1]


def test_a_judgement_that_was_cut_off_is_wrong_though_its_box_is_whole(reward):
    arguments = {"completions": [BOX % "3, 8"] * 2, "label": [1, 1], "n": [2, 2]}
    ids = [[1, 2, 7], [1, 2, 3]]
    assert reward(**arguments, completion_ids=ids, log_metric=Trainer().log) == [1, -1]


def test_a_row_may_name_its_template(reward):
    arguments = {"completions": ["Scores: \\boxed{0}"] * 2, "label": [0, 0], "n": [1, 1]}
    assert reward(**arguments, template=["single", "default"]) == [1, -1]


def test_a_step_is_described(reward):
    trainer = Trainer()
    texts = [BOX % "3, 8", BOX % "8, 3", BOX % "8, 8", "no scores"]
    reward(completions=texts, label=[1, 1, 1, 0], n=[2] * 4, log_metric=trainer.log)
    critique = len(parse_judgement(texts[0], 2).critique)
    assert trainer.logged == {
        "outcome_reward/accuracy": 0.25,
        "outcome_reward/parse_rate": 0.75,
        "outcome_reward/ties": pytest.approx(1 / 3),
        "outcome_reward/first_wins": 0.5,
        "outcome_reward/principles": 1.5,
        "outcome_reward/critique_length": (3 * critique + len("no scores")) / 4,
    }


def test_missing_columns_are_one_clear_line(reward):
    with pytest.raises(ConfigError, match=r"label and n, .* found \['answer'\]"):
        reward(completions=["x"], answer=["y"])


def test_it_travels_to_other_processes(reward):
    again = pickle.loads(pickle.dumps(reward))
    assert again.__name__ == "outcome_reward"
    assert again(completions=[BOX % "3, 8"], label=[1], n=[2]) == [1]
