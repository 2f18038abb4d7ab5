"""What all tests share: one hypothesis profile, and no plugin but the built-ins."""

import os
import sys

import pytest
from hypothesis import settings

from spct_plugin.cli import main

# No test asks a hub; without this a wrong path would be looked up there for a minute.
os.environ.setdefault("HF_HUB_OFFLINE", "1")

# Two busy cores are no reason to fail; time limits are tests of their own.
settings.register_profile("spct", deadline=None)
settings.load_profile("spct")


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
