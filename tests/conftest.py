"""What all tests share: one hypothesis profile, no plugin but the built-ins, a scripted judge."""

import json
import os
import sys
from pathlib import Path

import pytest
from hypothesis import settings

from spct_plugin.cli import main

# No test asks a hub; without this a wrong path would be looked up there for a minute.
os.environ.setdefault("HF_HUB_OFFLINE", "1")

# Two busy cores are no reason to fail; time limits are tests of their own.
settings.register_profile("spct", deadline=None)
settings.load_profile("spct")


TRAINERS = ("trl", "openrlhf")


def pytest_collection_modifyitems(items):
    """The trainers, and torch beneath them, warn of renamed options of their own."""
    for item in items:
        if Path(item.fspath).parent.name in TRAINERS:
            for category in ("FutureWarning", "DeprecationWarning", "UserWarning"):
                item.add_marker(pytest.mark.filterwarnings(f"ignore::{category}"))


@pytest.fixture(autouse=True)
def only_builtin_plugins(monkeypatch):
    monkeypatch.setenv("SPCT_LOAD_PLUGINS", "")
    monkeypatch.delenv("SPCT_DEBUG", raising=False)


@pytest.fixture
def spct(monkeypatch, capsys, tmp_path):
    """Run a command line in this process: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SPCT_DEBUG", "")
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["spct", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            main()
        output, errors = capsys.readouterr()
        return caught.value.code or 0, output, errors

    return run


@pytest.fixture(scope="session")
def policy(tmp_path_factory):
    """Make a policy of random weights and its tokenizer; give the folder."""
    from spct_plugin.tiny.model import build_model, build_tokenizer

    folder = tmp_path_factory.mktemp("policy")
    tokenizer = build_tokenizer(["write a note to anna about the park number 1 2 3 4"] * 50, 300)
    build_model(tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def config_file(tmp_path):
    """Write a configuration with the scripted judge; keyword arguments are more sections."""

    def write(fails="none", **sections):
        engine = {"kind": "scripted", "fails": fails, "trace": str(tmp_path / "trace")}
        data = {
            "plugins": [str(Path(__file__).parent / "scripted_plugin.py")],
            "engine": engine,
            "vote": {"k": 2},
            **sections,
        }
        path = tmp_path / "judge.yaml"
        path.write_text(json.dumps(data))
        return path

    return write


@pytest.fixture
def shown(tmp_path):
    """Read which completions each request to the scripted judge showed, by rank."""

    def read(rank=0):
        path = tmp_path / f"trace.{rank}"
        return [json.loads(line)["responses"] for line in path.read_text().splitlines()]

    return read
