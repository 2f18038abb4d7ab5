"""The configuration described: a JSON schema for editors, and the page docs/configuration.md."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined, to_jsonable_python

from spct_plugin.config import SPCTConfig
from spct_plugin.config_file import Section
from spct_plugin.plugins import load_plugins
from spct_plugin.sections import BreakerConfig, GrmReward, RuleReward

INTRODUCTION = """\
# Configuration

One YAML file; unknown keys are errors. `spct config FILE` checks it and prints it whole. Every key
may be overridden on the command line: `-s vote.k=16`. This page is `spct config --reference`, and a
test keeps it equal to the code.
"""


def schema() -> dict[str, Any]:
    """Describe the file as JSON schema, engines and meta RMs of all loaded plugins included."""
    document = SPCTConfig.model_json_schema()
    registry = load_plugins()
    engines = [engine.model_json_schema() for engine in registry.engines.values()]
    document["properties"]["engine"] = {"anyOf": engines}
    meta_rms = [meta_rm.model_json_schema() for meta_rm in registry.meta_rms.values()]
    document["properties"]["meta_rm"] = {"anyOf": [*meta_rms, {"type": "null"}]}
    return document


def reference() -> str:
    """Write the reference page."""
    return INTRODUCTION + "".join(_pages())


def _pages() -> Iterator[str]:
    yield _section("(top level)", SPCTConfig, skip_sections=True)
    registry = load_plugins()
    for kind, engine in registry.engines.items():
        yield _section(f"engine, kind: {kind}", engine)
    for kind, meta_rm in registry.meta_rms.items():
        yield _section(f"meta_rm, kind: {kind}", meta_rm)
    for name, field in SPCTConfig.model_fields.items():
        section = field.annotation
        if name != "engine" and isinstance(section, type) and issubclass(section, Section):
            yield _section(name, section)
            if name == "reward":
                yield _section("reward.rewards, the judge", GrmReward)
                yield _section("reward.rewards, a rule", RuleReward)
                yield _section("reward.breaker", BreakerConfig)


def _section(title: str, model: type[BaseModel], *, skip_sections: bool = False) -> str:
    lines = [f"\n## {title}\n\n{(model.__doc__ or '').strip()}\n\n"]
    lines.append("| key | type | default | meaning |\n|---|---|---|---|\n")
    properties = model.model_json_schema()["properties"]
    for name, field in model.model_fields.items():
        kind = field.annotation
        if skip_sections and isinstance(kind, type) and issubclass(kind, BaseModel):
            continue
        meaning = " ".join((field.description or "").split()).replace("|", "\\|")
        lines.append(f"| `{name}` | {_type(properties[name])} | {_default(field)} | {meaning} |\n")
    return "".join(lines)


def _type(schema: Mapping[str, Any]) -> str:
    """Say in YAML's words what a key takes."""
    if "anyOf" in schema:
        return " or ".join(_type(option) for option in schema["anyOf"])
    if "enum" in schema or "const" in schema:
        values = schema.get("enum") or [schema["const"]]
        return " or ".join(f"`{value}`" for value in values)
    if schema.get("type") == "array":
        if "prefixItems" in schema:
            return f"list of {len(schema['prefixItems'])}"
        return f"list of {_type(schema['items'])}"
    names = {"string": "text", "integer": "whole number", "object": "section", "boolean": "yes/no"}
    kind = str(schema.get("type", "object"))
    return "path" if schema.get("format") == "path" else names.get(kind, kind)


def _default(field: FieldInfo) -> str:
    """Write the default as YAML."""
    value: Any = field.get_default(call_default_factory=True)
    if value is PydanticUndefined:
        return "required"
    if value == (GrmReward(grm={}),):
        return "`[{grm: {}}]`"
    return (
        "see below"
        if isinstance(value, BaseModel)
        else f"`{json.dumps(to_jsonable_python(value))}`"
    )
