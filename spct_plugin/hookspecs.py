"""The hooks a plugin may implement. All run once, at start-up; none sits in the reward path.

from spct_plugin import hookimpl

@hookimpl
def spct_register_templates(register):
    register("terse", TerseTemplate())
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    import typer

    from spct_plugin.data.sources import Source
    from spct_plugin.engines import EngineConfig
    from spct_plugin.meta_rm import MetaRMConfig
    from spct_plugin.redteam import Family
    from spct_plugin.templates import Template
    from spct_plugin.voting import Vote

PROJECT = "spct_plugin"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def spct_register_engines(register: Callable[[str, type[EngineConfig]], None]) -> None:
    """Register engines: `register(kind, EngineConfigSubclass)`.

    The class describes the `engine:` section of the configuration for this kind and builds it.
    """


@hookspec
def spct_register_meta_rms(register: Callable[[str, type[MetaRMConfig]], None]) -> None:
    """Register meta RMs: `register(kind, MetaRMConfigSubclass)`.

    The class describes the `meta_rm:` section of the configuration for this kind and builds it.
    """


@hookspec
def spct_register_templates(register: Callable[[str, Template], None]) -> None:
    """Register templates: `register(name, template)`, an object with render, parse, scale."""


@hookspec
def spct_register_votes(register: Callable[[str, Vote], None]) -> None:
    """Register votes: `register(name, function)`, from a votes x completions matrix to a Tally."""


@hookspec
def spct_register_sources(register: Callable[[str, Source], None]) -> None:
    """Register preference sets for `spct data`: `register(name, Source(function))`.

    The function turns a row into labelled examples.
    """


@hookspec
def spct_register_attacks(register: Callable[[str, Family], None]) -> None:
    """Register attacks for `spct redteam`: `register(name, Family(function, about))`.

    The function turns a scene into attempts, each with its benign twin.
    """


@hookspec
def spct_register_commands(
    register: Callable[[str, Callable[..., None] | typer.Typer], None],
) -> None:
    """Register commands of `spct`: `register(name, function or typer app)`."""
