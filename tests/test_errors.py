"""The exception tree and the closed list of failures."""

import pickle

import pytest

from spct_plugin import errors, failures
from spct_plugin.errors import EngineError, SPCTError

LEAVES = [
    getattr(errors, name)
    for name in ("ConfigError", "TaskError", "PluginError", "EngineError", "StoreError")
] + [errors.RewardError]


@pytest.mark.parametrize("leaf", LEAVES)
def test_every_error_is_an_spct_error_and_stands_in_the_docstring(leaf):
    assert issubclass(leaf, SPCTError)
    assert leaf.__name__ in errors.__doc__


def test_mistakes_in_values_are_value_errors():
    assert issubclass(errors.ConfigError, ValueError)
    assert issubclass(errors.TaskError, ValueError)


@pytest.mark.parametrize("leaf", LEAVES)
def test_errors_survive_pickling(leaf):
    copy = pickle.loads(pickle.dumps(leaf("expected 2, found 3")))
    assert type(copy) is leaf
    assert str(copy) == "expected 2, found 3"


def test_engine_error_keeps_its_attributes_across_processes():
    error = EngineError("busy", failure="too_long", status_code=413, retryable=True)
    copy = pickle.loads(pickle.dumps(error))
    assert (copy.failure, copy.status_code, copy.retryable) == ("too_long", 413, True)


def test_engine_error_defaults_to_an_infrastructure_failure():
    assert EngineError("x").failure == "engine_error"


def test_the_two_families_are_apart_and_complete():
    assert failures.FAILURES == failures.JUDGE_FAILURES + failures.INFRASTRUCTURE_FAILURES
    assert len(set(failures.FAILURES)) == 8
    assert failures.INFRASTRUCTURE_FAILURES == ("engine_error", "deadline", "too_long")
