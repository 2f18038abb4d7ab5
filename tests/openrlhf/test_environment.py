"""The environment of these tests is the one that OpenRLHF asks for."""

from importlib.metadata import requires, version
from pathlib import Path

from packaging.requirements import Requirement


def test_has_what_openrlhf_requires():
    required = [Requirement(line) for line in requires("openrlhf")]
    required = [r for r in required if r.marker is None or r.marker.evaluate({"extra": ""})]

    assert [str(r) for r in required if version(r.name) not in r.specifier] == []


def test_openrlhfs_package_called_tests_does_not_hide_our_conftest(request):
    ours = Path(__file__).parents[1] / "conftest.py"

    assert request.config.pluginmanager.has_plugin(str(ours))
