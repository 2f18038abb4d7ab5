"""What `pip install "spct-plugin[trl,openrlhf]"` brings, by asking pip's resolver."""

import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).parents[1]
FLASH_ATTN = ROOT / "tests" / "openrlhf" / "flash_attn_metadata"

pytestmark = pytest.mark.slow  # asks the package index; half a minute each


def resolve(*more):
    """Ask for the extras, beside the torch that is here: another one may weigh gigabytes."""
    command = ["install", "--dry-run", "--ignore-installed", "--quiet", "--report", "-"]
    wanted = [f"torch=={version('torch')}", ".[trl,openrlhf]", str(FLASH_ATTN), *more]
    return subprocess.run(
        [sys.executable, "-m", "pip", *command, *wanted], cwd=ROOT, capture_output=True, text=True
    )


def test_both_trainers_install_together():
    resolved = resolve()

    assert resolved.returncode == 0, resolved.stderr
    metadata = [item["metadata"] for item in json.loads(resolved.stdout)["install"]]
    found = {package["name"]: package["version"] for package in metadata}
    assert found["openrlhf"] in SpecifierSet(">=0.11.2,<0.12")
    assert found["trl"] in SpecifierSet(">=1.14.0")
    assert found["transformers"] == "5.15.0"  # the two pins of OpenRLHF that TRL has to fit
    assert found["deepspeed"] == "0.19.6"


def test_a_window_that_does_not_fit_is_refused():
    refused = resolve("transformers>=5.20")

    assert refused.returncode != 0
    assert "transformers>=5.20 because these package versions have conflicting" in refused.stderr
