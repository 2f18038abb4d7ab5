"""Judging a file: rewards in order, resumed after any interruption, nothing judged twice."""

import asyncio
import json
import os
import shutil

import pytest
from judging_helpers import Engine, by_content, reward_model, said

from spct_plugin import EngineError, RewardModel, SPCTConfig, TaskError
from spct_plugin.data.judging import count_finished, count_lines, judge_file
from spct_plugin.data.rows import BadRow
from spct_plugin.engines import Choice
from spct_plugin.engines.replay import ReplayEngine
from spct_plugin.errors import ConfigError
from spct_plugin.testing import ScriptedEngine


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "tasks.jsonl"
    rows = [
        {"id": f"t{i}", "prompt": "Count.", "completions": ["say 1", f"say {i + 2}"], "label": 1}
        for i in range(5)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def target(tmp_path):
    return tmp_path / "rewards.jsonl"


def model(script=None, **sections):
    return reward_model(ScriptedEngine(script or by_content(said)), vote={"k": 2}, **sections)


def run(model, source, target, advance=lambda row: None, **options):
    work = judge_file(model, source, target, lambda row, _: advance(row), **options)
    return asyncio.run(work)


def rows(target):
    return [json.loads(line) for line in target.read_text(encoding="utf-8").splitlines()]


def test_every_row_gets_its_rewards_in_order(source, target):
    seen = []
    judge = model()
    summary = run(judge, source, target, seen.append)
    assert [row["id"] for row in rows(target)] == ["t0", "t1", "t2", "t3", "t4"]
    assert [row["rewards"] for row in rows(target)] == [[1, i + 2] for i in range(5)]
    assert [row.id for row in seen] == ["t0", "t1", "t2", "t3", "t4"]
    assert (summary.rows, summary.resumed, summary.judgements) == (5, 0, 10)
    assert (summary.bad, summary.unrewarded, summary.lost) == ([], 0, 0)


def test_a_row_says_all_about_its_judgements(source, target):
    judge = model()
    run(judge, source, target)
    row = rows(target)[3]
    assert (row["label"], row["k"], row["k_used"], row["failures"]) == (1, 2, 2, {})
    assert (row["means"], row["version"]) == ([1, 5], judge.version)
    assert len(bytes.fromhex(row["task"])) == 32
    assert [j["vote"] for j in row["judgements"]] == [0, 1]
    for judgement in row["judgements"]:
        assert judgement["scores"] == [1, 5]
        assert judgement["indices"] == [0, 1]
        assert sorted(judgement["order"]) == [0, 1]
        assert "\\boxed{" in judgement["text"]
        assert (judgement["finish_reason"], judgement["failure"]) == ("stop", None)


def test_unknown_rewards_are_null(source, target):
    summary = run(model(["?"]), source, target)
    assert rows(target)[0]["rewards"] == [None, None]
    assert rows(target)[0]["failures"] == {"no_scores": 2}
    assert (summary.unrewarded, summary.lost, summary.failures["no_scores"]) == (10, 0, 10)


def test_a_second_run_judges_nothing_again(source, target):
    run(model(), source, target)
    before = target.read_bytes()
    judge = model(["must not be asked"])
    seen = []
    summary = run(judge, source, target, seen.append)
    assert target.read_bytes() == before
    assert (summary.rows, summary.resumed, len(seen)) == (0, 5, 5)


@pytest.mark.parametrize("cut", [1, 0.3, 0.5, 0.99])
def test_a_run_that_was_killed_goes_on_where_it_was(source, target, cut):
    run(model(), source, target)
    whole = target.read_bytes()
    target.write_bytes(whole[: int(len(whole) * cut) if cut < 1 else -1])
    summary = run(model(), source, target)
    assert sorted(row["id"] for row in rows(target)) == ["t0", "t1", "t2", "t3", "t4"]
    assert summary.rows + summary.resumed == 5
    assert summary.rows >= 1
    assert not target.with_name("rewards.jsonl.resume").exists()


def test_a_row_whose_label_changed_is_not_resumed(source, target):
    run(model(), source, target)
    source.write_text(source.read_text().replace('"label": 1', '"label": 0'))
    with pytest.raises(TaskError, match="was judged with another label"):
        run(model(), source, target, learnt_from=True)
    assert run(model(), source, target).resumed == 5


def test_new_rows_are_added_to_what_is_there(source, target):
    run(model(), source, target)
    with source.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"id": "new", "prompt": "x", "completions": ["say 9"]}) + "\n")
    summary = run(model(), source, target)
    assert (summary.rows, summary.resumed) == (1, 5)
    assert rows(target)[-1]["rewards"] == [9]


def test_rows_lost_to_infrastructure_are_judged_again_and_others_not(source, target):
    def script(request):
        lost = "say 3\n" in request.prompt and request.votes[0] == 0
        return EngineError("down") if lost else by_content(said)(request)

    summary = run(model(script), source, target)
    assert (summary.lost, summary.failures["engine_error"]) == (1, 1)
    assert (count_lines(target), count_finished(target)) == (5, 4)
    again = run(model(), source, target)
    assert (again.rows, again.resumed, again.lost) == (1, 4, 0)
    assert {row["id"]: row["rewards"] for row in rows(target)} == {
        f"t{i}": [1, i + 2] for i in range(5)
    }


def test_rows_that_are_too_long_or_out_of_form_are_not_judged_again(source, target):
    answers = [EngineError("long", failure="too_long"), "no box"]
    run(model(answers), source, target)
    summary = run(model(), source, target)
    assert (summary.rows, summary.resumed) == (0, 5)


def test_an_output_of_another_configuration_is_left_alone(source, target):
    run(model(), source, target)
    before = target.read_bytes()
    with pytest.raises(TaskError, match="written with another configuration"):
        run(model(sampling={"seed": 1}), source, target)
    assert target.read_bytes() == before


DIFFERENCES = {
    "settings": (
        "{engine}|default|0|",
        "other settings that change votes or rewards, such as vote.k",
    ),
    "judge": ("other@1|default|0", "judge 'other@1', now 'scripted';"),
    "template": ("{engine}|single|0", "template 'single', now 'default';"),
    "meta RM": ("{engine}|default|0|tiny@1", "meta RM 'tiny@1', now 'none';"),
    "no version": ("?", "judge '?', now 'scripted', template 'none', now 'default';"),
}


@pytest.mark.parametrize(("before", "said"), DIFFERENCES.values(), ids=DIFFERENCES.keys())
def test_what_differs_in_an_output_of_another_configuration_is_said(source, target, before, said):
    judge = model()
    run(judge, source, target)
    before = before.format(engine="scripted").removesuffix("|")
    target.write_text(target.read_text().replace(judge.version, before))
    with pytest.raises(TaskError, match="another configuration: ") as raised:
        run(model(), source, target)
    assert said in str(raised.value)


def test_the_file_of_tasks_is_never_the_file_of_rewards(source):
    before = source.read_bytes()
    with pytest.raises(TaskError, match=r"tasks\.jsonl"):
        run(model(), source, source)
    assert source.read_bytes() == before


@pytest.mark.parametrize(
    "content",
    [
        "not rewards at all\n",
        '{"id": "t0", "chosen": "a", "rejected": "b"}\n',
        "[1, 2]\n{}\n",
        '{"version": "v", "failures": {}}\n',
    ],
)
def test_a_file_that_holds_something_else_is_left_alone(source, target, content):
    target.write_text(content, encoding="utf-8")
    with pytest.raises(TaskError, match=r"rewards\.jsonl"):
        run(model(), source, target)
    assert target.read_text(encoding="utf-8") == content


def test_bad_lines_are_reported_and_the_others_judged(source, target):
    lines = source.read_text(encoding="utf-8").splitlines(keepends=True)
    source.write_text("{\n" + "".join(lines[:2]) + lines[0] + "[]\n", encoding="utf-8")
    seen = []
    summary = run(model(), source, target, seen.append)
    assert [bad.line for bad in summary.bad] == [1, 4, 5]
    assert [type(row) is BadRow for row in seen].count(True) == 3
    assert [row["id"] for row in rows(target)] == ["t0", "t1"]


def test_of_a_file_in_another_encoding_nothing_is_judged(source, target):
    source.write_bytes(source.read_text().strip().encode("utf-16-be"))
    summary = run(model(), source, target)
    assert [bad.line for bad in summary.bad] == [1, 2, 3, 4, 5]
    assert rows(target) == []


def test_a_source_that_is_not_there_is_an_error_and_leaves_no_output(tmp_path, target):
    with pytest.raises(TaskError, match="cannot read"):
        run(model(), tmp_path / "missing.jsonl", target)
    assert not target.exists()


def test_an_output_that_cannot_be_written_is_an_error(source, tmp_path):
    for target in (tmp_path / "no" / "folder.jsonl", tmp_path):
        with pytest.raises(TaskError, match=str(target)):
            run(model(), source, target)


def test_rows_are_written_as_soon_as_they_are_judged(source, target):
    written = []

    async def judge():
        async def score(request):
            await asyncio.sleep(0)
            return [by_content(said)(request)] * len(request.votes)

        judge = reward_model(Engine(score), vote={"k": 1})
        await judge_file(judge, source, target, lambda row, _: written.append(len(rows(target))))

    asyncio.run(judge())
    assert written == [1, 2, 3, 4, 5]


TASK = '{"id": "mine", "prompt": "precious", "completions": ["x"]}'


@pytest.mark.parametrize("content", ['{"my": "only copy"}', "a note", TASK, '{"id"', "\n"])
def test_what_somebody_else_wrote_is_left_as_it_is(source, target, content):
    target.write_text(content)
    if content == '{"id"':
        assert run(model(), source, target).rows == 5
        return
    with pytest.raises(TaskError, match="holds something else"):
        run(model(), source, target)
    assert target.read_text() == content


@pytest.mark.parametrize("length", [1, 9, 12, 20, 60])
def test_a_row_that_was_cut_anywhere_is_judged_anew(source, target, length):
    run(model(), source, target)
    lines = target.read_text().splitlines(keepends=True)
    target.write_text("".join(lines[:4]) + lines[4][:length])
    summary = run(model(), source, target)
    assert (summary.rows, summary.resumed) == (1, 4)
    assert target.read_text() == "".join(lines)


def test_two_runs_cannot_write_one_file(source, target):
    with pytest.raises(TaskError, match="another run is writing"):
        asyncio.run(_judge_twice(model(), source, target))


async def _judge_twice(judge, source, target):
    await asyncio.gather(
        *(judge_file(judge, source, target, lambda row, _: None) for _ in range(2)),
    )


def test_a_link_stays_a_link(source, target):
    target.symlink_to(target.with_name("real.jsonl"))
    for _ in range(2):
        run(model(), source, target)
    assert target.is_symlink()
    assert len(rows(target)) == 5


def test_what_is_no_file_is_not_written_to(source, target):
    os.mkfifo(target)
    with pytest.raises(TaskError, match="expected a file to write to"):
        run(model(), source, target)


def test_the_first_failure_of_a_kind_says_why(source, target):
    summary = run(model([EngineError("http://x answered 401")]), source, target)
    assert summary.details == {"engine_error": "http://x answered 401"}


def test_a_mistake_half_way_keeps_what_was_judged(source, target):
    def script(request):
        return KeyError("bug") if "say 4\n" in request.prompt else by_content(said)(request)

    with pytest.raises(KeyError, match="bug"):
        run(model(script), source, target)
    assert [row["id"] for row in rows(target)] == ["t0", "t1"]
    assert run(model(), source, target).resumed == 2


def test_lines_are_counted_for_a_progress_bar(source, tmp_path):
    assert count_lines(source) == 5
    assert count_lines(tmp_path / "missing") == 0


def replayed(recording, **sections):
    config = {"template": {"name": "default"}, "vote": {"k": 2}, **sections}
    config["engine"] = {"kind": "replay", "path": str(recording)}
    return RewardModel(SPCTConfig.model_validate(config))


def test_a_recording_replays_what_was_judged(source, target, tmp_path):
    run(model(), source, target)
    again = tmp_path / "again.jsonl"
    run(replayed(target), source, again)
    assert [row["rewards"] for row in rows(again)] == [row["rewards"] for row in rows(target)]
    assert [row["judgements"] for row in rows(again)] == [row["judgements"] for row in rows(target)]


def test_a_recording_replays_fewer_votes_but_not_more(source, target, tmp_path):
    run(model(), source, target)
    run(replayed(target, vote={"k": 1}), source, tmp_path / "one.jsonl")
    assert [row["k_used"] for row in rows(tmp_path / "one.jsonl")] == [1] * 5
    summary = run(replayed(target, vote={"k": 3}), source, tmp_path / "three.jsonl")
    assert (summary.failures["engine_error"], summary.lost) == (5, 5)
    detail = rows(tmp_path / "three.jsonl")[0]["judgements"][2]["detail"]
    assert "the recording has no vote 2 of this task in order" in detail


def test_a_recording_replays_failures_of_the_judge(source, target, tmp_path):
    run(model(["no box"]), source, target)
    summary = run(replayed(target), source, tmp_path / "again.jsonl")
    assert summary.failures == {"no_scores": 10}


def test_a_recording_replays_answers_without_a_finish_reason(source, target, tmp_path):
    async def no_reason(request):
        return [Choice(by_content(said)(request), None)] * len(request.votes)

    run(reward_model(Engine(no_reason), vote={"k": 2}), source, target)
    summary = run(replayed(target), source, tmp_path / "again.jsonl")
    assert summary.failures == {}


BAD_RECORDINGS = {
    "no JSON": b"{",
    "a task": b'{"id": "a", "prompt": "x", "completions": ["a"]}\n',
    "a list": b"[]\n",
    "judgements of no use": b'{"task": "00", "judgements": [{}]}\n',
    "order of no use": (
        b'{"task": "00", "judgements": [{"order": 5, "vote": 0, "finish_reason": "stop"}]}\n'
    ),
    "no text": b"\xff\xfe\x00",
    "an empty line": b"\n",
}


@pytest.mark.parametrize("content", BAD_RECORDINGS.values(), ids=BAD_RECORDINGS.keys())
def test_a_file_that_is_no_recording_is_refused_with_its_line(tmp_path, content):
    path = tmp_path / "recording.jsonl"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"engine.path: .*recording\.jsonl'"):
        ReplayEngine(path)


def test_a_recording_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"engine\.path: cannot read"):
        ReplayEngine(tmp_path / "missing.jsonl")


def test_a_recording_with_line_separators_inside_a_text(source, target, tmp_path):
    run(model(), source, target)
    text = "Analysis: a\u2028b\x85c\nScores: \\boxed{3, 3}"
    changed = rows(target)
    for row in changed:
        for judgement in row["judgements"]:
            judgement["text"] = text
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in changed]
    target.write_text("".join(lines), encoding="utf-8")
    run(replayed(target), source, tmp_path / "again.jsonl")
    assert rows(tmp_path / "again.jsonl")[0]["rewards"] == [3, 3]


def test_a_store_and_an_output_file_work_together(source, target, tmp_path):
    store = {"path": str(tmp_path / "store")}
    first = model(store=store)
    run(first, source, target)
    asyncio.run(first.aclose())
    shutil.copy(target, tmp_path / "first.jsonl")
    target.unlink()
    second = model([EngineError("must not be asked")], store=store)
    run(second, source, target)
    asyncio.run(second.aclose())
    assert [row["rewards"] for row in rows(target)] == [
        row["rewards"] for row in rows(tmp_path / "first.jsonl")
    ]
