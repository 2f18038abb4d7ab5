"""From samples to training files: hints, rejection, rendering, and where everything went."""

import json
import re

import pytest

from spct_plugin import SPCTConfig, TaskError
from spct_plugin.data.rows import BadRow
from spct_plugin.errors import ConfigError
from spct_plugin.plugins import load_plugins
from spct_plugin.testing import check_template
from spct_plugin.training.chat import Chat
from spct_plugin.training.hints import HintedTemplate, hint_line
from spct_plugin.training.prompts import JudgePrompts
from spct_plugin.training.rejecting import describe, reject_files, rl_rows, sft_rows
from spct_plugin.training.trajectories import read_trajectories
from spct_plugin.types import JudgeTask

CONFIG = SPCTConfig.model_validate({"template": {"name": "default"}})


def sampled(name, scores, *, label=1, hinted=False, n=2):
    """Write one line of `spct sample`: scores per judgement, or a failure."""
    judgements = [
        {
            "vote": vote,
            "indices": list(range(n)),
            "order": list(range(n))[::-1],
            "scores": None if isinstance(s, str) else s,
            "failure": s if isinstance(s, str) else None,
            "text": f"Analysis: {name}.{vote}\nScores: \\boxed{{...}}",
        }
        for vote, s in enumerate(scores)
    ]
    completions = [f"{name} answer {i}" for i in range(n)]
    row = {"id": name, "prompt": "Which?", "completions": completions, "label": label}
    return row | {"judgements": judgements, "hinted": hinted}


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def chat():
    return Chat("tiny")


def run(source, target, chat, rows=sft_rows, config=CONFIG):
    return reject_files([source], target, rows(JudgePrompts(config), chat))


def test_right_judgements_are_kept_and_everything_is_counted(tmp_path, chat):
    source = write(
        tmp_path / "in.jsonl",
        sampled("mixed", [[3, 8], [8, 8], [9, 2]]),
        sampled("easy", [[3, 8]] * 3),
        sampled("hard", [[8, 3], "no_scores", "truncated"]),
        sampled("told", [[3, 8]], hinted=True),
        sampled("lost", ["engine_error"] * 3),
    )
    counts = run(source, tmp_path / "out.jsonl", chat)
    assert [row["id"] for row in lines(tmp_path / "out.jsonl")] == ["mixed#0", "told#hinted-0"]
    assert counts.tasks == {
        "kept": 1,
        "too easy: right every time": 1,
        "never right": 1,
        "hinted, kept": 1,
        "no judgement came": 1,
    }
    assert counts.judgements == {
        "kept": 1,
        "wrong: the best one shares its score": 1,
        "wrong": 2,
        "right, but the task is too easy": 3,
        "no scores: no_scores": 1,
        "no scores: truncated": 1,
        "hinted, kept": 1,
    }


def test_a_row_is_what_the_judge_was_asked_and_said_without_the_hint(tmp_path, chat):
    source = write(tmp_path / "in.jsonl", sampled("told", [[3, 8]], hinted=True))
    run(source, tmp_path / "out.jsonl", chat)
    [row] = lines(tmp_path / "out.jsonl")
    assert row["prompt"].startswith("<|user|>You are an expert")
    assert row["prompt"].endswith("<|assistant|>")
    assert row["prompt"].index("told answer 1") < row["prompt"].index("told answer 0")
    assert row["completion"] == "Analysis: told.0\nScores: \\boxed{...}<|end|>"
    assert "best response is" not in row["prompt"]


def test_the_code_of_the_delimiters_is_another_for_every_task(tmp_path, chat):
    source = write(
        tmp_path / "in.jsonl",
        *(sampled(name, [[3, 8]], hinted=True) for name in ("a", "b")),
    )
    run(source, tmp_path / "out.jsonl", chat)
    codes = [
        re.search(r"\[The Begin of Response 1 (\w+)\]", row["prompt"])[1]
        for row in lines(tmp_path / "out.jsonl")
    ]
    assert len(set(codes)) == 2


def test_rl_rows_leave_out_what_is_too_easy_and_shuffle(tmp_path, chat):
    tasks = [sampled(f"t{i}", [[3, 8], [8, 3], [3, 8]]) for i in range(40)]
    easy, told = sampled("easy", [[3, 8]] * 3), sampled("told", [[3, 8]], hinted=True)
    source = write(tmp_path / "in.jsonl", *tasks, easy, told)
    counts = run(source, tmp_path / "out.jsonl", chat, rl_rows)
    rows = lines(tmp_path / "out.jsonl")
    assert [row["id"] for row in rows] == [f"t{i}" for i in range(40)]
    assert counts.tasks["too easy: right every time"] == 1
    for row in rows:
        best = row["prompt"].index("answer 1") < row["prompt"].index("answer 0")
        assert row["label"] == (0 if best else 1)
        assert (row["n"], row["template"]) == (2, "default")
    assert 8 < sum(row["label"] for row in rows) < 32


def test_a_single_completion_is_right_when_its_score_is(tmp_path, chat):
    rows = [
        sampled("good", [[1], [0], "no_scores"], label=1, n=1),
        sampled("bad", [[1], [0]], label=0, n=1),
    ]
    source = write(tmp_path / "in.jsonl", *rows)
    single = SPCTConfig.model_validate({"template": {"name": "single"}})
    run(source, tmp_path / "out.jsonl", chat, config=single)
    assert [row["id"] for row in lines(tmp_path / "out.jsonl")] == ["good#0", "bad#1"]
    with pytest.raises(TaskError, match=r"template\.name: single"):
        run(source, tmp_path / "out.jsonl", chat)


def test_an_empty_output_says_which_rule_took_everything(tmp_path, chat):
    source = write(tmp_path / "in.jsonl", sampled("easy", [[3, 8]] * 3))
    with pytest.raises(TaskError, match="tasks: 1 too easy: right every time"):
        run(source, tmp_path / "out.jsonl", chat)
    assert not (tmp_path / "out.jsonl").exists()


one = {"indices": [0, 1], "order": [0, 1], "scores": [1, 2]}
BROKEN = {
    "not JSON": "{",
    "no label": json.dumps({"id": "a", "prompt": "?", "completions": ["x", "y"], "judgements": []}),
    "label beyond the completions": json.dumps(sampled("a", [[1, 2]], label=2)),
    "no judgements": json.dumps({"id": "a", "prompt": "?", "completions": ["x"], "label": 1}),
    "scores and failure": json.dumps(
        sampled("a", [[1, 2]]) | {"judgements": [{"indices": [0, 1], "order": [0, 1]}]}
    ),
    "a vote without a number": json.dumps(
        {**(row := sampled("a", [[1, 2]])), "judgements": [{**row["judgements"][0], "vote": [1]}]}
    ),
    "too few scores": json.dumps(sampled("a", [[1]])),
    "hinted by a text": json.dumps(sampled("a", [[1, 2]]) | {"hinted": "false"}),
    "a meta score that is none": json.dumps(
        sampled("a", []) | {"judgements": [one | {"meta_score": "0.9"}]}
    ),
    "a text that is none": json.dumps(sampled("a", []) | {"judgements": [one | {"text": {}}]}),
    "order of others": json.dumps(
        sampled("a", []) | {"judgements": [{"indices": [0, 1], "order": [0, 2], "scores": [1, 2]}]}
    ),
}


@pytest.mark.parametrize("line", BROKEN.values(), ids=BROKEN.keys())
def test_a_bad_line_is_named_and_left_out(tmp_path, chat, line):
    source = tmp_path / "in.jsonl"
    source.write_text(line + "\n" + json.dumps(sampled("told", [[3, 8]], hinted=True)) + "\n")
    named = []
    rows = sft_rows(JudgePrompts(CONFIG), chat)
    counts = reject_files(
        [source], tmp_path / "out.jsonl", rows, lambda path, bad: named.append(bad)
    )
    assert (counts.bad, counts.rows) == (1, 1)
    assert isinstance(named[0], BadRow)
    assert named[0].line == 1
    assert named[1] is None
    assert "1 bad lines" in describe(counts)


def test_input_and_output_must_differ(tmp_path, chat):
    source = write(tmp_path / "in.jsonl", sampled("a", [[3, 8]]))
    with pytest.raises(TaskError, match="another file"):
        run(source, source, chat)


def test_answers_to_another_templates_prompts_are_refused(tmp_path, chat):
    row = sampled("a", [[3, 8], [8, 3]]) | {"version": "model@1|tiny+hint|0123"}
    source = write(tmp_path / "in.jsonl", row)
    for rows in (sft_rows, rl_rows):
        with pytest.raises(TaskError, match="sampled with template 'tiny', found 'default'"):
            run(source, tmp_path / "out.jsonl", chat, rows)
    single = SPCTConfig.model_validate({"template": {"name": "single"}})
    source = write(tmp_path / "in.jsonl", sampled("a", [[3, 8], [8, 3]]))
    with pytest.raises(TaskError, match=r"shows 1 completion\(s\), found a task with 2"):
        run(source, tmp_path / "out.jsonl", chat, rl_rows, single)


def test_a_task_read_twice_is_learnt_once(tmp_path, chat):
    row, told = sampled("a", [[3, 8], [8, 3]]), sampled("a", [[3, 8]], hinted=True)
    counts = run(write(tmp_path / "in.jsonl", row, told, row), tmp_path / "out.jsonl", chat)
    assert (counts.rows, counts.tasks["read before"]) == (2, 1)


def test_what_cannot_be_written_leaves_what_was_there(tmp_path, chat, monkeypatch):
    source = write(tmp_path / "in.jsonl", sampled("a", [[3, 8], [8, 3]]))
    target = tmp_path / "out.jsonl"
    target.write_text("before")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(TaskError, match="No space left"):
        run(source, target, chat)
    assert target.read_text() == "before"
    assert not (tmp_path / "out.jsonl.part").exists()


def test_openrlhf_hands_on_one_column_so_the_label_holds_all(tmp_path, chat):
    source = write(tmp_path / "in.jsonl", sampled("t", [[3, 8], [8, 3], [3, 8]]))
    for_trl, for_openrlhf = tmp_path / "trl.jsonl", tmp_path / "openrlhf.jsonl"
    run(source, for_trl, chat, rl_rows)
    run(source, for_openrlhf, Chat("tiny", "openrlhf"), rl_rows)
    [flat], [nested] = lines(for_trl), lines(for_openrlhf)
    assert nested.pop("label") == {key: flat.pop(key) for key in ("label", "n", "template")}
    assert nested == flat


def test_special_tokens_in_a_text_stay_text(chat):
    prompt, completion = chat.example("say <|end|><|assistant|>", "no <|user|>")
    ids = chat.tokenizer(prompt + completion)["input_ids"]
    special = [i for i in ids if i in chat.tokenizer.all_special_ids]
    spelt = chat.tokenizer.convert_ids_to_tokens(special)
    assert spelt == ["<|user|>", "<|assistant|>", "<|end|>"]


def test_a_tokenizer_without_a_chat_template_is_one_clear_line(tmp_path, chat):
    folder = tmp_path / "bare"
    chat.tokenizer.save_pretrained(folder)
    for file in folder.glob("*template*"):
        file.unlink()
    config = folder / "tokenizer_config.json"
    kept = {k: v for k, v in json.loads(config.read_text()).items() if k != "chat_template"}
    config.write_text(json.dumps(kept))
    with pytest.raises(ConfigError, match="has no chat template"):
        Chat(str(folder))


def test_a_chat_template_that_rewrites_its_prompt_is_refused(chat, monkeypatch):
    template = (
        "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant (thinking):{% endif %}"
    )
    monkeypatch.setattr(chat.tokenizer, "chat_template", template)
    with pytest.raises(ConfigError, match="does not go on"):
        chat.example("a", "b")


def test_hints_name_the_place_of_the_best_one():
    assert hint_line((2, 0, 1), 0) == "\nThe best response is: Response 2"
    assert "strength of the preference: 3" in hint_line((0, 1), 1, 3)
    assert hint_line((0,), 1) == "\nThe right score is: 1"


def test_a_hinted_template_is_a_template_with_a_hint():
    template = HintedTemplate(load_plugins().templates["default"])
    task = JudgeTask("Which?", ["x", "y"], metadata={"label": 1})
    assert template.render(task, (1, 0)).endswith("\nThe best response is: Response 1")
    assert "best response is" not in template.render(task, (0,))
    with pytest.raises(TaskError, match="label"):
        template.render(JudgeTask("Which?", ["x"]), (0,))

    class Labelled(HintedTemplate):
        def render(self, task, order, nonce=""):
            labelled = JudgeTask(task.prompt, task.completions, metadata={"label": 0})
            return super().render(labelled, order, nonce)

    check_template(Labelled(load_plugins().templates["default"]))


def test_sampling_asks_and_writes_what_rejection_reads(tmp_path, spct):
    source = write(
        tmp_path / "tasks.jsonl",
        {"id": "a", "prompt": "Count.", "completions": ["say 2", "say 9"], "label": 1},
        {
            "id": "b",
            "prompt": "Count.",
            "completions": ["say 3", "say 4"],
            "label": 0,
            "strength": 2,
        },
    )
    plugin = tmp_path / "counting.py"
    plugin.write_text(PLUGIN)
    config = write(tmp_path / "judge.yaml", CONFIG_FILE)
    code, _, errors = spct("sample", source, "-o", "out.jsonl", "-c", config, "--price", 1e6)
    assert (code, "6 judgements" in errors, " at 1e+06 a million" in errors) == (0, True, True)
    found = list(read_trajectories(tmp_path / "out.jsonl"))
    assert [one.correct for one in found] == [[True] * 3, [False] * 3]
    assert [one.hinted for one in found] == [False, False]
    code, _, _ = spct("sample", source, "-o", "hinted.jsonl", "-c", config, "--hinted")
    found = list(read_trajectories(tmp_path / "hinted.jsonl"))
    assert [(one.hinted, len(one.judgements)) for one in found] == [(True, 1), (True, 1)]
    prompts = (tmp_path / "asked").read_text()
    assert prompts.count("The best response is: Response") == 2
    assert prompts.count("(strength of the preference: 2)") == 1
    code, output, _ = spct("reject", "out.jsonl", "-o", "rl.jsonl", *RL, "-c", config)
    assert (code, "too easy" in output) == (0, True)
    assert [row["id"] for row in lines(tmp_path / "rl.jsonl")] == ["b"]
    code, _, errors = spct("reject", "out.jsonl", "-o", "sft.jsonl", "-c", config)
    assert (code, "expected --tokenizer MODEL" in errors) == (2, True)


RL = ("--stage", "rl", "--tokenizer", "tiny")
CONFIG_FILE = {"plugins": ["counting.py"], "engine": {"kind": "counting"}}
PLUGIN = """
import re
from pathlib import Path
from spct_plugin import hookimpl
from spct_plugin.engines import EngineConfig
from spct_plugin.testing import ScriptedEngine

def answer(request):
    with Path("asked").open("a") as file:
        file.write(request.prompt)
    found = re.findall(r"^say (\\d+)$", request.prompt, re.M)
    return "Scores: \\\\boxed{" + ", ".join(found) + "}"

class CountingConfig(EngineConfig):
    kind: str = "counting"

    def build(self):
        return ScriptedEngine(answer)

@hookimpl
def spct_register_engines(register):
    register("counting", CountingConfig)
"""


def test_a_row_without_a_label_is_named_before_anything_is_paid(tmp_path, spct):
    row = {"id": "a", "prompt": "Count.", "completions": ["say 2", "say 9"]}
    source = write(tmp_path / "tasks.jsonl", row | {"label": 0}, row | {"id": "b"})
    code, _, errors = spct("sample", source, "-o", "out.jsonl")
    assert (code, "found 1 without one, the first with the id 'b'" in errors) == (1, True)
    assert not (tmp_path / "out.jsonl").exists()
