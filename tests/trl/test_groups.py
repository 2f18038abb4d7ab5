"""Rows into groups: pure, without a trainer."""

import pytest

from spct_plugin import ConfigError, TaskError
from spct_trl_groups import Row, group_sizes, rows_of, task_of


def rows(text):
    return [Row(letter, "c") for letter in text]


@pytest.mark.parametrize(
    ("text", "size", "training", "expected"),
    [
        ("aabb", 2, True, [2, 2]),
        ("aaaa", 2, True, [2, 2]),
        ("aaab", None, True, [3, 1]),
        ("aab", 2, False, [2, 1]),
        ("abc", 1, True, [1, 1, 1]),
        ("", None, True, []),
    ],
)
def test_groups_are_consecutive_rows_of_one_prompt(text, size, training, expected):
    assert group_sizes(rows(text), size, training=training) == expected


def test_a_group_of_strangers_is_refused_in_training():
    with pytest.raises(
        ConfigError, match="expected 4 completions of every prompt in a row, found 2"
    ):
        group_sizes(rows("aabb"), 4, training=True)


def test_messages_are_compared_by_content():
    prompt = [{"role": "user", "content": "q"}]
    other = [{"content": "q", "role": "user"}]
    assert group_sizes([Row(prompt, "a"), Row(other, "b")], 2, training=True) == [2]


def test_a_task_takes_reference_and_principles_from_its_rows():
    columns = {"gold": ["g", "g"], "rules": [["be brief"], ["be brief"]]}
    names = {"reference": "gold", "principles": "rules"}
    task = task_of(rows_of(["q", "q"], ["a", "b"], columns, names))
    assert task.completions == ("a", "b")
    assert task.reference == "g"
    assert [principle.text for principle in task.principles] == ["be brief"]


def test_a_text_is_no_list_of_principles():
    columns = {"rules": ["be brief", "be brief"]}
    with pytest.raises(TaskError, match="principles: expected a list of texts, found 'be brief'"):
        task_of(rows_of(["q", "q"], ["a", "b"], columns, {"principles": "rules"}))
