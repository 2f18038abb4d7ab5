"""The offline main job, short here and whole in `make test-long`."""

import json
import re

import pytest
from typer.testing import CliRunner

from spct_plugin import ConfigError
from spct_plugin.cli import app


def demo(folder, *options):
    """Run `spct demo`; give the numbers it wrote and what it printed."""
    numbers, report = folder / "demo.json", folder / "demo_report.html"
    files = ["--folder", str(folder / "run"), "--json", str(numbers), "--report", str(report)]
    result = CliRunner().invoke(app, ["demo", *files, *options], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return json.loads(numbers.read_text()), result.output, report.read_text()


def test_a_short_demo_trains_compares_and_reports(tmp_path):
    numbers, printed, page = demo(tmp_path, "--steps", "2", "--prompts", "8", "-k", "2")
    assert {"before", "after", "interval", "prompts", "seconds"} <= set(numbers)
    assert numbers["prompts"] == 8
    assert 0 < numbers["before"] < 1
    assert numbers["gain"] == pytest.approx(numbers["after"] - numbers["before"])
    assert numbers["interval"][0] <= numbers["gain"] <= numbers["interval"][1]
    assert f"{numbers['after']:.3f}" in printed
    assert str(tmp_path / "demo_report.html") in printed
    # Two updates of 16 prompts: their groups are in the page, with judgements to read.
    assert "Truth" in page
    assert "Specific Criteria" in page
    # Nothing is fetched from elsewhere.
    assert not re.search(r"""(?:src|href|url)\s*[=(]\s*["']?https?:""", page)


@pytest.mark.slow
def test_the_demo_raises_the_truth_beyond_its_interval(tmp_path):
    numbers, _, _ = demo(tmp_path)
    assert numbers["interval"][0] > 0


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_permuted_rewards_teach_nothing(tmp_path, seed):
    numbers, _, _ = demo(tmp_path, "--permuted", "--seed", str(seed))
    assert numbers["interval"][0] <= 0


def test_a_folder_with_other_files_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").touch()
    result = CliRunner().invoke(app, ["demo", "--folder", str(tmp_path)])
    assert isinstance(result.exception, ConfigError)
    assert "'thesis.tex'" in str(result.exception)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
