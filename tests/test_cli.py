"""The `spct` command: what it prints, where, and how it ends; a mistake is one line."""

import json
import os
import signal
import socket
import subprocess
import sys

import pytest
import yaml
from judging_helpers import EXAMPLE, install

from spct_plugin import SPCTConfig
from spct_plugin.cli import app, main
from spct_plugin.config_reference import reference, schema

ROWS = [
    {"id": "a", "prompt": "Ask.", "completions": ["now", "please do"], "label": 1},
    {"id": "b", "prompt": "Ask.", "completions": ["please", "please", "go"]},
]


@pytest.fixture
def files(tmp_path):
    """Write tasks and a configuration whose judge looks for the word please."""
    tasks = tmp_path / "tasks.jsonl"
    tasks.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    judge = tmp_path / "judge.yaml"
    plugin = EXAMPLE / "spct_example.py"
    judge.write_text(
        f"plugins: [{plugin}]\nengine: {{kind: keyword, word: please}}\nvote: {{k: 4}}\n",
        encoding="utf-8",
    )
    (tmp_path / "one.jsonl").write_text(json.dumps(ROWS[0]), encoding="utf-8")
    (tmp_path / "client.yaml").write_text("server: {url: http://judge:8700}", encoding="utf-8")
    return tmp_path


def rewards(path="rewards.jsonl"):
    with open(path, encoding="utf-8") as file:
        return {row["id"]: row["rewards"] for row in map(json.loads, file)}


def test_judge_writes_rewards_and_one_line_of_summary(spct, files):
    code, output, errors = spct("judge", "tasks.jsonl", "-o", "rewards.jsonl", "-c", "judge.yaml")
    assert (code, output) == (0, "")
    assert errors == "2 rows judged into rewards.jsonl; 8 judgements, failed: none\n"
    assert rewards() == {"a": [1, 10], "b": [10, 10, 1]}


def test_judge_resumes(spct, files):
    command = ("judge", "tasks.jsonl", "-o", "rewards.jsonl", "-c", "judge.yaml")
    spct(*command)
    code, _, errors = spct(*command)
    assert code == 0
    assert errors.startswith("0 rows judged into rewards.jsonl; 2 were there already;")


def test_judge_takes_overrides_and_the_number_of_votes(spct, files):
    spct(
        *("judge", "tasks.jsonl", "-o", "rewards.jsonl", "-c", "judge.yaml"),
        *("-k", 3, "-s", "reward.scale=sum", "-s", "vote.how=median"),
    )
    assert rewards() == {"a": [3, 30], "b": [30, 30, 3]}


def test_judge_names_bad_lines_judges_the_rest_and_fails(spct, files):
    with open("tasks.jsonl", "a", encoding="utf-8") as file:
        file.write('{"id": "c"\n{"id": "d", "prompt": "x", "completions": 5}\n')
    code, _, errors = spct("judge", "tasks.jsonl", "-o", "rewards.jsonl", "-c", "judge.yaml")
    assert code == 1
    lines = errors.splitlines()
    assert lines[0].startswith("spct: tasks.jsonl, line 3: not JSON: ")
    assert lines[1].startswith("spct: tasks.jsonl, line 4: ")
    assert "2 rows judged into rewards.jsonl; 2 bad lines left out;" in lines[2]
    assert len(rewards()) == 2


def test_judge_fails_when_judgements_were_lost(spct, files):
    spct("judge", "tasks.jsonl", "-o", "recording.jsonl", "-c", "judge.yaml", "-k", "2")
    code, _, errors = spct(
        *("judge", "tasks.jsonl", "-o", "rewards.jsonl", "-k", "4"),
        *("-s", "engine={kind: replay, path: recording.jsonl}", "-s", "template.name=default"),
    )
    assert code == 1
    assert "failed: engine_error 4" in errors
    assert "; first engine_error: " in errors
    assert "2 rows lost judgements to infrastructure: mend that and run it again" in errors


def test_judge_says_how_many_completions_have_no_reward(spct, files):
    code, _, errors = spct(
        *("judge", "tasks.jsonl", "-o", "rewards.jsonl", "-c", "judge.yaml"),
        *("-s", "template.name=single"),
    )
    assert code == 0
    assert "failed: " in errors
    assert "5 completions without a reward" in errors


CLIENT = ("-c", "client.yaml")
NEEDED = "need the judge's own configuration, found one that asks 'http://judge:8700'"

# A judge that cannot be built: what is found before it needs none.
GONE = ("-s", "engine={kind: replay, path: gone}")

MISTAKES = {
    "no such tasks": (1, ["judge", "no.jsonl", "-o", "r.jsonl", "-c", "judge.yaml"], "no.jsonl"),
    "no such configuration": (
        2,
        ["judge", "tasks.jsonl", "-o", "r.jsonl", "-c", "no.yaml"],
        "config: cannot read 'no.yaml': No such file",
    ),
    "wrong override": (
        2,
        ["judge", "tasks.jsonl", "-o", "r.jsonl", "-s", "vote.kk=1"],
        "vote.kk: unknown key",
    ),
    "no votes": (2, ["judge", "tasks.jsonl", "-o", "r.jsonl", "-k", "0"], "vote.k: "),
    "no such folder": (
        1,
        ["judge", "tasks.jsonl", "-o", "no/r.jsonl", "-c", "judge.yaml"],
        "no/r.jsonl",
    ),
    "a folder as output": (1, ["judge", "tasks.jsonl", "-o", ".", "-c", "judge.yaml"], "'.'"),
    "a folder as tasks": (1, ["judge", ".", "-o", "r.jsonl", "-c", "judge.yaml"], "cannot read"),
    "tasks as output": (
        1,
        ["judge", "tasks.jsonl", "-o", "tasks.jsonl", "-c", "judge.yaml"],
        "tasks.jsonl",
    ),
    "unknown vote": (
        2,
        ["judge", "tasks.jsonl", "-o", "r.jsonl", "-c", "judge.yaml", "-s", "vote.how=loudest"],
        "vote.how: expected one of ['mean', 'median'], found 'loudest'",
    ),
    "unknown template": (
        2,
        ["judge", "tasks.jsonl", "-o", "r.jsonl", "-c", "judge.yaml", "-s", "template.name=x"],
        "template.name: expected one of ['default', 'single', 'tiny'], a plugin's template",
    ),
    "no such recording": (
        2,
        ["judge", "tasks.jsonl", "-o", "r.jsonl", "-s", "engine={kind: replay, path: gone}"],
        "engine.path: cannot read 'gone'",
    ),
    "no such rule": (
        2,
        [
            *("judge", "tasks.jsonl", "-o", "r.jsonl", "-c", "judge.yaml"),
            *("-s", "reward.rewards=[{grm: {}}, {path: 'no.py:f'}]"),
        ],
        "reward.rewards: cannot import 'no.py'",
    ),
    "store in a file": (
        1,
        [
            *("judge", "tasks.jsonl", "-o", "r.jsonl", "-c", "judge.yaml"),
            *("-s", "store.path=tasks.jsonl"),
        ],
        "store.path: cannot use 'tasks.jsonl'",
    ),
    "a completion without a reward, and stop": (
        1,
        [
            *("judge", "tasks.jsonl", "-o", "r.jsonl", "-c", "judge.yaml"),
            *("-s", "template.name=single", "-s", "reward.on_failure=stop"),
        ],
        "2 of 2 completions of a group have no valid judgement",
    ),
    "a report over its own input": (
        1,
        ["report", "tasks.jsonl", "-o", "tasks.jsonl"],
        "found 'tasks.jsonl' for both",
    ),
    "no place for tasks": (1, ["tiny", "tasks", "-o", "no/t.jsonl"], "cannot write 'no/t.jsonl'"),
    "no place for a report": (1, ["report", "x", "-o", "no/r.html"], "cannot write 'no/r.html'"),
    "no place for a demo": (1, ["demo", "--json", "no/d.json"], "cannot write 'no/d.json'"),
    "a demo's folder is a file": (
        2,
        ["demo", "--folder", "tasks.jsonl"],
        "cannot make the folder 'tasks.jsonl'",
    ),
    "wrong configuration": (2, ["config", "-s", "vote.k=0"], "vote.k: "),
    "a port that is taken": (
        2,
        ["serve", "--port", "{port}"],
        "Address already in use; choose another with --host or --port",
    ),
    "a port that is taken, before the judge": (
        2,
        ["serve", "--port", "{port}", *GONE],
        "cannot listen on 127.0.0.1 port",
    ),
    "no token, before the judge": (
        2,
        ["serve", "-s", "serve.token_env=SPCT_NOT_SET", *GONE],
        "serve.token_env: expected at least 16 characters",
    ),
    "no such tasks, before the judge": (
        1,
        ["judge", "no.jsonl", "-o", "r.jsonl", *GONE],
        "cannot read 'no.jsonl'",
    ),
    "no such folder, before the judge": (
        1,
        ["judge", "tasks.jsonl", "-o", "no/r.jsonl", *GONE],
        "cannot write 'no/r.jsonl'",
    ),
    "no such folder for samples, before the judge": (
        1,
        ["sample", "one.jsonl", "-o", "no/r.jsonl", *GONE],
        "cannot write 'no/r.jsonl'",
    ),
    "nothing to report": (
        1,
        ["report", "no.jsonl"],
        "spct: cannot read 'no.jsonl': No such file or directory\n",
    ),
    "no such plugin file": (2, ["config", "-s", "plugins=[no.py]"], "no.py"),
    "no such gold tasks": (
        2,
        ["config", "-s", "probes={every: 5, gold: gone.jsonl}"],
        "probes.gold: cannot read 'gone.jsonl': No such file",
    ),
    "judge asks a server": (2, ["judge", "tasks.jsonl", "-o", "r.jsonl", *CLIENT], NEEDED),
    "judge asks a server, with votes": (
        2,
        ["judge", "tasks.jsonl", "-o", "r.jsonl", *CLIENT, "-k", "1"],
        NEEDED,
    ),
    "eval asks a server": (2, ["eval", "one.jsonl", *CLIENT, "-k", "1"], NEEDED),
    "sample asks a server": (2, ["sample", "one.jsonl", "-o", "r.jsonl", *CLIENT], NEEDED),
    "a server by an override": (
        2,
        ["judge", "tasks.jsonl", "-o", "r.jsonl", "-s", "server.url=http://judge:8700"],
        NEEDED,
    ),
}


@pytest.mark.parametrize(("code", "command", "message"), MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_is_one_line_and_an_exit_code(spct, files, code, command, message):
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = str(listening.getsockname()[1])
        found, output, errors = spct(*(word.replace("{port}", port) for word in command))
    assert (found, output) == (code, "")
    assert errors.startswith("spct: ")
    assert errors.count("\n") == 1
    assert message in errors
    assert "Traceback" not in errors


def test_a_servers_address_may_be_taken_back(spct, files):
    code, _, _ = spct(
        *("judge", "tasks.jsonl", "-o", "rewards.jsonl", "-c", "judge.yaml"),
        *("-s", "server={url: null, run: a}"),
    )
    assert (code, len(rewards())) == (0, 2)


WOULD_END = {
    "no fallback": ("agent", "", "reward.on_failure: 'abstain'"),
    "no tokenizer": ("reward", "openrlhf: {fallback: group_mean}", "openrlhf.tokenizer: "),
    "unknown key": (
        "agent",
        "openrlhf: {fall_back: group_mean}",
        "openrlhf.fall_back: unknown key",
    ),
    "no such plugin": ("agent", "plugins: [gone.py]", "gone.py"),
    "no such gold tasks": (
        "agent",
        "openrlhf: {fallback: group_mean}\nprobes: {every: 5, gold: gone.jsonl}",
        "probes.gold: cannot read 'gone.jsonl': No such file",
    ),
}


@pytest.mark.parametrize(("adapter", "text", "why"), WOULD_END.values(), ids=WOULD_END.keys())
def test_path_fails_when_the_run_would_end(spct, tmp_path, monkeypatch, adapter, text, why):
    config = tmp_path / "judge.yaml"
    config.write_text(text)
    monkeypatch.setenv("SPCT_CONFIG", str(config))
    code, output, errors = spct("path", f"openrlhf-{adapter}")
    assert (code, errors.count("\n")) == (2, 1)
    assert output.endswith(f"spct_openrlhf_{adapter}.py\n")
    assert errors.startswith("spct: the run will end: ")
    assert why in errors


def test_path_knows_the_policy_to_try_a_trainer_with(spct):
    code, output, errors = spct("path", "tiny-policy")
    assert (code, errors) == (0, "")
    assert {"config.json", "model.safetensors", "chat_template.jinja"} <= set(
        os.listdir(output.strip())
    )


def test_path_only_warns_of_what_may_be_right_elsewhere(spct, tmp_path, monkeypatch):
    monkeypatch.delenv("SPCT_CONFIG", raising=False)
    code, _, errors = spct("path", "openrlhf-agent")
    assert (code, errors) == (0, "spct: SPCT_CONFIG is not set here: it names the configuration\n")
    (tmp_path / "judge.yaml").write_text("openrlhf: {fallback: group_mean}")
    monkeypatch.setenv("SPCT_CONFIG", "judge.yaml")
    code, _, errors = spct("path", "openrlhf-agent")
    assert (code, "is relative" in errors) == (0, True)


USAGE = {
    "no such command": ["judges"],
    "no tasks": ["judge"],
    "no output": ["judge", "tasks.jsonl"],
    "no such option": ["judge", "tasks.jsonl", "-o", "r.jsonl", "--loud"],
    "votes that are no number": ["judge", "tasks.jsonl", "-o", "r.jsonl", "-k", "many"],
}


@pytest.mark.parametrize("command", USAGE.values(), ids=USAGE.keys())
def test_wrong_usage_ends_with_2(spct, files, command):
    code, output, errors = spct(*command)
    assert (code, output) == (2, "")
    assert "Usage: " in errors
    assert "Traceback" not in errors


def test_debug_shows_the_traceback(spct, files, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["spct", "--debug", "config", "no.yaml"])
    with pytest.raises(ValueError, match="cannot read"):
        main()


@pytest.mark.parametrize("option", ["-h", "--help"])
@pytest.mark.parametrize("command", [[], ["data"], ["judge"], ["config"], ["plugins"]])
def test_help_is_everywhere(spct, command, option):
    code, output, _ = spct(*command, option)
    assert code == 0
    assert "Usage: " in output


def test_config_prints_the_whole_configuration(spct, files):
    code, output, errors = spct("config", "judge.yaml", "-s", "vote.k=16")
    assert (code, errors) == (0, "")
    printed = yaml.safe_load(output)
    assert printed["vote"]["k"] == 16
    assert printed["engine"] == {"kind": "keyword", "word": "please"}
    assert set(printed) == set(SPCTConfig.model_fields)


def test_what_config_prints_is_a_configuration(spct, files):
    _, first, _ = spct("config", "judge.yaml")
    (files / "printed.yaml").write_text(first, encoding="utf-8")
    code, second, _ = spct("config", "printed.yaml")
    assert (code, second) == (0, first)


def test_config_without_a_file_prints_the_defaults(spct):
    _, output, _ = spct("config")
    assert yaml.safe_load(output) == yaml.safe_load(
        yaml.safe_dump(SPCTConfig().with_bundled_meta_rm().model_dump(mode="json"))
    )


def test_config_describes_the_file(spct):
    assert json.loads(spct("config", "--schema")[1]) == schema()
    assert spct("config", "--reference")[1] == reference()


def test_plugins_lists_what_is_there(spct):
    code, output, _ = spct("plugins")
    assert code == 0
    assert "builtin" in output
    assert "spct_register_engines" in output
    [builtin] = json.loads(spct("plugins", "--json")[1])
    assert builtin == {
        "name": "builtin",
        "source": "spct-plugin",
        "hooks": [
            "spct_register_attacks",
            "spct_register_engines",
            "spct_register_meta_rms",
            "spct_register_sources",
            "spct_register_templates",
            "spct_register_votes",
        ],
        "error": "",
    }


APP = """
import typer
from spct_plugin import hookimpl

app = typer.Typer()

@app.command("count")
def count(text: str) -> None:
    print(len(text))

@app.command("upper")
def upper(text: str) -> None:
    print(text.upper())

@hookimpl
def spct_register_commands(register):
    register("text", app)
    register("shout", upper)
"""


def test_a_plugin_may_add_a_command_or_a_group_of_them(spct, tmp_path, monkeypatch):
    install(tmp_path / "site", "words", "words_plugin_of_a_test", APP)
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.delenv("SPCT_LOAD_PLUGINS")
    for kind in ("registered_commands", "registered_groups"):
        monkeypatch.setattr(app, kind, list(getattr(app, kind)))
    assert spct("text", "count", "abc")[:2] == (0, "3\n")
    assert spct("shout", "abc")[:2] == (0, "ABC\n")
    del sys.modules["words_plugin_of_a_test"]


def command_line(*arguments, **options):
    return subprocess.run(
        [sys.executable, "-c", "from spct_plugin.cli import main; main()", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        **options,
    )


def test_from_outside_a_mistake_is_one_line_too(files):
    done = command_line("config", "no.yaml", cwd=files)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "spct: config: cannot read 'no.yaml': No such file or directory\n"
    debugged = command_line("--debug", "config", "no.yaml", cwd=files)
    assert debugged.returncode == 1
    assert "Traceback" in debugged.stderr


def test_no_progress_bar_where_nobody_looks(files):
    done = command_line(
        *("judge", "tasks.jsonl", "-o", "r.jsonl", "-c", "judge.yaml"),
        cwd=files,
        env={**os.environ, "FORCE_COLOR": ""},
    )
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == "2 rows judged into r.jsonl; 8 judgements, failed: none\n"


STOPPED = """
import asyncio, signal
from pathlib import Path
from typing import Literal

from spct_plugin import hookimpl
from spct_plugin.engines import Choice, EngineConfig


class Engine:
    identity, context = "stopped", None

    def __init__(self, config):
        self.config = config

    async def generate(self, request):
        if "The End of Response 3" not in request.prompt and self.config.rows:
            return [Choice("Scores: \\\\boxed{5, 5}")] * len(request.votes)
        while self.config.rows and not Path("rewards.jsonl").read_bytes():
            await asyncio.sleep(0.01)
        if self.config.sig == "cancel":
            raise asyncio.CancelledError
        signal.raise_signal(getattr(signal, self.config.sig))
        await asyncio.sleep(60)

    def fits(self, prompt, max_tokens):
        return True

    async def aclose(self):
        pass


class StoppedConfig(EngineConfig):
    kind: Literal["stopped"] = "stopped"
    sig: str
    rows: int

    def build(self):
        return Engine(self)


@hookimpl
def spct_register_engines(register):
    register("stopped", StoppedConfig)
"""


@pytest.mark.parametrize("rows", [0, 1])
@pytest.mark.parametrize(("sig", "expected"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_judge_says_what_is_finished_when_it_is_stopped(files, sig, expected, rows):
    (files / "stopped.py").write_text(STOPPED, encoding="utf-8")
    engine = f"engine={{kind: stopped, sig: {sig}, rows: {rows}}}"
    done = command_line(
        *("judge", "tasks.jsonl", "-o", "rewards.jsonl"),
        *("-s", "plugins=[stopped.py]", "-s", engine, "-k", "1", "-s", "template.nonce=false"),
        cwd=files,
        # A background job of a shell has it ignored, and its children too.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert (done.returncode, done.stdout) == (expected, "")
    assert done.stderr == (
        f"spct: stopped; {rows} rows are finished in rewards.jsonl, the same command goes on\n"
    )
    assert len(rewards(files / "rewards.jsonl")) == rows


def test_an_engine_that_cancels_itself_is_no_signal(files):
    (files / "stopped.py").write_text(STOPPED, encoding="utf-8")
    engine = "engine={kind: stopped, sig: cancel, rows: 0}"
    done = command_line(
        *("judge", "tasks.jsonl", "-o", "rewards.jsonl"),
        *("-s", "plugins=[stopped.py]", "-s", engine, "-k", "1", "-s", "template.nonce=false"),
        cwd=files,
    )
    assert done.returncode == 1
    assert "CancelledError" in done.stderr
    assert "stopped;" not in done.stderr
