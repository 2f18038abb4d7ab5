"""Rules beside the judge: found by path, called with TRL's keywords, checked."""

import math
import sys

import numpy as np
import pytest

from spct_plugin import ConfigError, JudgeTask, RewardError
from spct_plugin.errors import RuleError
from spct_plugin.rules import load_rule, sum_rules, task_keywords


@pytest.fixture
def rule_file(tmp_path):
    def write(source, name="my_rules.py"):
        path = tmp_path / name
        path.write_text(source, encoding="utf-8")
        return path

    return write


def test_a_rule_from_a_file(rule_file):
    path = rule_file("def short(completions, **kwargs):\n    return [1.0 for _ in completions]\n")
    assert load_rule(f"{path}:short")(completions=["a", "b"]) == [1.0, 1.0]


def test_a_rule_from_a_module(rule_file, monkeypatch):
    path = rule_file("def short(completions, **kwargs):\n    return [2.0]\n", "rules_of_a_test.py")
    monkeypatch.syspath_prepend(path.parent)
    assert load_rule("rules_of_a_test:short")(completions=["a"]) == [2.0]
    sys.modules.pop("rules_of_a_test")


def test_a_callable_class_instance_is_a_rule(rule_file):
    path = rule_file(
        "class R:\n    def __call__(self, **kwargs):\n        return [3.0]\nrule = R()\n"
    )
    assert load_rule(f"{path}:rule")() == [3.0]


BAD_RULES = {
    "no such module": ("nowhere_at_all:f", "", "cannot import 'nowhere_at_all'"),
    "no such file": ("{folder}/missing.py:f", "", "cannot import .*missing.py"),
    "no such function": ("{file}:g", "def f(): pass", "expected a function 'g'"),
    "no function": ("{file}:f", "f = 5", "expected a function 'f'"),
    "wrong syntax": ("{file}:f", "def f(:", "cannot import"),
    "fails while importing": ("{file}:f", "1 / 0", "cannot import"),
    "imports what is missing": ("{file}:f", "import nowhere_at_all", "cannot import"),
    "relative module": (".rules:f", "", "cannot import"),
}


@pytest.mark.parametrize(("path", "source", "message"), BAD_RULES.values(), ids=BAD_RULES.keys())
def test_a_rule_that_cannot_be_used_is_a_config_error(rule_file, path, source, message):
    file = rule_file(source)
    with pytest.raises(ConfigError, match=message):
        load_rule(path.format(file=file, folder=file.parent))


def constant(*values):
    return lambda **keywords: list(values)


async def test_sums_are_weighted_and_none_adds_nothing():
    async def later(**keywords):
        return [1, None, True]

    rules = [("a", constant(1.0, 2.0, None), 0.5), ("b", later, -2.0)]
    assert await sum_rules(rules, {}, 3) == [-1.5, 1.0, -2.0]


async def test_without_rules_every_row_gets_zero():
    assert await sum_rules([], {}, 2) == [0.0, 0.0]


async def test_numbers_of_numpy_are_numbers():
    rules = [("a", lambda **keywords: np.array([1, 2], dtype=np.float32), 1.0)]
    sums = await sum_rules(rules, {}, 2)
    assert sums == [1.0, 2.0]
    assert all(type(value) is float for value in sums)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
async def test_a_number_that_is_none_is_refused(value):
    with pytest.raises(RewardError, match=r"rule 'r': expected a finite number or None"):
        await sum_rules([("r", constant(value), 1.0)], {}, 1)


async def test_the_wrong_number_of_values_is_refused():
    with pytest.raises(RewardError, match=r"rule 'r': expected 2 numbers, found 1"):
        await sum_rules([("r", constant(1.0), 1.0)], {}, 2)


@pytest.mark.parametrize("values", [None, 1.0, ["a", "b"], [[1.0], [2.0]]])
async def test_values_that_are_no_list_of_numbers_are_refused(values):
    with pytest.raises(RewardError, match="rule 'r'"):
        await sum_rules([("r", lambda **keywords: values, 1.0)], {}, 2)


@pytest.mark.parametrize("is_async", [False, True])
async def test_what_a_rule_raises_is_told_with_its_name(is_async):
    def broken(**keywords):
        raise KeyError("column")

    async def late(**keywords):
        broken()

    with pytest.raises(RuleError, match="rule 'r' failed: KeyError: 'column'") as caught:
        await sum_rules([("r", late if is_async else broken, 1.0)], {}, 1)
    assert isinstance(caught.value.__cause__, KeyError)


def test_tasks_are_laid_out_one_row_per_completion():
    tasks = [
        JudgeTask("p", ["a", "b"], reference="r", metadata={"level": 1, "prompts": "no"}),
        JudgeTask(
            "q", [[{"role": "assistant", "content": "c"}]], metadata={"unit": "m", "reference": "n"}
        ),
    ]
    p, q = ([{"role": "user", "content": text}] for text in "pq")
    assert task_keywords(tasks) == {
        "prompts": [p, p, q],
        "completions": ["a", "b", [{"role": "assistant", "content": "c"}]],
        "reference": ["r", "r", None],
        "level": [1, 1, None],
        "unit": [None, None, "m"],
    }
