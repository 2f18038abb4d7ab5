"""What the package registers itself, through the same hooks as any plugin."""

from __future__ import annotations

from collections.abc import Callable

from spct_plugin.data.sources import Source
from spct_plugin.data.sources.builtin import SOURCES
from spct_plugin.engines import EngineConfig
from spct_plugin.engines.builtin import OpenAIConfig, ReplayConfig, TransformersConfig
from spct_plugin.hookspecs import hookimpl
from spct_plugin.meta_rm import MetaRMConfig
from spct_plugin.meta_rm.builtin import ClassifyConfig, TransformersMetaConfig
from spct_plugin.redteam import Family
from spct_plugin.redteam.families import FAMILIES
from spct_plugin.templates import BUNDLED, Template, load_template
from spct_plugin.voting import Vote, tally


@hookimpl
def spct_register_engines(register: Callable[[str, type[EngineConfig]], None]) -> None:
    """Register the engines that ship with the package."""
    register("transformers", TransformersConfig)
    register("openai", OpenAIConfig)
    register("replay", ReplayConfig)


@hookimpl
def spct_register_meta_rms(register: Callable[[str, type[MetaRMConfig]], None]) -> None:
    """Register the meta RMs that ship with the package."""
    register("transformers", TransformersMetaConfig)
    register("classify", ClassifyConfig)


@hookimpl
def spct_register_templates(register: Callable[[str, Template], None]) -> None:
    """Register the judges' bundled template files."""
    for name in BUNDLED:
        register(name, load_template(name))


@hookimpl
def spct_register_votes(register: Callable[[str, Vote], None]) -> None:
    """Register the mean vote; the sum of the paper's Eq. 14 is a scale of the reward."""
    register("mean", tally)


@hookimpl
def spct_register_sources(register: Callable[[str, Source], None]) -> None:
    """Register the preference sets and benchmarks we can read."""
    for name, source in SOURCES.items():
        register(name, source)


@hookimpl
def spct_register_attacks(register: Callable[[str, Family], None]) -> None:
    """Register the attacks that ship with the package."""
    for name, family in FAMILIES.items():
        register(name, family)
