"""A configuration file, read and overridden; what is wrong with it, said in one line.

    data = read_settings(Path("judge.yaml"), ["vote.k=16"])

Knows YAML and `Section`, the form of every section, and no key.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from spct_plugin.errors import ConfigError
from spct_plugin.types import is_mapping


class Section(BaseModel):
    """One section of the file."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        allow_inf_nan=False,
        protected_namespaces=(),
    )


class _Loader(yaml.SafeLoader):
    """YAML in which a key stands once: of two, the first would be lost without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Any] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == "tag:yaml.org,2002:merge":
                continue
            if key.value in seen:
                line = key.start_mark.line + 1
                raise yaml.YAMLError(f"the key {key.value!r} stands twice, again in line {line}")
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def read_file(path: Path) -> dict[str, Any]:
    """Read a YAML file of keys and values; an empty one has none.

    Raises:
        ConfigError: It cannot be read, or holds something else.
    """
    try:
        data = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except OSError as error:
        raise ConfigError(f"config: cannot read {str(path)!r}: {error.strerror}") from None
    except (yaml.YAMLError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"config {str(path)!r} is not YAML: {reason}") from None
    if data is None:
        return {}
    if not is_mapping(data):
        raise ConfigError(f"config {str(path)!r}: expected keys and values, found {data!r:.60}")
    return dict(data)


def read_settings(path: Path | None, overrides: Sequence[str]) -> dict[str, Any]:
    """Read a YAML file, if any, and apply overrides to it.

    Raises:
        ConfigError: One of them cannot be read.
    """
    data = read_file(path) if path is not None else {}
    for setting in overrides:
        override(data, setting)
    return data


def override(data: dict[str, Any], setting: str) -> None:
    """Set one key in place; sections that are not there are made.

    Args:
        data: What the file holds.
        setting: "section.key=value", the value in YAML.

    Raises:
        ConfigError: It is no such text, or goes through what is no section.
    """
    key, equals, text = setting.partition("=")
    if not equals or not key:
        raise ConfigError(f"expected an override like vote.k=16, found {setting!r}")
    *sections, last = key.split(".")
    for section in sections:
        inner = data.get(section, {})
        if not is_mapping(inner):
            raise ConfigError(f"override {setting!r}: {section!r} is not a section")
        data[section] = data = dict(inner)
    try:
        data[last] = yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError):
        raise ConfigError(f"override {setting!r}: the value is not YAML") from None


def explain(error: ValidationError, path: str | Path | None) -> str:
    """Say in one line which keys of which file are wrong and why."""
    return f"config {str(path)!r}: {problems(error)}" if path else f"config: {problems(error)}"


def problems(error: ValidationError) -> str:
    """Name the wrong keys, and why each is wrong, in one line."""
    return "; ".join(_problem(details, error.title) for details in error.errors())


def _problem(details: ErrorDetails, title: str) -> str:
    key = ".".join(str(part) for part in details["loc"] if part not in ("grm_entry", "rule_entry"))
    kind, found = details["type"], f", found {details['input']!r:.60}"
    match kind:
        case "extra_forbidden":
            *section, unknown = details["loc"]
            close = get_close_matches(str(unknown), _known_keys(title, section), n=1)
            meant = f" did you mean {close[0]!r}?" if close else ""
            message = f"unknown key;{meant} `spct config --schema` lists the known ones"
        case "value_error":
            message = details["msg"].removeprefix("Value error, ")
        case "missing":
            message = "required, and not there"
        case "model_type" | "model_attributes_type":
            message = f"expected a section of keys and values{found}"
        case _:
            message = f"{details['msg']}{found}"
    return f"{key}: {message}" if key else message


def _known_keys(title: str, section: Sequence[int | str]) -> list[str]:
    """List the keys of a section; none where its form depends on more, as in a list."""
    model: type[BaseModel] = next((s for s in _sections(Section) if s.__name__ == title), Section)
    for name in section:
        field = model.model_fields.get(str(name))
        kind = field.annotation if field else None
        model = kind if isinstance(kind, type) and issubclass(kind, BaseModel) else Section
    return list(model.model_fields)


def _sections(kind: type[Section]) -> Iterator[type[Section]]:
    for section in kind.__subclasses__():
        yield section
        yield from _sections(section)
