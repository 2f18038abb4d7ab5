"""Find plugins, load them, and collect what they register.

    load_plugins([Path("my_judge.py")]).engines

Built-ins register through the same hooks as everybody else. An installed plugin that cannot be
loaded is named and skipped, or fatal when `strict`; two owners of one name are always an error.
"""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import os
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from importlib.metadata import distributions
from pathlib import Path
from typing import Any, TypeVar

import pluggy

from spct_plugin import builtin, hookspecs
from spct_plugin.data.sources import Source
from spct_plugin.engines import EngineConfig
from spct_plugin.errors import PluginError
from spct_plugin.meta_rm import MetaRMConfig
from spct_plugin.redteam import Family
from spct_plugin.templates import Template
from spct_plugin.voting import Vote

T = TypeVar("T")

log = logging.getLogger(__name__)

HOOK_PREFIX = "spct_register_"
FILE = "file"
"""Source of a plugin that the user named by its file."""
_reported: set[str] = set()


@dataclass(frozen=True)
class Plugin:
    """A plugin that was found.

    Attributes:
        name: Entry point name, file path, or "builtin".
        source: Distribution and version, or "file".
        hooks: The hooks it implements, sorted; empty when it failed.
        error: Why it could not be loaded; "" when it could.
    """

    name: str
    source: str
    hooks: tuple[str, ...] = ()
    error: str = ""


@dataclass
class Registry:
    """Everything registered, by name.

    Attributes:
        engines: Engine kinds and their configuration classes.
        meta_rms: Kinds of meta RM and their configuration classes.
        templates: Bundled templates and those of plugins.
        votes: Ways to vote.
        sources: Preference sets that `spct data` reads.
        attacks: Families of attacks that `spct redteam` makes.
        commands: Commands of `spct` that plugins add.
        plugins: All plugins found, broken ones too.
    """

    engines: dict[str, type[EngineConfig]] = field(default_factory=dict[str, type[EngineConfig]])
    meta_rms: dict[str, type[MetaRMConfig]] = field(default_factory=dict[str, type[MetaRMConfig]])
    templates: dict[str, Template] = field(default_factory=dict[str, Template])
    votes: dict[str, Vote] = field(default_factory=dict[str, Vote])
    sources: dict[str, Source] = field(default_factory=dict[str, Source])
    attacks: dict[str, Family] = field(default_factory=dict[str, Family])
    commands: dict[str, Callable[..., Any]] = field(default_factory=dict[str, Callable[..., Any]])
    plugins: list[Plugin] = field(default_factory=list[Plugin])
    owners: dict[tuple[str, str], str] = field(default_factory=dict[tuple[str, str], str])

    def add(self, kind: str, name: str, value: object, owner: str) -> None:
        """Take in one registration.

        Raises:
            PluginError: The name is taken.
        """
        if (kind, name) in self.owners:
            raise PluginError(
                f"{name!r} is registered in {kind} by plugin {self.owners[kind, name]!r} and again "
                f"by {owner!r}; rename one, or leave one out with SPCT_LOAD_PLUGINS"
            )
        self.owners[kind, name] = owner
        getattr(self, kind)[name] = value


def load_plugins(files: Sequence[Path] = (), *, strict: bool = False) -> Registry:
    """Load built-ins, installed plugins and local files, and let them register.

    The environment variable SPCT_LOAD_PLUGINS, a comma-separated list of entry point names,
    restricts the installed ones; empty means none.

    Args:
        files: Python files to load as plugins; one that fails is always an error.
        strict: Raise for an installed plugin that fails, instead of naming and skipping it.

    Raises:
        PluginError: A name registered twice, or a plugin that fails and may not be skipped.
    """
    allowed = os.environ.get("SPCT_LOAD_PLUGINS")
    return _load_once(tuple(files), strict, allowed, tuple(sys.path))


@lru_cache
def _load_once(
    files: tuple[Path, ...], strict: bool, allowed: str | None, _path: tuple[str, ...]
) -> Registry:
    """Load, once in a process: what is installed while a server runs must not get into it."""
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    registry = Registry()
    _load(registry, manager, lambda: builtin, "builtin", "spct-plugin", strict=True)
    for name, source, find in _installed(allowed):
        _load(registry, manager, find, name, source, strict=strict)
    for path in files:
        _load(registry, manager, partial(import_file, path), str(path), FILE, strict=True)
    return registry


def run_foreign(call: Callable[[], T], failed: str) -> T:
    """Run somebody else's code: a plugin's or a rule file's at start-up, later a rule.

    Raises:
        PluginError: Whatever it raised, named; begins with `failed`.
    """
    try:
        return call()
    # Boundary: a plugin may raise anything; the host must be able to name it, and to go on.
    except (Exception, SystemExit) as error:
        raise PluginError(f"{failed}: {_reason(error)}") from error


async def await_foreign(called: Awaitable[T], failed: str) -> T:
    """Wait for somebody else's code; see `run_foreign`.

    Raises:
        PluginError: Whatever it raised, named; begins with `failed`.
    """
    try:
        return await called
    # The same boundary as that of `run_foreign`.
    except Exception as error:
        raise PluginError(f"{failed}: {_reason(error)}") from error


def _reason(error: BaseException) -> str:
    """Say in one line why somebody else's code failed."""
    if isinstance(error, PluginError):
        return str(error)
    text = " ".join(str(error).split())
    if isinstance(error, SyntaxError) and error.filename is not None:
        text = f"{error.filename}, line {error.lineno}: {error.msg}"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def import_file(path: Path) -> object:
    """Import a Python file under a name of its own.

    Raises:
        PluginError: There is none, or it is no Python file.
    """
    if not path.exists():
        raise PluginError("there is no such file")
    name = f"spct_file_{path.stem}_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise PluginError(f"expected a Python file, found {str(path)!r}")
    if name in sys.modules:
        # Loaded twice, its classes would be two, and pickle refuses those.
        return sys.modules[name]
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    whole = False
    try:
        spec.loader.exec_module(module)
        whole = True
    finally:
        if not whole:
            del sys.modules[name]
    return module


def _installed(allowed: str | None) -> Iterator[tuple[str, str, Callable[[], object]]]:
    names = None if allowed is None else [name.strip() for name in allowed.split(",")]
    seen: set[tuple[str, str]] = set()
    for distribution in distributions():
        for entry in distribution.entry_points:
            if entry.group == hookspecs.PROJECT and (names is None or entry.name in names):
                project = distribution.metadata["Name"]
                # Found again further down the path: Python would not import that one either.
                if (project.lower(), entry.name) not in seen:
                    seen.add((project.lower(), entry.name))
                    yield entry.name, f"{project} {distribution.version}", entry.load


def _load(
    registry: Registry,
    manager: pluggy.PluginManager,
    find: Callable[[], object],
    name: str,
    source: str,
    *,
    strict: bool,
) -> None:
    try:
        plugin, registrations = run_foreign(
            lambda: _registrations(manager, find(), name, source),
            f"plugin {name!r} ({source}) cannot be loaded",
        )
    except PluginError as error:
        if strict:
            raise
        if str(error) not in _reported:
            log.warning("%s; it was skipped", error)
            _reported.add(str(error))
        reason = _reason(error.__cause__ or error)
        plugin, registrations = Plugin(name, source, error=reason), []
    registry.plugins.append(plugin)
    for kind, key, value in registrations:
        registry.add(kind, key, value, name)


def _registrations(
    manager: pluggy.PluginManager, module: object, name: str, source: str
) -> tuple[Plugin, list[tuple[str, str, object]]]:
    """Register one plugin and run its hooks; a hook we do not know is an error."""
    manager.register(module, name)
    try:
        manager.check_pending()
    except pluggy.PluginValidationError:
        manager.unregister(name=name)
        raise
    found: list[tuple[str, str, object]] = []

    def register(kind: str, key: str, value: object) -> None:
        found.append((kind, key, value))

    callers = sorted(manager.get_hookcallers(module) or [], key=lambda caller: caller.name)
    if source == FILE and not callers:
        # Not refused: a file may be there for what its import does.
        log.warning(
            "plugin %r registers nothing: expected a function such as "
            "spct_register_votes(register) under @hookimpl; write one, or leave the file out of "
            "`plugins:`",
            name,
        )
    for caller in callers:
        kind = caller.name.removeprefix(HOOK_PREFIX)
        for implementation in caller.get_hookimpls():
            if implementation.plugin is module:
                implementation.function(partial(register, kind))
    return Plugin(name, source, tuple(caller.name for caller in callers)), found
