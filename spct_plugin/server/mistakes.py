"""What is wrong with a body, in words for who sent it: where, what was expected, what was found.

pydantic names its own classes, and tells of a union once for each of its members.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from starlette.requests import ClientDisconnect

from spct_plugin.types import is_list, is_mapping

Place = tuple[str | int, ...]

# Mistakes told of, characters of what was found, and of all; chosen by us: what a person reads.
MOST, FOUND_CHARS, ALL_CHARS = 5, 40, 1000
WORDS = {
    "string_type": "a text",
    "string_unicode": "a text of whole characters",
    "string_pattern_mismatch": "a text like {pattern}",
    "list_type": "a list",
    "dict_type": "an object",
    "model_type": "an object",
    "model_attributes_type": "an object",
    "missing": "a value",
    "too_short": "a length of at least {min_length}",
    "too_long": "a length of at most {max_length}",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "int_parsing": "a whole number",
    "greater_than": "a number above {gt:g}",
    "greater_than_equal": "at least {ge:g}",
    "less_than_equal": "at most {le:g}",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
}
"""What was expected, by pydantic's type of error."""
LISTS = {
    "MessageRequest": "a list of messages",
    "dict": "a list of parts",
    "str": "a list of texts",
}
"""Lists that are members of a union, by what pydantic's name of the member holds."""


def describe(errors: Sequence[Mapping[str, Any]]) -> str:
    """Say in one line what pydantic found wrong with a request."""
    found: dict[Place, list[Mapping[str, Any]]] = {}
    for error in errors:
        found.setdefault(_place(error["loc"]), []).append(error)
    told = [f"{_named(place)}: {_said(found[place])}" for place in found if _is_last(place, found)]
    return "; ".join(told[:MOST])[:ALL_CHARS]


def describe_unread(cause: BaseException | None) -> str | None:
    """Say why a body could not be read; None = by this cause it could."""
    match cause:
        case json.JSONDecodeError():
            why = f"{cause.msg.removesuffix(' at')} at character {cause.pos}"
        case UnicodeDecodeError():
            byte = cause.object[cause.start]
            why = f"expected UTF-8, found 0x{byte:02x} as byte {cause.start}"
        case RecursionError():
            why = "nested too deeply; flatten it"
        case ValueError() if "digits" in str(cause):
            most = sys.get_int_max_str_digits()
            why = f"expected whole numbers of at most {most} digits, found a longer one"
        case ClientDisconnect():
            return "the connection was closed before the whole body came"
        case _:
            return None
    return f"the body is no JSON: {why}"


def describe_kind(content_type: str | None) -> str:
    """Say that a body did not say that it is JSON."""
    found = "none" if content_type is None else _shown(content_type)
    return f"expected the header Content-Type: application/json, found {found}"


def _place(location: Place) -> Place:
    """Leave out `body` or `query`, and the members of unions: no key of ours is named like them."""
    return tuple(part for part in location[1:] if not _is_member(part))


def _is_member(part: str | int) -> bool:
    return isinstance(part, str) and (part == "str" or "[" in part)


def _named(place: Place) -> str:
    return ".".join(map(str, place)) or "body"


def _is_last(place: Place, found: Mapping[Place, Any]) -> bool:
    """Whether nothing inside is wrong: then a union had a member of this kind, which says more."""
    return not any(other != place and other[: len(place)] == place for other in found)


def _said(errors: Sequence[Mapping[str, Any]]) -> str:
    """Tell of the mistakes at one place: one, or one for each member of a union."""
    # As above: of the right kind, but wrong in another way.
    others = [error for error in errors if not error["type"].endswith("_type")]
    chosen = others[:1] or errors
    first = chosen[0]
    if first["type"] not in WORDS:
        return str(first["msg"]).removeprefix("Value error, ")
    return f"expected {' or '.join(map(_expected, chosen))}, found {_found(first)}"


def _expected(error: Mapping[str, Any]) -> str:
    member = error["loc"][-1]
    if error["type"] == "list_type" and _is_member(member):
        return next((words for name, words in LISTS.items() if name in member), "a list")
    return WORDS[error["type"]].format_map(error.get("ctx") or {})


def _found(error: Mapping[str, Any]) -> str:
    if error["type"] == "missing":
        return "none"
    return str((error.get("ctx") or {}).get("actual_length", "")) or _shown(error["input"])


def _shown(found: Any) -> str:
    """Show a value of JSON, of which the beginning is enough."""
    if is_mapping(found):
        return "an object"
    if is_list(found):
        return "a list"
    if isinstance(found, str):
        return f"{found[:FOUND_CHARS]!r}{'...' if len(found) > FOUND_CHARS else ''}"
    return json.dumps(found)[:FOUND_CHARS]
