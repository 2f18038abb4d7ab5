"""The documents say what the code does."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer
import yaml

from spct_plugin import SPCTConfig, hookspecs
from spct_plugin.cli import app
from spct_plugin.config_reference import reference

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page, language):
    return [text for name, text in BLOCK.findall(page.read_text()) if name == language]


def test_the_configuration_page_is_generated_from_the_code():
    assert (ROOT / "docs/configuration.md").read_text() == reference()


def test_the_first_example_of_the_readme_prints_what_it_says():
    found = BLOCK.findall((ROOT / "README.md").read_text())
    index = next(i for i, (language, _) in enumerate(found) if language == "python")
    done = subprocess.run(
        [sys.executable, "-c", found[index][1]], capture_output=True, text=True, check=True
    )
    assert done.stdout == found[index + 1][1]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_python_block_compiles_and_every_plugin_loads(page, tmp_path):
    for number, code in enumerate(blocks(page, "python")):
        compile(code, f"{page.name}:{number}", "exec")
        if "@hookimpl" in code:
            (tmp_path / f"plugin{number}.py").write_text(code)
            config = tmp_path / "judge.yaml"
            config.write_text(f"plugins: [plugin{number}.py]")
            assert SPCTConfig.load(config).plugins


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_yaml_block_that_configures_us_is_valid(page, tmp_path):
    ours = set(SPCTConfig.model_fields)
    for text in blocks(page, "yaml"):
        data = yaml.safe_load(text)
        if set(data) <= ours and "plugins" not in data:
            path = tmp_path / "judge.yaml"
            path.write_text(text)
            assert SPCTConfig.load(path)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_every_hook_is_documented():
    page = (ROOT / "docs/plugins.md").read_text()
    hooks = [name for name in vars(hookspecs) if name.startswith("spct_")]
    assert hooks
    for hook in hooks:
        assert f"`{hook}(register)`" in page


def test_judgement_is_spelt_one_way():
    other = "judg" + "ment"
    for folder in ("spct_plugin", "integrations", "docs", "recipes"):
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in (".py", ".md", ".jinja", ".yaml"):
                assert other not in path.read_text().lower(), path


def test_the_readme_is_short():
    assert (ROOT / "README.md").read_text().count("\n") <= 160


def commands_in(page):
    """Give every command line of spct in the page's blocks, without its comment."""
    for text in blocks(page, ""):
        for line in text.replace("\\\n", " ").splitlines():
            if line.startswith("spct "):
                yield line.split("#")[0].split()[1:]


@pytest.mark.parametrize(
    "page",
    [*PAGES, *sorted((ROOT / "recipes").rglob("*.md"))],
    ids=lambda page: str(page.parent.name),
)
def test_every_command_and_option_exists(page):
    root = typer.main.get_command(app)
    for name, *words in commands_in(page):
        command = root.commands[name]
        if hasattr(command, "commands"):
            command = command.commands[words[0]]
        known = {option for parameter in command.params for option in parameter.opts}
        used = {word for word in words if re.fullmatch(r"--?[a-z][a-z-]*", word)}
        assert used <= known or command.ignore_unknown_options, (name, used - known)
