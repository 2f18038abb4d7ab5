"""What all tests share: one hypothesis profile, and no plugin but the built-ins."""

import os

import pytest
from hypothesis import settings

# No test asks a hub; without this a wrong path would be looked up there for a minute.
os.environ.setdefault("HF_HUB_OFFLINE", "1")

# Two busy cores are no reason to fail; time limits are tests of their own.
settings.register_profile("spct", deadline=None)
settings.load_profile("spct")


@pytest.fixture(autouse=True)
def only_builtin_plugins(monkeypatch):
    monkeypatch.setenv("SPCT_LOAD_PLUGINS", "")
    monkeypatch.delenv("SPCT_DEBUG", raising=False)
