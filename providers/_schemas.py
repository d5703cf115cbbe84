"""A pydantic-made JSON schema in the subset that a provider's structured output takes; pure functions.

Answers are checked against the task's own schema later, so an adapted schema only has to steer the model:
it may be narrower or (Anthropic) wider than the original, but never contradict it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Schema = dict[str, Any]

NOT_IN_STRICT = frozenset(
    {
        *("allOf", "not", "if", "then", "else", "dependentRequired", "dependentSchemas", "patternProperties"),
        *("prefixItems", "uniqueItems", "contains", "minContains", "maxContains", "unevaluatedItems"),
        *("propertyNames", "minProperties", "maxProperties", "unevaluatedProperties"),
    }
)
"""Keywords that OpenAI's strict mode does not know (OpenAI Structured Outputs guide, "Supported schemas")."""

STRICT_FORMATS = frozenset({"date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid"})
"""String formats of OpenAI's strict mode (Structured Outputs guide); others are annotations, and left out."""

ANTHROPIC_FORMATS = STRICT_FORMATS | {"uri"}
"""String formats that Anthropic's structured output takes (anthropic SDK, `lib/_parse/_transform.py`)."""


class _NotStrict(Exception):
    """The schema holds what strict mode can't say, e.g. an object with free keys."""


def strict_schema(schema: Schema) -> Schema | None:
    """Adapt a schema to OpenAI's strict mode: every property required, no further ones, at every level.

    Defaults go, as nothing is optional any more; tagged unions become `anyOf`; a `$ref` with other keywords
    beside it is written out, as the openai SDK does (`lib/_pydantic.py`).

    Returns:
        The adapted schema, or None where strict mode can't express it (free keys, tuples, no type, a root that
        is no object); such a schema is sent unchanged and not strict.
    """
    rooted = schema
    if "$ref" in schema:  # a recursive model; the root has to be an object itself
        target = _resolve(schema, schema["$ref"])
        rooted = {**target, "$defs": schema.get("$defs", {})} if isinstance(target, dict) else {}
    try:
        adapted = _strict(rooted, rooted, frozenset())
    except _NotStrict:
        return None
    return adapted if adapted.get("type") == "object" else None


def _strict(schema: object, root: Schema, open_refs: frozenset[str]) -> Schema:
    if not isinstance(schema, dict) or NOT_IN_STRICT & schema.keys():
        raise _NotStrict
    if "$ref" in schema:
        return _strict_ref(schema, root, open_refs)

    def adapt(part: object) -> Schema:
        return _strict(part, root, open_refs)

    adapted = _with_any_of(schema)
    if adapted.get("format") not in STRICT_FORMATS:
        adapted.pop("format", None)
    _adapt_parts(adapted, adapt)
    if adapted.get("type") == "object":
        _close_object(adapted)
    elif not {"type", "anyOf", "enum", "const"} & adapted.keys():
        raise _NotStrict
    return adapted


def _with_any_of(schema: Schema) -> Schema:
    """A copy without defaults, its tagged union as `anyOf`; any other `oneOf` can't be said strictly."""
    adapted = {key: value for key, value in schema.items() if key not in {"default", "discriminator", "oneOf"}}
    if "oneOf" in schema:
        if "discriminator" not in schema:
            raise _NotStrict
        adapted["anyOf"] = schema["oneOf"]
    return adapted


def _strict_ref(schema: Schema, root: Schema, open_refs: frozenset[str]) -> Schema:
    """A reference stays one; with other keywords beside it its target is written out under them."""
    ref = schema["$ref"]
    beside = {key: value for key, value in schema.items() if key not in {"$ref", "default"}}
    if beside and ref not in open_refs:
        return {**_strict(_resolve(root, ref), root, open_refs | {ref}), **beside}
    return {"$ref": ref}


def _resolve(root: Schema, ref: str) -> object:
    target: Any = root
    for part in ref.removeprefix("#/").split("/"):
        target = target.get(part) if isinstance(target, dict) else None
    return target


def _adapt_parts(adapted: Schema, adapt: Callable[[object], Schema]) -> None:
    """Adapt every schema inside this one, in place."""
    for keyword in ("$defs", "properties"):
        if keyword in adapted:
            adapted[keyword] = {name: adapt(part) for name, part in adapted[keyword].items()}
    if "anyOf" in adapted:
        adapted["anyOf"] = [adapt(part) for part in adapted["anyOf"]]
    if "items" in adapted:
        adapted["items"] = adapt(adapted["items"])


def _close_object(adapted: Schema) -> None:
    """Require every property and allow no other; free keys with a type of their own can't be said."""
    further = adapted.get("additionalProperties", False)
    if isinstance(further, dict) or (further is True and not adapted.get("properties")):
        raise _NotStrict
    adapted.setdefault("properties", {})
    adapted["required"] = list(adapted["properties"])
    adapted["additionalProperties"] = False


def anthropic_schema(schema: Schema) -> Schema:
    """Adapt a schema to Anthropic's structured output: closed objects, and no constraints it refuses with 400.

    What it refuses (lengths, bounds, patterns, more than one `minItems`) is told to the model in the description
    instead. The same as `anthropic.transform_schema`, which can't be used where no SDK may be imported; a
    contract test compares the two.
    """
    rest = dict(schema)
    adapted: Schema = {}
    if "$defs" in rest:
        adapted["$defs"] = {name: anthropic_schema(part) for name, part in rest.pop("$defs").items()}
    if "$ref" in rest:
        return {**adapted, "$ref": rest["$ref"]}
    _take_kind(rest, adapted)
    for keyword in ("description", "title"):
        if rest.get(keyword) is not None:
            adapted[keyword] = rest[keyword]
        rest.pop(keyword, None)
    _TAKE_PARTS.get(adapted.get("type", ""), _take_nothing)(rest, adapted)
    if rest:
        told = "{" + ", ".join(f"{key}: {value}" for key, value in rest.items()) + "}"
        adapted["description"] = f"{adapted['description']}\n\n{told}" if "description" in adapted else told
    return adapted


def _take_kind(rest: Schema, adapted: Schema) -> None:
    """Move what says the kind of value: fixed values, a union, or a type."""
    kind = rest.pop("type", None)
    unions = {keyword: rest.pop(keyword, None) for keyword in ("anyOf", "oneOf", "allOf")}
    _take_fixed(rest, adapted)
    union = next((keyword for keyword, parts in unions.items() if isinstance(parts, list)), None)
    if union is not None:
        adapted["allOf" if union == "allOf" else "anyOf"] = [anthropic_schema(part) for part in unions[union]]
    elif kind is not None and not adapted.keys() & {"enum", "const"}:
        adapted["type"] = kind


def _take_fixed(rest: Schema, adapted: Schema) -> None:
    """Move the values that a schema fixes, where they are plain."""
    if isinstance(rest.get("enum"), list) and rest["enum"] and all(map(_is_scalar, rest["enum"])):
        adapted["enum"] = list(rest.pop("enum"))
    if "const" in rest and _is_scalar(rest["const"]):
        adapted["const"] = rest.pop("const")


def _is_scalar(value: object) -> bool:
    return value is None or isinstance(value, str | int | float)


def _take_nothing(rest: Schema, adapted: Schema) -> None:
    """Other types have no keywords that are taken."""


def _take_object(rest: Schema, adapted: Schema) -> None:
    adapted["properties"] = {name: anthropic_schema(part) for name, part in rest.pop("properties", {}).items()}
    rest.pop("additionalProperties", None)
    adapted["additionalProperties"] = False
    required = rest.pop("required", None)
    if required is not None:
        adapted["required"] = list(required)


def _take_string(rest: Schema, adapted: Schema) -> None:
    if rest.get("format") in ANTHROPIC_FORMATS:
        adapted["format"] = rest.pop("format")


def _take_array(rest: Schema, adapted: Schema) -> None:
    if rest.get("items") is not None:
        adapted["items"] = anthropic_schema(rest.pop("items"))
    if rest.get("minItems") in {0, 1}:
        adapted["minItems"] = rest.pop("minItems")


_TAKE_PARTS: dict[str, Callable[[Schema, Schema], None]] = {
    "object": _take_object,
    "string": _take_string,
    "array": _take_array,
}


def gemini_schema(schema: Schema) -> Schema:
    """Adapt a schema to Gemini's `responseJsonSchema`: nothing stands beside a `$ref` but what begins with `$`.

    The target is written out under what stood there; of a recursive reference only the reference stays (google-genai
    SDK, `GenerateContentConfig.response_json_schema`).
    """
    adapted: Schema = _alone(schema, schema, frozenset())
    return adapted


def _alone(node: Any, root: Schema, open_refs: frozenset[str]) -> Any:
    if isinstance(node, list):
        return [_alone(part, root, open_refs) for part in node]
    if not isinstance(node, dict):
        return node
    if isinstance(node.get("$ref"), str):
        return _alone_ref(node, root, open_refs)
    return {key: _alone(part, root, open_refs) for key, part in node.items()}


def _alone_ref(node: Schema, root: Schema, open_refs: frozenset[str]) -> Schema:
    """A reference with nothing beside it, or to nothing, stays as it is."""
    ref = node["$ref"]
    beside = {key: part for key, part in node.items() if not key.startswith("$")}
    target = _resolve(root, ref)
    if not beside or not isinstance(target, dict):
        return node
    if ref in open_refs:
        return {key: part for key, part in node.items() if key.startswith("$")}
    return {**_alone(target, root, open_refs | {ref}), **_alone(beside, root, open_refs)}
