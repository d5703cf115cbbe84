"""Which JSON types a field of an answer may hold, by the answer's JSON Schema."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

ANY = "any"
"""Among a field's types: its schema does not tell."""
_OF_VALUES = {
    type(None): "null",
    bool: "boolean",
    int: "integer",
    float: "number",
    str: "string",
    list: "array",
    dict: "object",
}


def types_of(schema: Mapping[str, Any], field: str) -> set[str]:
    """The JSON types that a field's values may have; never none, and not `integer` beside `number`, which includes it.

    Args:
        schema: of the answer. References into it are followed, also one that leads back to where it stands.
        field: of the answer; where the schema does not have it, it may hold anything.
    """
    parts, seen, types = [schema["properties"].get(field)], set[int](), set[str]()
    for part in parts:  # which grows by those that a part refers to
        if id(part) not in seen:
            seen.add(id(part))
            told, further = _read(schema, part)
            types |= told
            parts += further
    if "number" in types:
        types.discard("integer")
    return types or {ANY}


def _read(schema: Mapping[str, Any], part: object) -> tuple[set[str], list[Any]]:
    """The types that a part of a schema tells itself, and the parts that tell the others."""
    match part:
        case {"$ref": str(reference)}:
            return set(), [_referred(schema, reference)]
        case {"type": str(name)}:
            return {name}, []
        case {"type": [*names]}:
            return set(names), []
        case {"enum": [*values]}:
            return {_OF_VALUES.get(type(value), ANY) for value in values}, []
        case {"const": value}:
            return {_OF_VALUES.get(type(value), ANY)}, []
        case {"anyOf": [*choices]} | {"oneOf": [*choices]}:
            return set(), choices
    return {ANY}, []


def _referred(schema: object, reference: str) -> object:
    """What stands at a JSON pointer (RFC 6901) like `#/$defs/Severity`; None where nothing does."""
    root, *names = reference.split("/")
    found = schema if root == "#" else None
    for name in names:
        found = found.get(name.replace("~1", "/").replace("~0", "~")) if isinstance(found, Mapping) else None
    return found
