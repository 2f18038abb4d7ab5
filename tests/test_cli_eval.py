"""`spct eval`: asks once, computes everything from the files, and says what it cannot do."""

import json
import subprocess
import sys

import pytest

from spct_plugin.evaluation.run import NEUTRAL, NO_META

PLUGIN = """
import os
from pathlib import Path
from typing import Literal

from spct_plugin import EngineError, hookimpl
from spct_plugin.engines import Choice, EngineConfig
from spct_plugin.meta_rm import MetaRMConfig

LOG, DIES_AFTER, DOWN = Path("asked.log"), Path("dies_after"), Path("down")


class NoisyConfig(EngineConfig):
    kind: Literal["noisy"] = "noisy"

    @property
    def native_template(self):
        return "default"

    def build(self):
        return Noisy()


class Noisy:
    context = None
    identity = "noisy"

    async def generate(self, request):
        asked = LOG.read_text().count("\\n") if LOG.exists() else 0
        if DIES_AFTER.exists() and asked >= int(DIES_AFTER.read_text()):
            os._exit(9)
        if DOWN.exists():
            raise EngineError("down")
        with LOG.open("a") as file:
            file.write(f"{request.task.hex()} {request.votes} {request.sampling.temperature}\\n")
        return [self.choice(request, vote) for vote in request.votes]

    def choice(self, request, vote):
        right = request.sampling.temperature == 0 or vote % 3 < 2
        scores = [9 if (i == 0) is right else 2 for i in request.order]
        return Choice(f"\\\\boxed{{{', '.join(map(str, scores))}}}", "stop", 7)

    def fits(self, prompt, max_tokens):
        return True

    async def aclose(self):
        pass


class KnowingConfig(MetaRMConfig):
    kind: Literal["knowing"] = "knowing"

    def build(self, template):
        return Knowing()


class Knowing:
    identity = "knowing"

    async def score(self, task, judgements):
        return [0.1 if judgement.vote % 3 == 2 else 0.9 for judgement in judgements]

    async def aclose(self):
        pass


@hookimpl
def spct_register_engines(register):
    register("noisy", NoisyConfig)


@hookimpl
def spct_register_meta_rms(register):
    register("knowing", KnowingConfig)
"""
TASKS = [
    *({"id": f"two{i}", "prompt": "Ask.", "completions": ["a", "b"], "label": 0} for i in range(3)),
    {"id": "three", "prompt": "Ask.", "completions": ["a", "b", "c"], "label": 0},
]
LINE = ["eval", "tasks.jsonl", "-c", "judge.yaml", "-k", "1,3,6"]


@pytest.fixture
def files(tmp_path):
    """Write tasks, a plugin with the judge, and a configuration that names both."""
    write(tmp_path / "tasks.jsonl", TASKS)
    (tmp_path / "noisy.py").write_text(PLUGIN, encoding="utf-8")
    (tmp_path / "judge.yaml").write_text(
        "plugins: [noisy.py]\nengine: {kind: noisy}\n", encoding="utf-8"
    )
    return tmp_path


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def asked(files):
    log = files / "asked.log"
    return log.read_text().splitlines() if log.exists() else []


def numbers(path="found.json"):
    with open(path, encoding="utf-8") as file:
        return json.load(file)


def by_n(found):
    return {group["n"]: group for group in found["groups"]}


def test_accuracy_over_k_from_one_file_of_judgements(spct, files):
    code, output, errors = spct(*LINE, "--json", "found.json")
    assert code == 0
    assert "4 rows judged into tasks.judged.jsonl; 24 judgements, failed: none" in errors
    assert "4 rows judged into tasks.judged.greedy.jsonl; 4 judgements, failed: none" in errors
    found = numbers()
    assert (found["votes"], found["lost"]) == (6, 0)
    groups = by_n(found)
    assert list(groups) == [2, 3, "all"]
    # Votes 2 and 5 are wrong: two thirds alone, and 25:11 or 50:22 together.
    assert [point["value"] for point in groups[2]["plain"]] == pytest.approx([2 / 3, 1, 1])
    assert groups["all"]["gain"]["value"] == pytest.approx(0.365, abs=0.1)
    assert groups["all"]["greedy"]["value"] == 1
    assert groups[2]["quality"]["tokens_per_judgement"] == 7
    assert "66.7 [66.7, 66.7]" in output
    assert "+33.3" in output


def test_other_ks_ask_no_judge(spct, files):
    spct(*LINE)
    before = asked(files)
    code, _, errors = spct(*LINE[:4], "-k", "2,4", "--json", "found.json", "-s", "vote.how=mean")
    assert code == 0
    assert asked(files) == before
    assert "0 rows judged into tasks.judged.jsonl; 4 were there already" in errors
    # All six votes of the file are used.
    assert [point["blocks"] for point in by_n(numbers())[2]["plain"]] == [9, 3]


@pytest.mark.parametrize("label", [None, 1])
def test_the_labels_are_those_of_the_tasks_and_not_of_what_was_judged(spct, files, label):
    write(files / "tasks.jsonl", [{**row, "label": label} for row in TASKS])
    assert spct("judge", "tasks.jsonl", "-o", "own.jsonl", *LINE[2:4], *AS_EVAL)[0] == 0
    before = asked(files)
    write(files / "tasks.jsonl", TASKS)
    assert spct(*LINE, "-o", "own.jsonl", "--json", "found.json")[0] == 0
    assert len(asked(files)) == len(before) + len(TASKS)
    assert by_n(numbers())[2]["plain"][-1]["value"] == 1


AS_EVAL = [f"-s{value}" for value in (*NEUTRAL, NO_META, "vote.k=6")]


def test_more_votes_than_the_file_holds_is_one_line(spct, files):
    spct(*LINE)
    code, _, errors = spct(*LINE[:4], "-k", "8")
    assert code == 2
    assert "expected 8 votes a task in 'tasks.judged.jsonl', found 6; choose another" in errors
    assert spct(*LINE[:4], "-k", "8", "-o", "more.jsonl")[0] == 0
    assert (files / "more.greedy.jsonl").exists()


@pytest.mark.parametrize("asks", [0, 5, 11])
def test_a_run_that_was_killed_goes_on(spct, files, asks):
    (files / "dies_after").write_text(str(asks))
    killed = subprocess.run(
        [sys.executable, "-c", "from spct_plugin.cli import main; main()", *LINE],
        cwd=files,
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert killed.returncode == 9
    (files / "dies_after").unlink()
    whole = files / "tasks.judged.jsonl"
    finished = whole.read_text().count("\n")
    code, _, errors = spct(*LINE, "--json", "found.json")
    assert code == 0
    assert f"{4 - finished} rows judged into tasks.judged.jsonl" in errors
    assert by_n(numbers())[2]["plain"][0]["value"] == pytest.approx(2 / 3)
    before = asked(files)
    assert spct(*LINE)[0] == 0
    assert asked(files) == before


def test_lost_judgements_end_with_1_and_the_same_command_mends_it(spct, files):
    (files / "down").touch()
    code, output, errors = spct(*LINE, "--json", "found.json")
    assert code == 1
    assert "lost judgements to infrastructure: mend that and run it again" in errors
    assert "18 of 18" in output
    assert "engine_error 18" in output
    assert numbers()["lost"] == 8
    assert by_n(numbers())[2]["plain"][0]["unjudged"] == 18
    (files / "down").unlink()
    assert spct(*LINE, "--json", "found.json")[0] == 0
    assert numbers()["lost"] == 0


def test_neither_rules_nor_rewards_can_stop_it(spct, files):
    rules = "reward={rewards: [{grm: {}}, {path: 'no.py:f'}], on_failure: stop}"
    assert spct(*LINE, "-s", rules)[0] == 0


def test_the_meta_rm_beside_all_votes(spct, files):
    (files / "judge.yaml").write_text(
        "plugins: [noisy.py]\nengine: {kind: noisy}\nmeta_rm: {kind: knowing}\n", encoding="utf-8"
    )
    assert spct(*LINE, "-o", "plain.jsonl", "--json", "found.json")[0] == 0
    assert by_n(numbers())[2]["quality"]["meta_scored"] == 0
    options = (*LINE, "--meta-rm", "--json", "found.json")
    code, output, _ = spct(*options)
    assert code == 0
    two = by_n(numbers())[2]
    assert [(p["k"], p["k_meta"]) for p in two["meta"]] == [(1, 1), (3, 1), (6, 3)]
    assert [p["value"] for p in two["meta"]] == pytest.approx([2 / 3, 1, 1])
    assert [p["k_meta"] for p in two["k_meta_sweep"]] == [1, 2, 4, 6]
    assert (two["quality"]["meta_auc"], two["quality"]["meta_scored"]) == (1, 18)
    assert "Kept by the meta RM of k = 6" in output
    before = asked(files)
    assert spct(*options, "--k-meta", "2,5")[0] == 0
    assert [p["k_meta"] for p in by_n(numbers())[2]["k_meta_sweep"]] == [2, 5]
    assert asked(files) == before


def test_the_plot_is_a_picture(spct, files):
    pytest.importorskip("matplotlib", reason="needs the extra `report`")
    write(files / "one.jsonl", [{"id": "o", "prompt": "Ask.", "completions": ["a"], "label": 1}])
    (files / "tasks.jsonl").write_text(
        (files / "tasks.jsonl").read_text() + (files / "one.jsonl").read_text()
    )
    assert spct(*LINE, "--plot", "found.png")[0] == 0
    assert (files / "found.png").read_bytes().startswith(b"\x89PNG")


def test_without_matplotlib_a_plot_is_refused_before_the_work(spct, files, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    code, _, errors = spct(*LINE, "--plot", "found.png")
    assert code == 2
    assert "needs matplotlib: pip install 'spct-plugin[report]'" in errors
    assert not asked(files)


def unlabelled(rows):
    return [{key: row[key] for key in row if key != "label"} for row in rows]


MISTAKES = {
    "no label": (1, unlabelled(TASKS[:1]) + TASKS[1:], [], "found none in 1 of 4, the first is"),
    "no task": (1, [], [], "expected labelled tasks, found none in 'tasks.jsonl'"),
    "a bad line": (1, [{"id": "x"}], [], "tasks.jsonl, line 1: expected the keys"),
    "k": (2, TASKS, ["-k", "1,x"], "-k: expected whole numbers from 1 like 1,2,4, found '1,x'"),
    "k = 0": (2, TASKS, ["-k", "0"], "-k: expected whole numbers from 1"),
    "no temperature": (2, TASKS, ["-s", "sampling.temperature=0"], "sampling.temperature: "),
    "k_meta alone": (2, TASKS, ["--k-meta", "2"], "--k-meta: says what the meta RM keeps"),
    "too large a k_meta": (2, TASKS, ["--meta-rm", "--k-meta", "7"], "at most the largest k, 6"),
    "no meta RM": (2, TASKS, ["--meta-rm"], "--meta-rm: the configuration has no section meta_rm"),
    "no form of picture": (2, TASKS, ["--plot", "p.gif"], "found 'p.gif'"),
    "numbers over the tasks": (1, TASKS, ["--json", "tasks.jsonl"], "found 'tasks.jsonl' for both"),
    "no folder": (1, TASKS, ["--json", "no/f.json"], "cannot write 'no/f.json'"),
}


@pytest.mark.parametrize(("code", "rows", "options", "message"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_one_line_and_asks_nobody(spct, files, code, rows, options, message):
    write(files / "tasks.jsonl", rows)
    found, output, errors = spct(*LINE, *options)
    assert (found, output) == (code, "")
    assert message in errors
    assert errors.count("\n") == 1
    assert not asked(files)


@pytest.mark.parametrize("line", ['{"id": "two0", "judgements": 1}', '{"id": 5, "k": 6}', "[]"])
def test_a_file_of_something_else_is_refused(spct, files, line):
    (files / "tasks.judged.jsonl").write_text(line + "\n")
    code, _, errors = spct(*LINE)
    assert code == 1
    assert "holds something else than rewards" in errors


def test_judgements_that_do_not_fit_their_task_are_refused(spct, files):
    spct(*LINE)
    path = files / "tasks.judged.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    write(path, [{**row, "judgements": [{"indices": [7], "order": [7]}]} for row in rows])
    code, _, errors = spct(*LINE)
    assert code == 1
    assert "tasks.judged.jsonl, line 1: judgements: expected indices and order" in errors
    write(path, [{**row, "judgements": row["judgements"][:2]} for row in rows])
    code, _, errors = spct(*LINE)
    assert code == 1
    assert "expected 6 votes of task 'two0', found 2" in errors
