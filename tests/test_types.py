"""Tasks, messages, judgements: checked once when they come in, plain values afterwards."""

import dataclasses
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spct_plugin import JudgeTask, Message, Principle, TaskError

TURN = {"role": "user", "content": "hi"}
CALL = {"function": {"name": "add", "arguments": {"b": 2, "a": 1}}}


def test_a_string_prompt_becomes_one_user_turn():
    assert JudgeTask("Name a prime.", ["7"]).prompt == (Message("user", "Name a prime."),)


def test_a_conversation_keeps_its_turns_and_a_completion_its_tool_turns():
    completion = [
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "name": "add", "content": "3"},
        Message("assistant", "three"),
    ]
    task = JudgeTask([{"role": "system", "content": "Be brief."}, TURN], ["3", completion])
    assert [turn.role for turn in task.prompt] == ["system", "user"]
    assert task.completions[0] == "3"
    called, tool, answer = task.completions[1]
    assert called.content == ""
    assert called.tool_calls == ('{"function": {"arguments": {"a": 1, "b": 2}, "name": "add"}}',)
    assert (tool.role, tool.name, tool.content) == ("tool", "add", "3")
    assert answer == Message("assistant", "three")


def test_text_parts_are_joined():
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert Message.of({"role": "user", "content": parts}).content == "ab"


def test_a_turn_that_only_calls_tools_is_a_prompt():
    turn = {"role": "assistant", "content": "", "tool_calls": [CALL]}
    assert JudgeTask([turn], ["x"]).prompt[0].tool_calls


def test_principles_come_as_texts_or_as_principles():
    task = JudgeTask("x", ["a"], principles=["be right", Principle("be short", "30%")])
    assert task.principles == (Principle("be right"), Principle("be short", "30%"))


BAD_TASKS = {
    "empty prompt": (("", ["a"]), {}, "prompt with text"),
    "blank prompt": ((" \n", ["a"]), {}, "prompt with text"),
    "no turns": (([], ["a"]), {}, "prompt with text"),
    "blank turns": (([{"role": "user", "content": " "}], ["a"]), {}, "prompt with text"),
    "number as prompt": ((5, ["a"]), {}, "prompt: expected a text or a list"),
    "mapping as prompt": ((TURN, ["a"]), {}, "prompt: expected a text or a list"),
    "turn without role": (([{"content": "x"}], ["a"]), {}, "prompt: expected a message"),
    "turn as text": ((["x"], ["a"]), {}, "prompt: expected a message"),
    "number as content": (([{"role": "user", "content": 5}], ["a"]), {}, "found 5"),
    "number as tool calls": (([{**TURN, "tool_calls": 5}], ["a"]), {}, "tool_calls"),
    "text as tool calls": (([{**TURN, "tool_calls": "add"}], ["a"]), {}, "tool_calls"),
    "number as name": (([{**TURN, "name": 5}], ["a"]), {}, "name"),
    "no completions": (("x", []), {}, "at least 1 completion"),
    "completions None": (("x", None), {}, "at least 1 completion"),
    "one text as completions": (("x", "a"), {}, "at least 1 completion"),
    "number as completions": (("x", 5), {}, "completion"),
    "mapping as completions": (("x", {"a": "b"}), {}, "completion"),
    "number as completion": (("x", ["a", 5]), {}, "completion 1: expected a text or a list"),
    "None as completion": (("x", [None]), {}, "completion 0: expected a text or a list"),
    "number as reference": (("x", ["a"]), {"reference": 7}, "reference: expected a text"),
    "blank principle": (("x", ["a"]), {"principles": [" "]}, "principle: expected a text"),
    "number as principle": (("x", ["a"]), {"principles": [7]}, "principle: expected a text"),
    "None as principle": (("x", ["a"]), {"principles": [None]}, "principle: expected a text"),
    "one text as principles": (("x", ["a"]), {"principles": "be brief"}, "principles"),
    "number as principles": (("x", ["a"]), {"principles": 5}, "principles"),
}


@pytest.mark.parametrize(
    ("arguments", "options", "message"), BAD_TASKS.values(), ids=BAD_TASKS.keys()
)
def test_what_cannot_be_judged_is_refused_by_name(arguments, options, message):
    with pytest.raises(TaskError, match=message):
        JudgeTask(*arguments, **options)


def test_an_image_is_refused_by_the_name_of_its_part():
    content = [{"type": "text", "text": "see"}, {"type": "image_url", "image_url": {"url": "x"}}]
    with pytest.raises(TaskError, match=r"prompt: .*'image_url'; the judge reads text only"):
        JudgeTask([{"role": "user", "content": content}], ["a"])
    with pytest.raises(TaskError, match=r"completion 1: .*'image_url'"):
        JudgeTask("x", ["a", [{"role": "assistant", "content": content}]])


def test_a_long_value_is_cut_in_the_message():
    with pytest.raises(TaskError) as caught:
        JudgeTask("x", "y" * 1000)
    assert len(str(caught.value)) < 150


messages = st.builds(
    Message,
    role=st.sampled_from(["system", "user", "assistant", "tool"]),
    content=st.text(),
    name=st.none() | st.text(min_size=1),
    tool_calls=st.sampled_from([(), ('{"a": 1}',), ('{"a": 1}', '{"b": [2]}')]),
)


def _has_text(turn):
    return turn.content.strip()


@given(messages)
def test_a_message_survives_the_way_out_and_in(message):
    assert Message.of(message.as_dict()) == message


@given(
    prompt=st.lists(messages, min_size=1).filter(
        lambda turns: any(t.content.strip() for t in turns)
    ),
    completions=st.lists(st.text() | st.lists(messages), min_size=1),
    principles=st.lists(st.text(min_size=1).filter(str.strip)),
    reference=st.none() | st.text(),
)
def test_a_task_survives_the_way_out_and_in(prompt, completions, principles, reference):
    task = JudgeTask(prompt, completions, principles=principles, reference=reference)
    again = JudgeTask(**task.as_dict())
    assert again == task
    assert again.digest() == task.digest()


def test_the_digest_is_the_same_in_every_process():
    task = JudgeTask("Name a prime.", ["7", "8"], reference="2", principles=["be right"])
    golden = "c339262cc6fb8be9387e4d532650fb28f4566087b57e2afc0059d784933ebbf1"
    assert task.digest().hex() == golden


@pytest.mark.parametrize(
    "other",
    [
        JudgeTask("Name two primes.", ["7", "8"]),
        JudgeTask("Name a prime.", ["8", "7"]),
        JudgeTask("Name a prime.", ["7", "8", "9"]),
        JudgeTask("Name a prime.", ["7", "8"], reference="7"),
        JudgeTask("Name a prime.", ["7", "8"], principles=["be right"]),
        JudgeTask([{"role": "system", "content": "Name a prime."}], ["7", "8"]),
        JudgeTask("Name a prime.", ["7", [{"role": "assistant", "content": "8"}]]),
    ],
)
def test_the_digest_tells_tasks_apart(other):
    assert other.digest() != JudgeTask("Name a prime.", ["7", "8"]).digest()


def test_metadata_is_no_part_of_identity():
    plain = JudgeTask("x", ["a"])
    marked = JudgeTask("x", ["a"], metadata={"id": 5})
    assert plain == marked
    assert hash(plain) == hash(marked)
    assert plain.digest() == marked.digest()
    assert "id" not in marked.as_dict()


def test_a_task_keeps_its_own_copy_of_what_came_in():
    completions, metadata = ["a"], {"id": 5}
    task = JudgeTask("x", completions, metadata=metadata)
    completions.append("b")
    metadata["id"] = 6
    assert task.completions == ("a",)
    assert task.metadata == {"id": 5}


def test_a_task_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        JudgeTask("x", ["a"]).reference = "b"


def test_a_task_survives_pickling():
    task = JudgeTask([TURN], ["a", [TURN]], reference="r", principles=["p"], metadata={"id": 1})
    copy = pickle.loads(pickle.dumps(task))
    assert copy == task
    assert copy.metadata == task.metadata
