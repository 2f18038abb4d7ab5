"""Task files: every line is a task or a named mistake; one bad line stops nothing."""

import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spct_plugin import JudgeTask, TaskError
from spct_plugin.data.rows import BadRow, TaskRow, parse_task, read_tasks

ROW = {"id": "a", "prompt": "Name a prime.", "completions": ["7", "8"]}


@pytest.fixture
def file(tmp_path):
    def write(*lines):
        path = tmp_path / "tasks.jsonl"
        data = [
            line
            if isinstance(line, bytes)
            else (line if isinstance(line, str) else json.dumps(line)).encode()
            for line in lines
        ]
        path.write_bytes(b"\n".join(data) + b"\n")
        return path

    return write


def test_a_row_becomes_a_task():
    row = parse_task(
        {**ROW, "reference": "2", "principles": ["be right"], "label": 1, "source": "s"}
    )
    assert row == TaskRow(
        "a", JudgeTask("Name a prime.", ["7", "8"], reference="2", principles=["be right"]), 1
    )
    assert row.task.metadata == {"source": "s", "label": 1}


def test_an_id_may_be_a_number_and_optional_keys_may_be_null():
    row = parse_task({**ROW, "id": 7, "reference": None, "principles": None, "label": None})
    assert (row.id, row.label, row.task.reference, row.task.principles) == ("7", None, None, ())


@pytest.mark.parametrize(
    ("label", "completions"), [(0, ["a"]), (1, ["a"]), (0, ["a", "b"]), (2, ["a", "b", "c"])]
)
def test_labels_in_range(label, completions):
    assert parse_task({**ROW, "completions": completions, "label": label}).label == label


BAD_ROWS = {
    "a list": ([], "expected an object with id, prompt, completions, found []"),
    "a text": ("x", "found 'x'"),
    "null": (None, "found None"),
    "nothing": ({}, "missing: id, prompt, completions"),
    "no id": ({"prompt": "p", "completions": ["a"]}, "missing: id"),
    "empty id": ({**ROW, "id": ""}, "id: expected a text or a whole number, found ''"),
    "null id": ({**ROW, "id": None}, "id: expected"),
    "boolean id": ({**ROW, "id": True}, "id: expected"),
    "half id": ({**ROW, "id": 1.5}, "id: expected"),
    "list id": ({**ROW, "id": ["a"]}, "id: expected"),
    "empty prompt": ({**ROW, "prompt": ""}, "expected a prompt with text"),
    "null prompt": ({**ROW, "prompt": None}, "prompt: expected a text or a list"),
    "number prompt": ({**ROW, "prompt": 5}, "prompt: expected a text or a list"),
    "no completions": ({**ROW, "completions": []}, "at least 1 completion"),
    "null completions": ({**ROW, "completions": None}, "at least 1 completion"),
    "text completions": ({**ROW, "completions": "a"}, "at least 1 completion"),
    "number completions": ({**ROW, "completions": 5}, "completion"),
    "true completions": ({**ROW, "completions": True}, "completion"),
    "object completions": ({**ROW, "completions": {"a": "b"}}, "completion"),
    "null completion": ({**ROW, "completions": [None]}, "completion 0"),
    "image": (
        {**ROW, "completions": [[{"role": "assistant", "content": [{"type": "image"}]}]]},
        "completion 0: .*'image'",
    ),
    "text principles": ({**ROW, "principles": "be brief"}, "principles"),
    "number principles": ({**ROW, "principles": 5}, "principles"),
    "number reference": ({**ROW, "reference": 5}, "reference: expected a text"),
    "label too large": ({**ROW, "label": 2}, "best of 2 completions, 0 to 1, found 2"),
    "negative label": ({**ROW, "label": -1}, "label: expected"),
    "text label": ({**ROW, "label": "a"}, "label: expected"),
    "boolean label": ({**ROW, "label": True}, "label: expected"),
    "half label": ({**ROW, "label": 0.5}, "label: expected"),
    "label of one alone": (
        {**ROW, "completions": ["a"], "label": 2},
        r"label: expected 1 \(correct\) or 0 for a completion alone, found 2",
    ),
    "number tool calls": (
        {**ROW, "prompt": [{"role": "user", "content": "x", "tool_calls": 5}]},
        "tool_calls",
    ),
}


@pytest.mark.parametrize(("row", "message"), BAD_ROWS.values(), ids=BAD_ROWS.keys())
def test_a_row_that_is_no_task_is_refused_by_the_key(row, message):
    with pytest.raises(TaskError, match=message.replace("[]", r"\[\]")) as caught:
        parse_task(row)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("row", "message"), BAD_ROWS.values(), ids=BAD_ROWS.keys())
def test_a_bad_row_stops_no_other(file, row, message):
    first, bad, last = read_tasks(file(ROW, row, {**ROW, "id": "b"}))
    assert (first.id, last.id) == ("a", "b")
    assert isinstance(bad, BadRow)
    assert bad.line == 2


BAD_LINES = {
    "no JSON": ("{", "not JSON: .* at column"),
    "cut": ('{"id": "a", "prompt', "not JSON: "),
    "two objects": ("{} {}", "not JSON: Extra data"),
    "no UTF-8": (b'{"id": "\xff"}', "not UTF-8 at byte 8"),
    "UTF-16": ('{"id": "b"}'.encode("utf-16"), "not "),
    "nested deeply": ("[" * 100_000, "nested too deeply"),
    "a huge number": ('{"id": ' + "9" * 5000 + "}", "4300|digits"),
    "an id seen before": (ROW, "id: 'a' stands in an earlier line too"),
    "an id seen before as a number": ({**ROW, "id": 1}, None),
}


@pytest.mark.parametrize(("line", "message"), BAD_LINES.values(), ids=BAD_LINES.keys())
def test_a_bad_line_is_named_by_its_number(file, line, message):
    rows = list(read_tasks(file(ROW, "", "  ", line, {**ROW, "id": "z"})))
    assert (rows[0].id, rows[-1].id) == ("a", "z")
    bad = [row for row in rows if isinstance(row, BadRow)]
    if message is None:
        assert not bad
        return
    assert bad[0].line == 4
    assert re.search(message, bad[0].problem)
    assert len(bad[0].problem) < 200


def test_a_number_and_its_text_are_the_same_id(file):
    one, two = read_tasks(file({**ROW, "id": 1}, {**ROW, "id": "1"}))
    assert one.id == "1"
    assert "stands in an earlier line" in two.problem


def test_a_byte_order_mark_and_windows_line_ends_are_no_problem(tmp_path):
    path = tmp_path / "tasks.jsonl"
    lines = [json.dumps({**ROW, "id": name}) for name in "ab"]
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode())
    assert [row.id for row in read_tasks(path)] == ["a", "b"]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_another_encoding_is_a_bad_line_each_time(tmp_path, encoding):
    path = tmp_path / "tasks.jsonl"
    lines = [json.dumps({**ROW, "id": name}) for name in "abc"]
    # Without a line end, the last line is whole in this encoding, too.
    path.write_bytes("\n".join(lines).encode(encoding))
    found = list(read_tasks(path))
    assert [row.line for row in found if isinstance(row, BadRow)] == [1, 2, 3]
    assert all(row.problem.startswith("not ") for row in found)


def test_text_of_any_language_and_line_separators_inside_a_text(file):
    completions = ["日本\u2028語", "a\nb\x85c"]
    line = json.dumps({**ROW, "completions": completions}, ensure_ascii=False)
    [row] = read_tasks(file(line))
    assert list(row.task.completions) == completions


def test_a_file_that_cannot_be_read_is_one_error(tmp_path):
    with pytest.raises(TaskError, match=r"cannot read .*missing\.jsonl': No such file"):
        list(read_tasks(tmp_path / "missing.jsonl"))
    with pytest.raises(TaskError, match="cannot read"):
        list(read_tasks(tmp_path))


def test_an_empty_file_has_no_tasks(file):
    assert list(read_tasks(file())) == []


def test_reading_is_lazy(file):
    rows = read_tasks(file(ROW, "{", ROW))
    assert next(rows).id == "a"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["role", "content", "type", "text"]), inner)
    ),
    max_leaves=6,
)


@settings(max_examples=200)
@given(
    st.dictionaries(
        st.sampled_from(["id", "prompt", "completions", "reference", "principles", "label", "x"]),
        json_values,
    ),
    st.booleans(),
)
def test_any_object_is_a_task_or_a_task_error(changes, whole):
    try:
        row = parse_task({**ROW, **changes} if whole else changes)
    except TaskError:
        return
    assert row.id
    assert len(row.task.completions) >= 1
    assert len(row.task.digest()) == 32
