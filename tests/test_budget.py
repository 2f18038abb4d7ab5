"""What the judge gets to read of a completion, and how many fit one prompt."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spct_plugin import JudgeTask, Principle
from spct_plugin.budget import largest_list, view_task

VIEWS = {
    "no thoughts": ("an answer", "an answer"),
    "thoughts": ("<think>hm</think>an answer", "an answer"),
    "space after the thoughts": ("<think>hm</think>\n\n an answer ", "an answer "),
    "two thoughts": ("a</think>b</think>c", "c"),
    "never closed": ("<think>hm", "<think>hm"),
    "nothing after": ("<think>hm</think>", ""),
    "empty": ("", ""),
}


@pytest.mark.parametrize(("text", "viewed"), VIEWS.values(), ids=VIEWS.keys())
def test_the_answer_is_what_follows_the_last_thoughts(text, viewed):
    task = JudgeTask("x", [text, [{"role": "assistant", "content": text}]])
    found = view_task(task, "answer", None)
    assert found.completions[0] == viewed
    assert found.completions[1][0].content == viewed


def test_the_full_view_without_a_limit_is_the_task_itself():
    task = JudgeTask("x", ["<think>hm</think>a"])
    assert view_task(task, "full", None) is task


def test_a_task_with_nothing_to_cut_stays_the_same_object():
    task = JudgeTask("x", ["a", "b"])
    assert view_task(task, "answer", 100) is task


def test_only_the_assistants_turns_are_cut():
    turns = [
        {"role": "assistant", "content": "<think>hm</think>calling", "tool_calls": [{"a": 1}]},
        {"role": "tool", "name": "t", "content": "</think>" + "x" * 300},
        {"role": "assistant", "content": "y" * 300},
    ]
    [found] = view_task(JudgeTask("x", [turns]), "answer", 100).completions
    assert (found[0].content, found[0].tool_calls) == ("calling", ('{"a": 1}',))
    assert found[1].content == "</think>" + "x" * 300
    assert "[... 200 characters left out ...]" in found[2].content


def test_everything_else_of_the_task_is_kept():
    task = JudgeTask(
        "</think>x", ["<think>hm</think>a"], reference="</think>r", principles=[Principle("p", "4")]
    )
    marked = JudgeTask(
        task.prompt,
        task.completions,
        reference=task.reference,
        principles=task.principles,
        metadata={"id": 1},
    )
    found = view_task(marked, "answer", None)
    assert (found.prompt, found.reference) == (task.prompt, task.reference)
    assert (found.principles, found.metadata) == (task.principles, {"id": 1})


def test_a_long_completion_keeps_head_and_tail_and_says_so():
    [found] = view_task(JudgeTask("x", ["a" * 150 + "b" * 150]), "full", 100).completions
    assert found == "a" * 50 + "\n[... 200 characters left out ...]\n" + "b" * 50


@given(st.text(), st.integers(2, 40))
def test_what_is_left_out_is_counted_right(text, limit):
    [found] = view_task(JudgeTask("x", [text]), "full", limit).completions
    if len(text) <= limit:
        assert found == text
        return
    head, _, rest = found.partition("\n[... ")
    count, _, tail = rest.partition(" characters left out ...]\n")
    assert text.startswith(found[: limit // 2])
    assert text.endswith(found[-(limit // 2) :])
    if "[..." not in text:
        assert int(count) + len(head) + len(tail) == len(text)


@given(st.integers(1, 100), st.integers(0, 100))
def test_the_largest_list_fits_and_is_over_half_of_what_would(n, capacity):
    size = largest_list(n, lambda count: count <= capacity)
    assert size <= min(n, capacity)
    if capacity:
        assert 2 * size >= min(n, capacity)
    else:
        assert size == 0


def test_sizes_are_tried_from_large_to_small():
    tried = []
    assert largest_list(9, lambda count: tried.append(count) or count < 3) == 2
    assert tried == [9, 4, 2]
