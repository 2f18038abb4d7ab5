"""`spct recipes`: what is listed, and what a copy holds."""

import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from spct_plugin import ConfigError
from spct_plugin import recipes as module
from spct_plugin.recipes import copy_recipe, recipes

ROOT = Path(__file__).parents[1]
RECIPES = ROOT / "recipes"


def test_every_recipe_is_listed_with_its_goal(spct):
    code, output, _ = spct("recipes", "list")
    assert code == 0
    assert "trl/gemma-2-27b" in output
    assert "Make the three bundled models" in output
    assert len(recipes()) == len(folders())


def folders():
    return [path for path in RECIPES.rglob("README.md") if "\n## Goal\n" in path.read_text()]


@pytest.mark.parametrize("name", [recipe.name for recipe in recipes()])
def test_a_copy_is_the_folder_and_the_files_beside_it_that_it_names(name, spct, tmp_path):
    code, output, errors = spct("recipes", "copy", name, "mine")
    assert code == 0
    folder = RECIPES / name
    assert errors.startswith(f"next: cd mine/{folder.name}, ")
    copied = {path for path in (tmp_path / "mine").rglob("*") if path.is_file()}
    assert copied == {tmp_path / line for line in output.splitlines()}
    for path in copied:
        original = folder.parent / path.relative_to(tmp_path / "mine")
        assert path.read_bytes() == original.read_bytes()
        assert path.stat().st_mode == original.stat().st_mode


def test_a_recipe_that_names_shared_files_gets_those_that_they_name_too(tmp_path):
    copy_recipe("trl/deepseek-v2-lite", tmp_path)
    found = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.*") if path.is_file()}
    assert "accelerate/zero3.yaml" in found
    assert {"launch/slurm.sbatch", "launch/vllm_policy.sh"} <= found
    assert "launch/local.sh" not in found


@pytest.mark.parametrize("name", [recipe.name for recipe in recipes()])
def test_a_copy_points_to_no_place_of_the_repository(name, tmp_path):
    pointing = [path for path in copy_recipe(name, tmp_path) if b"recipes/" in path.read_bytes()]
    assert pointing == []


def test_nothing_is_overwritten(spct, tmp_path):
    spct("recipes", "copy", "trl/qwen3-4b", "mine")
    edited = tmp_path / "mine/qwen3-4b/rl.yaml"
    edited.write_text("mine", encoding="utf-8")
    code, output, errors = spct("recipes", "copy", "trl/qwen3-4b", "mine")
    assert (code, output) == (2, "")
    assert "nothing is overwritten" in errors
    assert "mine/qwen3-4b/rl.yaml" in errors
    assert edited.read_text(encoding="utf-8") == "mine"


def test_a_second_recipe_shares_what_is_there(tmp_path):
    copy_recipe("trl/gemma-2-27b", tmp_path)
    again = {path.relative_to(tmp_path).parts[0] for path in copy_recipe("trl/qwen3-4b", tmp_path)}
    assert again == {"qwen3-4b"}
    assert copy_recipe("trl/qwen3-4b", tmp_path) == []


def test_an_unknown_recipe_and_a_bad_place_are_one_line(spct, tmp_path):
    code, _, errors = spct("recipes", "copy", "gemma", "mine")
    assert code == 2
    assert "expected a recipe: one of ['openrlhf/deepseek-v2-lite', " in errors
    (tmp_path / "file").write_text("", encoding="utf-8")
    code, _, errors = spct("recipes", "copy", "tiny", "file/inside")
    assert code == 2
    assert "cannot write to 'file/inside'" in errors


def test_an_installation_without_recipes_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "__file__", str(tmp_path / "spct_plugin/recipes.py"))
    with pytest.raises(ConfigError, match="this installation has no recipes"):
        recipes()


def test_recipes_cannot_be_imported():
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    wheel = tomllib.loads(text)["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert wheel["force-include"] == {"recipes": "spct_plugin/recipes"}
    assert not hasattr(module, "__path__")


@pytest.mark.slow  # downloads hatchling
def test_the_wheel_carries_the_recipes(tmp_path):
    command = ["pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path), str(ROOT)]
    subprocess.run([sys.executable, "-m", *command], check=True)
    [wheel] = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    installed = tmp_path / "spct_plugin/recipes"
    found = {path.relative_to(installed) for path in installed.rglob("*") if path.is_file()}
    sources = [path for path in RECIPES.rglob("*") if path.is_file()]
    assert found == {
        path.relative_to(RECIPES) for path in sources if "__pycache__" not in path.parts
    }
    assert not list(tmp_path.glob("recipes"))
