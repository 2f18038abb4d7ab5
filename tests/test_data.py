"""`spct data`: nothing twice, no prompt on both sides, no leakage, no hint in the position."""

import gzip
import json
import os
import string
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spct_plugin import TaskError
from spct_plugin.data.building import benchmark_grams
from spct_plugin.data.files import read_rows
from spct_plugin.data.filters import duplicate, grams, in_validation, leaked, task_row, words_of
from spct_plugin.data.rows import BadRow, TaskRow, parse_task, read_tasks
from spct_plugin.data.sources import Example, Skip
from spct_plugin.data.sources.builtin import SOURCES

PAIR = {"prompt": "Name a prime.", "chosen": "7", "rejected": "8"}

texts = st.text(st.sampled_from("ab "), min_size=1, max_size=3).filter(str.strip)
examples = st.builds(
    lambda prompt, completions, best: Example(prompt, completions, best % len(completions)),
    texts,
    st.lists(texts, min_size=2, max_size=4, unique=True),
    st.integers(0, 3),
)
prompts = st.lists(st.text(string.ascii_letters, min_size=1, max_size=4), min_size=1, max_size=30)


@given(examples, st.randoms())
def test_a_task_does_not_depend_on_the_order_in_the_set(example, random):
    order = list(range(len(example.completions)))
    random.shuffle(order)
    shuffled = Example(
        example.prompt, [example.completions[i] for i in order], order.index(example.best)
    )
    row = task_row("pairs", example)
    assert task_row("pairs", shuffled) == row
    assert row["completions"][row["label"]] == example.completions[example.best]
    assert parse_task(row) == TaskRow(row["id"], parse_task(row).task, row["label"])


def test_the_position_says_nothing_about_the_label():
    rows = [task_row("pairs", Example(f"Prompt {i}", ["good", "bad"], 0)) for i in range(1000)]
    # 1000 fair coins lie in this range but once in 10^9 times; the hashes never change.
    assert 400 < sum(row["label"] for row in rows) < 600


@given(st.lists(examples, max_size=20))
def test_of_several_equal_tasks_the_first_stays(found):
    rows = [task_row("pairs", example) for example in found]
    seen = {}
    reasons = [duplicate(seen, row) for row in rows]
    content = [(row["prompt"], tuple(row["completions"])) for row in rows]
    first: dict[object, int] = {}
    for row, key, reason in zip(rows, content, reasons, strict=True):
        known, label = key in first, first.setdefault(key, row["label"])
        same = "duplicate" if label == row["label"] else "duplicate with another label"
        assert reason == (same if known else None)
    assert reasons.count(None) == len(set(content)) == len({row["id"] for row in rows})


@given(prompts, st.floats(0, 1), st.floats(0, 1))
def test_the_side_depends_on_the_words_of_the_prompt(words, low, high):
    low, high = sorted((low, high))
    prompt = " ".join(words)
    side = in_validation(prompt, low)
    assert in_validation(prompt.upper().replace(" ", "\n  "), low) == in_validation(
        prompt.upper(), low
    )
    assert in_validation(prompt.lower(), low) == in_validation(prompt.lower().title(), low)
    assert in_validation([{"role": "user", "content": prompt}], low) == side
    assert not side or in_validation(prompt, high)
    assert not in_validation(prompt, 0)
    assert in_validation(prompt, 1)


def test_the_split_has_the_size_asked_for():
    held = sum(in_validation(f"Prompt {number}", 0.2) for number in range(2000))
    assert 300 < held < 500


@given(prompts, prompts, st.integers(1, 20), st.integers(0, 20))
def test_leakage_is_thirteen_words_in_a_row(own, others, length, start):
    shared = [f"shared{i}" for i in range(length)]
    own = [word + "_own" for word in own]
    others = [word + "_other" for word in others]
    prompt = " ".join(own[:start] + shared + own[start:])
    bench = {"bench": grams(words_of(" ".join([*others, *shared, *others])))}
    reason = leaked(prompt.upper(), bench)
    assert (reason is not None) == (length >= 13)
    assert reason in (None, "leakage: prompt overlaps with bench")


@pytest.mark.parametrize(
    ("prompt", "reason"),
    [
        ("Divide 45 by 9!", "leakage: prompt overlaps with bench"),
        ("Divide 45 by 9, then add 1.", None),
        ([{"role": "user", "content": "divide 45 by  9"}], "leakage: prompt overlaps with bench"),
        ("?!", None),
    ],
)
def test_a_short_prompt_leaks_when_it_is_the_whole_prompt(prompt, reason):
    assert leaked(prompt, {"bench": grams(words_of("Divide 45 by 9"))}) == reason


def test_a_system_turn_is_no_leakage_and_does_not_move_a_prompt():
    system = {"role": "system", "content": "a b c d e f g h i j k l m n"}
    asked = {"role": "user", "content": "Name a prime."}
    assert leaked([system, asked], {"bench": grams(words_of(system["content"]))}) is None
    assert words_of([system, asked]) == ["name", "a", "prime"]


def test_rows_that_cannot_be_labelled_are_skipped():
    assert task_row("pairs", Example("p", ["a", " "], 0)) == Skip("empty completion")
    assert task_row("pairs", Example("p", ["a", "a", "b"], 0)) == Skip("same completion twice")
    assert task_row("verifiable", Example("p", ["a"], 0))["label"] == 0
    with pytest.raises(TaskError, match="a prompt with text"):
        task_row("pairs", Example(" ", ["a", "b"], 0))


def test_metadata_cannot_overwrite_a_task():
    row = task_row("pairs", Example("p", ["a", "b"], 0, {"id": 1, "label": 9, "dataset": "x"}, "r"))
    assert (row["dataset"], row["reference"], row["label"] in (0, 1)) == ("pairs", "r", True)


LINES = json.dumps(PAIR) + "\n\n" + json.dumps({**PAIR, "prompt": "Name another."}) + "\n"


@pytest.fixture
def written(tmp_path):
    """Write the same two rows in every form there is."""
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    rows = [json.loads(line) for line in LINES.splitlines() if line]
    (tmp_path / "rows.jsonl").write_text(LINES)
    (tmp_path / "rows.jsonl.gz").write_bytes(gzip.compress(LINES.encode()))
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "rows.parquet")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/train.jsonl").write_text(LINES.replace("\n\n", "\n"))
    return tmp_path


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.gz", "rows.json", "rows.parquet"])
def test_every_kind_of_file_gives_the_same_rows(written, name):
    found = list(read_rows(str(written / name)))
    assert [row["prompt"] for _, row in found] == ["Name a prime.", "Name another."]
    assert [number for number, _ in found] == ([1, 3] if "jsonl" in name else [1, 2])


def test_a_folder_and_a_hub_id_go_through_datasets(written, monkeypatch):
    pytest.importorskip("datasets")
    found = list(read_rows(str(written / "folder"), "train"))
    assert found[0] == (1, PAIR)
    with pytest.raises(TaskError, match="cannot read"):
        list(read_rows(str(written / "folder"), "test"))
    with pytest.raises(TaskError, match="cannot read 'nobody/nothing'"):
        list(read_rows("nobody/nothing"))


def test_a_subset_is_a_configuration_or_a_folder(monkeypatch):
    datasets = pytest.importorskip("datasets")
    asked = []
    monkeypatch.setattr(datasets, "load_dataset", lambda *a, **k: asked.append((a, k)) or [])
    for path in ("nvidia/HelpSteer3:preference", "nvidia/HelpSteer2:preference/", "a/b"):
        assert list(read_rows(path, "val")) == []
    common = {"split": "val", "streaming": True}
    assert asked == [
        (("nvidia/HelpSteer3",), {"name": "preference", **common}),
        (("nvidia/HelpSteer2",), {"data_dir": "preference", **common}),
        (("a/b",), common),
    ]


@pytest.mark.parametrize(("path", "module"), [("x.parquet", "pyarrow"), ("a/b", "datasets")])
def test_a_missing_library_is_named_with_the_extra(monkeypatch, path, module):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(TaskError, match=rf"needs {module}: install spct-plugin\[trl\]"):
        list(read_rows(path))


BROKEN = {
    "gone.jsonl": (None, "No such file"),
    "cut.jsonl.gz": (gzip.compress(LINES.encode() * 99)[:-20], "ended before"),
    "plain.jsonl.gz": (LINES.encode(), "Not a gzipped file"),
    "bad.parquet": (b"PAR1 not", "cannot read"),
    "bad.json": (b"{", "cannot read"),
    "object.json": (b"{}", "expected a list of objects, found {}"),
    "rows.csv": (b"a,b", "expected a .jsonl"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_file_that_cannot_be_read_is_one_line(tmp_path, name):
    data, message = BROKEN[name]
    if data is not None:
        (tmp_path / name).write_bytes(data)
    with pytest.raises(TaskError, match=message) as caught:
        list(read_rows(str(tmp_path / name)))
    assert "\n" not in str(caught.value)
    assert name in str(caught.value)


def test_a_line_that_is_no_row_is_named_and_the_rest_goes_on(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"a": 1}\n{\n[]\n\xff\n' + b"[" * 100_000 + b'\n{"a": 2}\n')
    found = list(read_rows(str(path)))
    assert [one for one in found if not isinstance(one, BadRow)] == [(1, {"a": 1}), (6, {"a": 2})]
    assert [one.line for one in found if isinstance(one, BadRow)] == [2, 3, 4, 5]


def test_a_set_in_another_encoding_has_no_row_that_can_be_read(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(LINES.strip().replace("\n\n", "\n").encode("utf-16-be"))
    found = list(read_rows(str(path)))
    assert [type(one) for one in found] == [BadRow, BadRow]


def write(path, *rows):
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return path


@pytest.fixture
def many(tmp_path):
    """Write 100 pairs, the same prompt three times and with three completions."""
    return write(
        tmp_path / "many.jsonl",
        *({"prompt": f"Ask {i // 3}.", "chosen": f"{i}", "rejected": "no"} for i in range(100)),
    )


def tasks(path="tasks.jsonl"):
    return list(read_tasks(Path(path)))


def test_the_split_never_tears_a_prompt_apart(spct, many):
    split = ("--validation", 0.3, "--validation-file", "held.jsonl")
    code, _, errors = spct("data", "pairs", many, "-o", "tasks.jsonl", *split)
    assert (code, errors) == (0, "")
    train, held = (
        {row.task.prompt for row in tasks(name)} for name in ("tasks.jsonl", "held.jsonl")
    )
    assert train
    assert held
    assert not train & held
    assert len(tasks()) + len(tasks("held.jsonl")) == 100
    first = Path("tasks.jsonl").read_text()
    spct("data", "pairs", many, "-o", "tasks.jsonl", *split)
    assert Path("tasks.jsonl").read_text() == first


def test_the_table_says_where_every_row_went(spct, tmp_path):
    rows = write(
        tmp_path / "rows.jsonl",
        PAIR,
        PAIR,
        {**PAIR, "chosen": "8", "rejected": "7"},
        {**PAIR, "score_chosen": 1, "score_rejected": 1},
        {**PAIR, "prompt": "Divide 45 by 9."},
        {**PAIR, "prompt": "Name another."},
        {"prompt": "x"},
        "{",
    )
    bench = write(
        tmp_path / "bench.jsonl", {"id": 1, "prompt": "divide 45 by 9", "completions": ["5"]}
    )
    command = ("data", "pairs", rows, "-o", "tasks.jsonl", "--leakage", bench)
    code, output, errors = spct(*command, "--json")
    assert code == 1
    assert errors.splitlines() == [
        f"spct: {rows}, line 7: chosen: expected a text or a list of messages, found None",
        f"spct: {rows}, line 8: not JSON: Expecting property name enclosed in double quotes at "
        "column 1",
    ]
    assert json.loads(output) == {
        "rows": 8,
        "bad": 2,
        "dropped": {
            "duplicate": 1,
            "duplicate with another label": 1,
            "tie: no unique best": 1,
            f"leakage: prompt overlaps with {bench}": 1,
        },
        "written": {"tasks.jsonl": 2},
    }
    code, output, _ = spct(*command)
    assert code == 1
    table = [line.split("│")[1:3] for line in output.splitlines() if "│" in line]
    assert ["rows read", "8"] in [[cell.strip() for cell in line] for line in table]
    assert ["left out, tie: no unique best", "1"] in [[c.strip() for c in line] for line in table]


def test_rows_of_one_problem_count_together(spct, tmp_path):
    rows = [
        {"problem": "p", "eval_solution": [str(i)], "solution_type": kind, "problem_id": item}
        for item, kinds in enumerate((("chosen", "rejected"), ("chosen", "chosen", "rejected")))
        for i, kind in enumerate(kinds)
    ]
    path = write(tmp_path / "rows.jsonl", *rows)
    code, output, errors = spct("data", "rewardmath", path, "-o", "tasks.jsonl", "--json")
    assert code == 1
    assert "line 3: expected 1 chosen" in errors
    assert (json.loads(output)["rows"], json.loads(output)["bad"]) == (5, 3)
    assert len(tasks()) == 1


def test_only_the_first_malformed_rows_are_named(spct, tmp_path):
    path = write(tmp_path / "rows.jsonl", PAIR, *["{}"] * 50)
    code, output, errors = spct("data", "pairs", path, "-o", "tasks.jsonl", "--json")
    assert (code, json.loads(output)["bad"]) == (1, 50)
    assert errors.count("\n") == 20
    assert errors.endswith("; more are only counted\n")


def test_when_nothing_is_left_the_reason_is_said_and_the_old_file_stays(spct, tmp_path):
    path = write(tmp_path / "rows.jsonl", {**PAIR, "score_chosen": 1, "score_rejected": 1})
    write(tmp_path / "tasks.jsonl", "old")
    code, output, errors = spct("data", "pairs", path, "-o", "tasks.jsonl")
    assert (code, output) == (1, "")
    assert errors == (
        "spct: no task is left for 'tasks.jsonl': 1 rows read; 0 malformed; "
        "tie: no unique best: 1; tasks.jsonl: 0\n"
    )
    assert Path("tasks.jsonl").read_text() == "old\n"
    assert sorted(os.listdir(tmp_path)) == ["rows.jsonl", "tasks.jsonl"]


MISTAKES = {
    "no such source": (2, ["helpsteer", "rows.jsonl", "-o", "t.jsonl"], "SOURCE: expected one of"),
    "no such file": (1, ["pairs", "no.jsonl", "-o", "t.jsonl"], "cannot read 'no.jsonl': No such"),
    "no file at all": (1, ["pairs", "rows", "-o", "t.jsonl"], "expected a .jsonl, .jsonl.gz"),
    "no such folder": (1, ["pairs", "rows.jsonl", "-o", "no/t.jsonl"], "cannot write 'no/t.jsonl'"),
    "a file as folder": (1, ["pairs", "rows.jsonl", "-o", "rows.jsonl/t"], "cannot write 'rows"),
    "a folder as output": (1, ["pairs", "rows.jsonl", "-o", "."], "cannot write '.'"),
    "input as output": (1, ["pairs", "rows.jsonl", "-o", "./rows.jsonl"], "another file"),
    "one output twice": (
        1,
        ["pairs", "rows.jsonl", "-o", "t", "--validation", "0.5", "--validation-file", "t"],
        "expected another file to write to, found 't' twice",
    ),
    "validation without a file": (
        2,
        ["pairs", "rows.jsonl", "-o", "t.jsonl", "--validation", "0.5"],
        "expected --validation FRACTION and --validation-file together",
    ),
    "benchmark gone": (
        1,
        ["pairs", "rows.jsonl", "-o", "t", "--leakage", "no"],
        "cannot read 'no'",
    ),
    "benchmark that is no task file": (
        1,
        ["pairs", "rows.jsonl", "-o", "t", "--leakage", "rows.jsonl"],
        "rows.jsonl, line 1: expected the keys id, prompt, completions",
    ),
    "empty benchmark": (
        1,
        ["pairs", "rows.jsonl", "-o", "t", "--leakage", "empty.jsonl"],
        "empty.jsonl: expected tasks with words in their prompts, found none",
    ),
}


@pytest.mark.parametrize(("code", "command", "message"), MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_is_one_line_and_an_exit_code(spct, tmp_path, code, command, message):
    write(tmp_path / "rows.jsonl", PAIR)
    write(tmp_path / "empty.jsonl")
    found, output, errors = spct("data", *command)
    assert (found, output) == (code, "")
    assert errors.startswith("spct: ")
    assert errors.count("\n") == 1
    assert message in errors
    assert sorted(os.listdir(tmp_path)) == ["empty.jsonl", "rows.jsonl"]


def test_a_benchmark_is_read_from_what_spct_data_writes(spct, tmp_path):
    path = write(tmp_path / "rows.jsonl", PAIR)
    spct("data", "pairs", path, "-o", "tasks.jsonl")
    assert benchmark_grams(tmp_path / "tasks.jsonl") == {"name a prime"}


PAGE = Path(__file__).parents[1] / "docs/data.md"


def test_the_example_of_the_page_is_what_comes_out(spct, tmp_path):
    row, task = PAGE.read_text().split("```json\n")[1].split("\n```")[0].splitlines()
    write(tmp_path / "rows.jsonl", row)
    spct("data", "pairs", "rows.jsonl", "-o", "tasks.jsonl")
    assert Path("tasks.jsonl").read_text() == task + "\n"


def test_the_page_names_every_source():
    for name in SOURCES:
        assert f"`{name}`" in PAGE.read_text()
