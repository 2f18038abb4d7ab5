"""Plugins: found, loaded through hooks, broken ones named and skipped, duplicates refused."""

import inspect
import json
import logging
import os
import subprocess
import sys

import pytest
from judging_helpers import EXAMPLE, install, install_example

from spct_plugin import ConfigError, PluginError, RewardModel, SPCTConfig, hookspecs
from spct_plugin.data.rows import parse_task
from spct_plugin.plugins import import_file, load_plugins

HOOKS = sorted(name for name in vars(hookspecs) if name.startswith("spct_register_"))

VOTE = """
from spct_plugin import hookimpl

@hookimpl
def spct_register_votes(register):
    register("{name}", len)
"""
UNKNOWN_HOOK = """
from spct_plugin import hookimpl

@hookimpl
def spct_register_vote(register):
    register("a", len)
"""
WRONG_ARGUMENT = """
from spct_plugin import hookimpl

@hookimpl
def spct_register_votes(regster):
    pass
"""
RAISING_HOOK = """
from spct_plugin import hookimpl

@hookimpl
def spct_register_votes(register):
    register("half", len)
    raise KeyError("half way")
"""


@pytest.fixture
def site(tmp_path, monkeypatch):
    """Make a folder of installed plugins, all of which may be loaded."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delenv("SPCT_LOAD_PLUGINS", raising=False)
    yield folder
    for name in [name for name in sys.modules if name.endswith("_of_a_test")]:
        del sys.modules[name]


def found(registry):
    return {plugin.name: plugin for plugin in registry.plugins}


def test_the_package_registers_itself_through_its_own_hooks():
    registry = load_plugins()
    [builtin] = registry.plugins
    assert (builtin.name, builtin.source, builtin.error) == ("builtin", "spct-plugin", "")
    assert set(builtin.hooks) <= set(HOOKS)
    assert set(registry.engines) == {"transformers", "openai", "replay"}
    assert set(registry.meta_rms) == {"transformers", "classify"}
    assert set(registry.templates) == {"default", "single", "tiny"}
    assert set(registry.votes) == {"mean"}
    assert "helpsteer2" in registry.sources
    assert registry.commands == {}


def test_every_hook_has_a_place_in_the_registry_and_one_argument():
    registry = load_plugins()
    for hook in HOOKS:
        assert isinstance(getattr(registry, hook.removeprefix("spct_register_")), dict)
        assert list(inspect.signature(getattr(hookspecs, hook)).parameters) == ["register"]
        assert getattr(hookspecs, hook).__doc__


def test_an_installed_plugin_registers_under_its_name(site):
    install(site, "mine", "plugin_of_a_test", VOTE.format(name="loudest"), version="2.5")
    registry = load_plugins()
    assert registry.votes["loudest"] is len
    plugin = found(registry)["mine"]
    assert (plugin.source, plugin.hooks, plugin.error) == (
        "mine 2.5",
        ("spct_register_votes",),
        "",
    )


BROKEN = {
    "raises while importing": ("raise RuntimeError('no licence')", "no licence"),
    "wrong syntax": ("def f(:", "SyntaxError"),
    "missing dependency": ("import nowhere_at_all", "nowhere_at_all"),
    "unknown hook": (UNKNOWN_HOOK, "spct_register_vote"),
    "wrong argument": (WRONG_ARGUMENT, "regster"),
    "raises while registering": (RAISING_HOOK, "half way"),
    "no module": (None, "broken_plugin_of_a_test"),
}


@pytest.mark.parametrize(("source", "reason"), BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_plugin_is_named_and_skipped_and_the_others_go_on(site, caplog, source, reason):
    install(site, "broken", "broken_plugin_of_a_test", source, version="0.3")
    install(site, "fine", "fine_plugin_of_a_test", VOTE.format(name="loudest"))
    with caplog.at_level(logging.WARNING):
        registry = load_plugins()
    plugins = found(registry)
    assert reason in plugins["broken"].error
    assert plugins["broken"].source == "broken 0.3"
    assert plugins["broken"].hooks == ()
    assert plugins["fine"].error == ""
    assert set(registry.votes) == {"mean", "loudest"}
    assert "'broken' (broken 0.3) cannot be loaded" in caplog.text


@pytest.mark.parametrize(("source", "reason"), BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_plugin_is_fatal_when_strict(site, source, reason):
    install(site, "broken", "broken_plugin_of_a_test", source)
    with pytest.raises(PluginError, match=r"plugin 'broken' \(broken 1.0\) cannot be loaded: "):
        load_plugins(strict=True)


def test_a_plugin_that_is_broken_twice_does_not_take_the_next_one_with_it(
    site, tmp_path, monkeypatch
):
    install(site, "fine", "fine_plugin_of_a_test", VOTE.format(name="loudest"))
    first = tmp_path / "first"
    install(first, "broken", "broken_plugin_of_a_test", UNKNOWN_HOOK + WRONG_ARGUMENT)
    monkeypatch.syspath_prepend(first)
    registry = load_plugins()
    assert [plugin.name for plugin in registry.plugins] == ["builtin", "broken", "fine"]
    assert [plugin.name for plugin in registry.plugins if plugin.error] == ["broken"]
    assert set(registry.votes) == {"mean", "loudest"}


def test_a_plugin_that_exits_while_importing_is_skipped_too(site):
    install(site, "broken", "broken_plugin_of_a_test", "raise SystemExit(3)")
    assert "SystemExit" in found(load_plugins())["broken"].error


@pytest.mark.parametrize("name", ["mean", "loudest"])
def test_two_owners_of_a_name_are_an_error_that_names_both(site, name):
    install(site, "one", "one_plugin_of_a_test", VOTE.format(name="loudest"))
    install(site, "two", "two_plugin_of_a_test", VOTE.format(name=name))
    with pytest.raises(PluginError, match=rf"'{name}' is registered in votes by plugin '\w+'"):
        load_plugins()


def test_a_distribution_found_twice_is_loaded_once(site, tmp_path, monkeypatch):
    install(site, "mine", "plugin_of_a_test", VOTE.format(name="loudest"))
    shadowed = tmp_path / "other"
    shadowed.mkdir()
    install(shadowed, "mine", "plugin_of_a_test", version="0.9")
    monkeypatch.syspath_prepend(shadowed)
    registry = load_plugins()
    assert [(p.name, p.error) for p in registry.plugins] == [("builtin", ""), ("mine", "")]


@pytest.mark.parametrize(
    ("allowed", "names"),
    [
        ("one", {"one"}),
        ("one,two", {"one", "two"}),
        (" one , two ", {"one", "two"}),
        ("", set()),
        ("three", set()),
    ],
)
def test_the_environment_restricts_installed_plugins(site, monkeypatch, allowed, names):
    install(site, "one", "one_plugin_of_a_test", VOTE.format(name="v1"))
    install(site, "two", "two_plugin_of_a_test", VOTE.format(name="v2"))
    monkeypatch.setenv("SPCT_LOAD_PLUGINS", allowed)
    assert set(found(load_plugins())) == {"builtin"} | names


def test_a_plugin_that_may_not_be_loaded_is_not_even_imported(site, monkeypatch):
    install(site, "broken", "broken_plugin_of_a_test", "raise RuntimeError('imported')")
    monkeypatch.setenv("SPCT_LOAD_PLUGINS", "")
    assert "broken" not in found(load_plugins(strict=True))


def test_a_local_file_is_a_plugin_even_when_installed_ones_are_not(tmp_path):
    path = tmp_path / "my_judge.py"
    path.write_text(VOTE.format(name="loudest"), encoding="utf-8")
    registry = load_plugins([path])
    plugin = found(registry)[str(path)]
    assert (plugin.source, plugin.hooks) == ("file", ("spct_register_votes",))
    assert registry.votes["loudest"] is len


@pytest.mark.parametrize(("source", "reason"), BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_local_file_is_always_fatal(tmp_path, source, reason):
    path = tmp_path / "my_judge.py"
    if source is not None:
        path.write_text(source, encoding="utf-8")
    reason = reason if source is not None else "there is no such file"
    with pytest.raises(PluginError, match=f"my_judge.py' .file. cannot be loaded: .*{reason}"):
        load_plugins([path])


REASONS = {
    "wrong syntax": ("x = 1\ndef f(:", "SyntaxError: {path}, line 2: invalid syntax"),
    "an exception": ("raise ValueError('no\\n  licence')", "ValueError: no licence"),
    "one without a text": ("assert False", "AssertionError"),
    "is not there": (None, "there is no such file"),
}


@pytest.mark.parametrize(("source", "reason"), REASONS.values(), ids=REASONS.keys())
def test_why_a_file_cannot_be_loaded_is_said_for_people(tmp_path, source, reason):
    path = tmp_path / "my_judge.py"
    if source is not None:
        path.write_text(source, encoding="utf-8")
    with pytest.raises(PluginError) as raised:
        load_plugins([path])
    said = str(raised.value).removeprefix(f"plugin {str(path)!r} (file) cannot be loaded: ")
    assert said.startswith(reason.format(path=path))
    assert "\n" not in said
    assert not said.endswith("()")


@pytest.mark.parametrize("source", ["x = 1", VOTE.replace("@hookimpl", "")])
def test_a_file_that_registers_nothing_is_named(tmp_path, caplog, source):
    path = tmp_path / "my_judge.py"
    path.write_text(source, encoding="utf-8")
    assert found(load_plugins([path]))[str(path)].hooks == ()
    [record] = caplog.records
    assert record.getMessage().startswith(f"plugin {str(path)!r} registers nothing: expected a ")


def test_an_installed_plugin_says_why_for_people_too(site):
    install(site, "broken", "broken_plugin_of_a_test", "raise RuntimeError('no licence')")
    assert found(load_plugins())["broken"].error == "RuntimeError: no licence"


NAMES = ("vote.how=loudest", "engine.kind=keyword", "meta_rm.kind=short")


@pytest.mark.parametrize("override", NAMES)
def test_an_unknown_name_hints_at_the_file_that_may_know_it(override):
    with pytest.raises(ConfigError, match=r"expected .*one of .* needs the file under `plugins:`"):
        SPCTConfig.load(overrides=[override])


def test_a_file_that_is_no_python_is_fatal(tmp_path):
    path = tmp_path / "judge.yaml"
    path.write_text("x", encoding="utf-8")
    with pytest.raises(PluginError, match="expected a Python file"):
        load_plugins([path])


def test_a_file_is_imported_once(tmp_path):
    path = tmp_path / "my_judge.py"
    path.write_text("class Mine: ...", encoding="utf-8")
    assert import_file(path).Mine is import_file(path).Mine
    path.with_name("broken.py").write_text("1 / 0", encoding="utf-8")
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            import_file(path.with_name("broken.py"))


def test_loading_leaves_no_state_behind(tmp_path):
    path = tmp_path / "my_judge.py"
    path.write_text(VOTE.format(name="loudest"), encoding="utf-8")
    assert "loudest" in load_plugins([path]).votes
    assert "loudest" not in load_plugins().votes
    assert "loudest" in load_plugins([path]).votes


TASK = {"id": "a", "prompt": "Ask.", "completions": ["now", "please do", "do"], "label": 1}


def test_the_example_plugin_works_as_a_local_file():
    example = str(EXAMPLE / "spct_example.py")
    config = SPCTConfig.load(
        overrides=[
            f"plugins=[{example}]",
            "engine={kind: keyword, word: please}",
            "vote.how=median",
        ]
    )
    model = RewardModel(config)
    assert model.version.startswith("keyword:please|lines|")
    [group] = model.score_sync([parse_task(TASK).task])
    assert group.rewards == (1, 10, 1)


def test_the_examples_meta_rm_chooses_the_votes():
    config = SPCTConfig.load(
        overrides=[
            f"plugins=[{EXAMPLE / 'spct_example.py'}]",
            "engine={kind: keyword, word: please}",
            "meta_rm={kind: short}",
            "vote.k=4",
        ]
    )
    [group] = RewardModel(config).score_sync([parse_task(TASK).task], keep_judgements=True)
    assert {judgement.meta_score for judgement in group.judgements} == {-24.0}
    assert group.votes == (2, 2, 2)


def run(site, *arguments, **environment):
    env = {**os.environ, "PYTHONPATH": str(site), **environment}
    if "SPCT_LOAD_PLUGINS" not in environment:
        env.pop("SPCT_LOAD_PLUGINS", None)
    return subprocess.run(
        [sys.executable, "-c", "from spct_plugin.cli import main; main()", *arguments],
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def example_site(tmp_path):
    folder = tmp_path / "site"
    folder.mkdir()
    install_example(folder)
    return folder


def test_the_example_plugin_is_listed_and_adds_its_command(example_site):
    listed = run(example_site, "plugins", "--json")
    [example] = [p for p in json.loads(listed.stdout) if p["name"] == "example"]
    assert example["source"] == "spct-example 0.1.0"
    assert example["hooks"] == HOOKS
    assert run(example_site, "count-words", "one two three").stdout == "3\n"
    assert "count-words" in run(example_site, "--help").stdout


def test_the_example_plugin_judges_a_file(example_site, tmp_path):
    (tmp_path / "tasks.jsonl").write_text(json.dumps(TASK) + "\n", encoding="utf-8")
    (tmp_path / "judge.yaml").write_text(
        "engine: {kind: keyword, word: please}\nvote: {how: median, k: 4}", encoding="utf-8"
    )
    judged = run(
        example_site,
        *("judge", str(tmp_path / "tasks.jsonl"), "-o", str(tmp_path / "rewards.jsonl")),
        *("-c", str(tmp_path / "judge.yaml")),
    )
    assert judged.returncode == 0, judged.stderr
    [row] = map(json.loads, (tmp_path / "rewards.jsonl").read_text().splitlines())
    assert (row["id"], row["rewards"], row["label"], row["k_used"]) == ("a", [1, 10, 1], 1, 4)


def test_the_example_plugin_reads_its_own_data(example_site, tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"ask": "Name a prime.", "good": "7", "bad": "8"}\n', encoding="utf-8")
    done = run(example_site, "data", "good-bad", str(rows), "-o", str(tmp_path / "tasks.jsonl"))
    assert done.returncode == 0, done.stderr
    [row] = map(json.loads, (tmp_path / "tasks.jsonl").read_text().splitlines())
    assert (row["dataset"], row["completions"][row["label"]]) == ("good-bad", "7")


def test_without_the_plugin_its_names_are_unknown(example_site, tmp_path):
    (tmp_path / "judge.yaml").write_text("engine: {kind: keyword, word: x}", encoding="utf-8")
    refused = run(example_site, "config", str(tmp_path / "judge.yaml"), SPCT_LOAD_PLUGINS="")
    assert refused.returncode == 2
    assert "expected kind: one of ['openai', 'replay', 'transformers']" in refused.stderr


def test_a_broken_plugin_is_reported_once_per_command(site, tmp_path):
    install(site, "broken", "broken_plugin_of_a_test", "raise RuntimeError('no licence')")
    done = run(site, "config", "-s", "vote.k=3")
    assert done.returncode == 0
    assert done.stderr.count("was skipped") == 1


def test_a_plugins_command_cannot_take_the_name_of_a_built_in_one(site):
    source = (
        "from spct_plugin import hookimpl\n"
        "@hookimpl\ndef spct_register_commands(register):\n"
        "    register('judge', lambda: print('hijacked'))\n"
    )
    install(site, "thief", "thief_plugin_of_a_test", source)
    refused = run(site, "judge")
    assert "hijacked" not in refused.stdout
    assert refused.returncode == 2
    assert "'judge'" in refused.stderr


def test_an_error_with_square_brackets_is_shown_as_it_is(site):
    source = "raise RuntimeError('[/bold] [red] see [docs]')"
    install(site, "broken", "broken_plugin_of_a_test", source)
    shown = run(site, "plugins", COLUMNS="200")
    assert shown.returncode == 0, shown.stderr
    assert "[/bold] [red] see [docs]" in shown.stdout
