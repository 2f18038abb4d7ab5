"""The configuration described: a JSON schema for editors, and the page docs/configuration.md."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from spct_plugin.config import BreakerConfig, GrmReward, RuleReward, Section, SPCTConfig
from spct_plugin.plugins import load_plugins

INTRODUCTION = """\
# Configuration

One YAML file; unknown keys are errors. `spct config FILE` checks it and prints it whole. Every key
may be overridden on the command line: `-s vote.k=16`. This page is `spct config --reference`, and a
test keeps it equal to the code.
"""


def schema() -> dict[str, Any]:
    """Describe the file as JSON schema, the engines of all loaded plugins included."""
    document = SPCTConfig.model_json_schema()
    engines = [engine.model_json_schema() for engine in load_plugins().engines.values()]
    document["properties"]["engine"] = {"anyOf": engines}
    return document


def reference() -> str:
    """Write the reference page."""
    return INTRODUCTION + "".join(_pages())


def _pages() -> Iterator[str]:
    yield _section("(top level)", SPCTConfig, skip_sections=True)
    for kind, engine in load_plugins().engines.items():
        yield _section(f"engine, kind: {kind}", engine)
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
    for name, field in model.model_fields.items():
        kind = field.annotation
        if skip_sections and isinstance(kind, type) and issubclass(kind, BaseModel):
            continue
        meaning = " ".join((field.description or "").split()).replace("|", "\\|")
        lines.append(f"| `{name}` | {_type_name(kind)} | {_default(field)} | {meaning} |\n")
    return "".join(lines)


def _type_name(kind: Any) -> str:
    if isinstance(kind, type) and not get_args(kind):
        return kind.__name__
    if str(kind).startswith("typing.Literal"):
        return " or ".join(f"`{value}`" for value in get_args(kind))
    text = str(kind).replace("typing.", "").replace("pathlib._local.", "").replace("pathlib.", "")
    return text.replace("NoneType", "null").replace("| None", "or null").replace("|", "or")


def _default(field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=True)
    if value is PydanticUndefined:
        return "required"
    if isinstance(value, BaseModel):
        return "see below"
    if value == (GrmReward(grm={}),):
        return "`[{grm: {}}]`"
    return "null" if value is None else f"`{value}`"
