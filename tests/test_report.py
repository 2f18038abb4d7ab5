"""The HTML report: self-contained, escaped, honest about what failed."""

import json
import re

import pytest

pytest.importorskip("matplotlib", reason="needs the extra `report`")

from judging_helpers import box, reward_model
from typer.testing import CliRunner

from spct_plugin import EngineError, JudgeTask, RewardError, SPCTError
from spct_plugin.cli import app
from spct_plugin.engines import Choice
from spct_plugin.report import Chart, read_groups, write_report
from spct_plugin.report.charts import Series
from spct_plugin.testing import ScriptedEngine

HOSTILE = "<script>alert('&')</script>"


def judged(tmp_path, answer=None, groups=3):
    """Judge a few groups into a store; give its directory."""
    store = tmp_path / "store"
    engine = ScriptedEngine(answer or (lambda request: box(*(4 + i for i in request.order))))
    model = reward_model(engine, vote={"k": 2}, store={"path": str(store)})
    tasks = [JudgeTask(f"Say {i}. {HOSTILE}", ["a", HOSTILE]) for i in range(groups)]
    try:
        model.score_sync(tasks)
    finally:
        model._store.close()
    return store


def page_of(tmp_path, groups, **keywords):
    target = tmp_path / "report.html"
    write_report(groups, target, **keywords)
    return target.read_text()


def test_a_report_shows_curves_rewards_and_judgements(tmp_path):
    groups = read_groups(judged(tmp_path))
    page = page_of(tmp_path, groups, title="A run", summary={"truth": "0.5"})
    assert "<h1>A run</h1>" in page
    assert "<th>truth</th><td>0.5</td>" in page
    assert page.count("<svg") == 3
    assert page.count("<details>") == 6
    assert "Scores: \\boxed{" in page


def test_nothing_is_loaded_from_elsewhere(tmp_path):
    page = page_of(tmp_path, read_groups(judged(tmp_path)))
    assert not re.search(r"(?:src|href)=\"https?:", page)
    assert "<script" not in page


def test_texts_of_prompts_and_completions_are_escaped(tmp_path):
    page = page_of(tmp_path, read_groups(judged(tmp_path)))
    assert "&lt;script&gt;alert(&#39;&amp;&#39;)&lt;/script&gt;" in page


def test_failures_are_counted_and_named(tmp_path):
    answers = iter([EngineError("out of order"), *[Choice(box(3, 4))] * 9])
    groups = read_groups(judged(tmp_path, lambda request: next(answers), groups=1))
    page = page_of(tmp_path, groups)
    assert "<th>engine_error</th>" in page
    assert "engine_error: out of order" in page
    assert "1 of 2" in page


def test_a_reward_that_is_unknown_is_none_and_not_a_number(tmp_path):
    with pytest.raises(RewardError, match="have no usable scores"):
        judged(tmp_path, lambda request: "no box")
    # The step that the breaker stopped stands in the store, to be looked at.
    groups = read_groups(tmp_path / "store")
    page = page_of(tmp_path, groups)
    assert page.count('<span class="failed">none</span>') == 12
    assert "0 of 6" in page


def test_other_charts_come_first(tmp_path):
    chart = Chart("Truth", "by the program", [Series("truth", [0, 1], [0.1, 0.2])])
    page = page_of(tmp_path, read_groups(judged(tmp_path)), charts=[chart])
    headings = re.findall(r"<h2>(\w[^<]*)</h2>", page)
    assert headings[:2] == ["Truth", "Reward"]


def test_the_output_of_judge_can_be_reported_too(tmp_path):
    tasks, out, page = (tmp_path / name for name in ("tasks.jsonl", "out.jsonl", "page.html"))
    tasks.write_text(json.dumps({"id": "a", "prompt": "q", "completions": ["x", "y"]}))
    row = {
        "id": "a",
        "rewards": [1.0, None],
        "means": [1.0, None],
        "judgements": [],
        "version": "v",
    }
    out.write_text(json.dumps(row | {"failures": {}}) + "\n")
    done = CliRunner().invoke(app, ["report", str(out), "-o", str(page)])
    assert done.exit_code == 0, done.output
    assert "<h3>a</h3>" in page.read_text()


ROW = '{"id": "a", "rewards": [1.0], "means": [1.0], "judgements": [], "version": "v"}\n'


def test_a_last_line_that_a_killed_run_left_is_left_out_and_said(spct, tmp_path, caplog):
    (tmp_path / "half.jsonl").write_text(ROW * 2 + ROW[:30])
    code, output, _ = spct("report", "half.jsonl")
    assert (code, output) == (0, "2 groups: report.html\n")
    assert "half.jsonl, line 3: not written to its end; left out" in caplog.text


BAD_LINES = {
    "no JSON": (ROW + '{"id" 5}\n' + ROW, "line 2: not JSON: Expecting ':' delimiter at column 7"),
    "a control character": ('{"a": "\n', "line 1: not JSON: Invalid control character at column 8"),
    "no row": (ROW + '{"id": "a"}', 'line 2: expected a row of `spct judge`, found \'{"id": '),
    "cut, but no row": (ROW + '{"ids": "', "line 2: not JSON: Unterminated string"),
    "no UTF-8": (b"\xff\xfe", "line 1: not UTF-8 at byte 0"),
}


@pytest.mark.parametrize(("content", "problem"), BAD_LINES.values(), ids=BAD_LINES.keys())
def test_a_bad_line_is_named_by_its_place_in_the_file(spct, tmp_path, content, problem):
    content = content if isinstance(content, bytes) else content.encode()
    (tmp_path / "out.jsonl").write_bytes(content)
    code, _, errors = spct("report", "out.jsonl")
    assert (code, errors.count("\n")) == (1, 1)
    assert errors.startswith(f"spct: out.jsonl, {problem}")


@pytest.mark.parametrize("content", ["", "not json", '{"id": "a"}', "[1]"])
def test_what_is_no_run_is_refused_in_one_line(tmp_path, content):
    path = tmp_path / "out.jsonl"
    path.write_text(content)
    with pytest.raises(SPCTError) as raised:
        read_groups(path)
    assert "\n" not in str(raised.value)
    with pytest.raises(SPCTError, match="expected judged groups"):
        read_groups(tmp_path)
    with pytest.raises(SPCTError, match="cannot read"):
        read_groups(tmp_path / "nowhere")
