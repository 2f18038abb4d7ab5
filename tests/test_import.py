"""What importing costs: no trainer, no torch, no HTTP client, and no peeking at the tiny world."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import spct_plugin

HEAVY = (
    *("torch", "transformers", "trl", "vllm", "openrlhf", "aiohttp", "ray", "matplotlib"),
    *("fastapi", "uvicorn", "prometheus_client"),
)
PACKAGE = Path(spct_plugin.__file__).parent


def modules_after(code):
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; print(*sys.modules, file=sys.stderr)"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return set(done.stderr.split())


HELP = """
import sys
sys.argv = ["spct", "--help"]
from spct_plugin.cli import main
try:
    main()
except SystemExit as end:
    assert not end.code
"""
CONFIGURE = """
import spct_plugin
spct_plugin.SPCTConfig.load(overrides=["engine={kind: openai, url: 'http://x/v1', model: m}"])
from spct_plugin.testing import ScriptedEngine
spct_plugin.RewardModel(engine=ScriptedEngine([]))
"""
META_RM = """
import spct_plugin
spct_plugin.SPCTConfig.load(overrides=["meta_rm={kind: transformers, model: some/hub-id}"])
"""


@pytest.mark.parametrize("code", ["import spct_plugin", HELP, CONFIGURE, META_RM])
def test_nothing_heavy_is_imported(code):
    imported = {name.partition(".")[0] for name in modules_after(code)}
    assert not imported.intersection(HEAVY)


def test_everything_public_is_there_and_sorted():
    assert spct_plugin.__all__ == sorted(
        spct_plugin.__all__, key=lambda name: (name.islower(), name)
    )
    for name in spct_plugin.__all__:
        assert getattr(spct_plugin, name).__module__.startswith(("spct_plugin", "pluggy"))


def imports(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def module_name(path):
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def reachable(start):
    """Follow imports, also those inside functions, from a module through the package."""
    files = {module_name(path): path for path in PACKAGE.rglob("*.py")}
    seen, waiting = set(), [start]
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        for found in imports(files[name]):
            for candidate in (found, found.rpartition(".")[0]):
                if candidate in files:
                    waiting.append(candidate)
    return seen


def test_the_reward_path_never_reaches_the_worlds_checker():
    found = reachable("spct_plugin.reward_model")
    assert {"spct_plugin.judge", "spct_plugin.voting", "spct_plugin.engines.openai"} <= found
    assert "spct_plugin.tiny.world" not in found


PURE = ("parsing", "voting", "permutations", "shaping", "budget", "types", "failures", "errors")
IMPURE = {
    "asyncio",
    "os",
    "pathlib",
    "time",
    "sqlite3",
    "socket",
    "threading",
    "secrets",
    "logging",
}


@pytest.mark.parametrize("name", PURE)
def test_pure_modules_import_nothing_that_reads_a_clock_a_disk_or_a_network(name):
    used = {found.partition(".")[0] for found in imports(PACKAGE / f"{name}.py")}
    assert not used & IMPURE
    assert ("random" in used) is (name == "permutations")


def test_every_pure_module_depends_on_pure_modules_only():
    allowed = {f"spct_plugin.{name}" for name in PURE}
    for name in PURE:
        used = {found for found in imports(PACKAGE / f"{name}.py") if found.startswith("spct_")}
        assert {found.rpartition(".")[0] for found in used} <= allowed, name
