"""What a provider's structured output does not take of a schema, told before anything is sent; pure functions.

Two kinds: what the provider refuses (400, for every row), and what it takes but does not enforce, so that it only
steers the model. Sources stand with each table; numbers are the providers' published ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from batch_jobs.models import Dialect
from providers._schemas import NOT_IN_STRICT, Schema, strict_schema

OPENAI_MAX_PROPERTIES, OPENAI_MAX_DEPTH = 5_000, 10
OPENAI_MAX_ENUM_VALUES, OPENAI_LARGE_ENUM, OPENAI_LARGE_ENUM_CHARS = 1_000, 250, 15_000
OPENAI_MAX_NAME_CHARS = 120_000
"""Strict mode's (OpenAI Structured Outputs guide, "Supported schemas": objects have limitations, limits on enums)."""

ANTHROPIC_MAX_OPTIONAL, ANTHROPIC_MAX_UNIONS = 24, 16
"""Anthropic Structured outputs guide, "Schema complexity limits"; recursion and free keys under "limitations"."""

GEMINI_IGNORES = NOT_IN_STRICT - {"prefixItems"}
"""Keywords that are not on Gemini's list (google-genai SDK, `GenerateContentConfig.response_json_schema`)."""

MAX_NODES = 50_000
"""A schema that unfolds to more is judged by its beginning."""
ANY_KIND = frozenset({"type", "anyOf", "oneOf", "allOf", "enum", "const", "$ref"})
_LISTS = {"anyOf": "", "oneOf": "", "allOf": "", "prefixItems": "[]"}
"""Keywords with a list of schemas, and what each adds to the field."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that a provider does not take as it is.

    Attributes:
        field: of the answer (`parts[].kind`); empty for the answer itself.
        construct: what it is, in a few words.
        refused: the provider answers 400; else it is a hint to the model.
    """

    field: str
    construct: str
    refused: bool


@dataclass(frozen=True, slots=True)
class _Node:
    """A part of a schema as the answer has it: references followed.

    Attributes:
        depth: objects around it.
        optional: it, or something around it, need not be there.
        cycle: it refers to something around it, and is not followed.
    """

    field: str
    schema: Schema
    depth: int = 0
    optional: bool = False
    cycle: bool = False

    def field_of(self, name: str) -> str:
        """The field that a property of it is."""
        return f"{self.field}.{name}" if self.field else name


def findings(dialect: Dialect, schema: Schema) -> list[Finding]:
    """What a provider does not take of a schema, the worst first.

    Args:
        dialect: whose structured output.
        schema: of the answer, as the task has it.
    """
    nodes = [node for node, _ in zip(_walk(schema), range(MAX_NODES), strict=False)]
    found = _RULES[dialect](schema, nodes)
    return sorted(dict.fromkeys(found), key=lambda finding: not finding.refused)


def _walk(root: Schema) -> Iterator[_Node]:
    stack: list[tuple[_Node, frozenset[str]]] = [(_Node("", root), frozenset())]
    while stack:
        node, open_refs = stack.pop()
        ref = node.schema.get("$ref")
        if isinstance(ref, str):
            if ref in open_refs:
                yield _Node(node.field, node.schema, node.depth, node.optional, cycle=True)
                continue
            beside = {key: part for key, part in node.schema.items() if key != "$ref"}
            node = _Node(node.field, {**_target(root, ref), **beside}, node.depth, node.optional)
            open_refs |= {ref}
        yield node
        stack += [(part, open_refs) for part in reversed(list(_parts(node)))]


def _target(root: Schema, ref: str) -> Schema:
    found: Any = root
    for part in ref.removeprefix("#").strip("/").split("/") if ref != "#" else ():
        found = found.get(part.replace("~1", "/").replace("~0", "~")) if isinstance(found, dict) else None
    return found if isinstance(found, dict) else {}


def _parts(node: _Node) -> Iterator[_Node]:
    schema, required = node.schema, node.schema.get("required", ())
    for name, part in _schemas(schema.get("properties")):
        yield _Node(node.field_of(name), part, node.depth + 1, node.optional or name not in required)
    for keyword, suffix in _LISTS.items():
        for part in _listed(schema.get(keyword)):
            yield replace(node, field=node.field + suffix, schema=part)
    if isinstance(schema.get("items"), dict):
        yield replace(node, field=f"{node.field}[]", schema=schema["items"])


def _schemas(properties: object) -> Iterator[tuple[str, Schema]]:
    if isinstance(properties, dict):
        yield from ((name, part) for name, part in properties.items() if isinstance(part, dict))


def _listed(parts: object) -> Iterator[Schema]:
    if isinstance(parts, list):
        yield from (part for part in parts if isinstance(part, dict))


def _openai(schema: Schema, nodes: list[_Node]) -> Iterator[Finding]:
    strict = strict_schema(schema)
    if strict is None:
        hint = next(_not_strict(nodes), None)
        yield hint or Finding("", "a schema that strict mode can't say", refused=False)
        return
    properties = sum(len(dict(_schemas(node.schema.get("properties")))) for node in nodes)
    if properties > OPENAI_MAX_PROPERTIES:
        yield Finding("", f"{properties:,} properties, and {OPENAI_MAX_PROPERTIES:,} are the most", refused=True)
    deepest = max(nodes, key=lambda node: node.depth)
    if deepest.depth > OPENAI_MAX_DEPTH:
        said = f"{deepest.depth} levels of nesting, and {OPENAI_MAX_DEPTH} are the most"
        yield Finding(deepest.field, said, refused=True)
    yield from _openai_enums(nodes)


def _openai_enums(nodes: list[_Node]) -> Iterator[Finding]:
    total = chars = 0
    for node in nodes:
        values = [str(value) for value in node.schema.get("enum") or ()]
        length = sum(map(len, values))
        total += len(values)
        chars += length + sum(len(name) for name, _ in _schemas(node.schema.get("properties")))
        if len(values) > OPENAI_LARGE_ENUM and length > OPENAI_LARGE_ENUM_CHARS:
            said = f"an enum of {len(values):,} values with {length:,} characters (at most {OPENAI_LARGE_ENUM_CHARS:,})"
            yield Finding(node.field, said, refused=True)
    if total > OPENAI_MAX_ENUM_VALUES:
        largest = max(nodes, key=lambda node: len(node.schema.get("enum") or ()))
        said = f"{total:,} enum values in all, and {OPENAI_MAX_ENUM_VALUES:,} are the most"
        yield Finding(largest.field, said, refused=True)
    if chars > OPENAI_MAX_NAME_CHARS:
        said = f"{chars:,} characters of names and enum values, and {OPENAI_MAX_NAME_CHARS:,} are the most"
        yield Finding("", said, refused=True)


def _not_strict(nodes: list[_Node]) -> Iterator[Finding]:
    """What keeps a schema from strict mode; see `strict_schema`."""
    for node in nodes:
        for keyword in sorted(NOT_IN_STRICT & node.schema.keys()):
            yield Finding(node.field, keyword, refused=False)
        if "oneOf" in node.schema and "discriminator" not in node.schema:
            yield Finding(node.field, "oneOf without a discriminator", refused=False)
        if _has_free_keys(node.schema):
            yield Finding(node.field, "an object with free keys", refused=False)
        if not ANY_KIND & node.schema.keys():
            yield Finding(node.field, "any value: no type", refused=False)


def _has_free_keys(schema: Schema) -> bool:
    further = schema.get("additionalProperties", True)
    free = isinstance(further, dict) or (further is True and not schema.get("properties"))
    return schema.get("type") == "object" and (free or "patternProperties" in schema)


def _anthropic(schema: Schema, nodes: list[_Node]) -> Iterator[Finding]:
    del schema
    for node in nodes:
        yield from _anthropic_node(node)
    optional = [
        node.field_of(name)
        for node in nodes
        for name, _ in _schemas(node.schema.get("properties"))
        if name not in node.schema.get("required", ())
    ]
    if len(optional) > ANTHROPIC_MAX_OPTIONAL:
        said = f"{len(optional)} optional fields, and {ANTHROPIC_MAX_OPTIONAL} are the most"
        yield Finding(optional[ANTHROPIC_MAX_OPTIONAL], said, refused=True)
    unions = [node.field for node in nodes if {"anyOf", "oneOf"} & node.schema.keys()]
    if len(unions) > ANTHROPIC_MAX_UNIONS:
        said = f"{len(unions)} fields of several types, and {ANTHROPIC_MAX_UNIONS} are the most"
        yield Finding(unions[ANTHROPIC_MAX_UNIONS], said, refused=True)


def _anthropic_node(node: _Node) -> Iterator[Finding]:
    schema = node.schema
    if node.cycle:
        yield Finding(node.field, "a model that holds itself", refused=True)
        return
    if _has_free_keys(schema):
        yield Finding(node.field, "an object with free keys", refused=True)
    if isinstance(schema.get("type"), list):
        yield Finding(node.field, 'a list of types (write "anyOf")', refused=True)
    if any(isinstance(value, dict | list) for value in schema.get("enum") or ()):
        yield Finding(node.field, "an enum of objects or lists", refused=True)
    elif not ANY_KIND & schema.keys():
        yield Finding(node.field, "any value: no type", refused=True)
    for keyword in sorted({"prefixItems", "not", "if"} & schema.keys()):
        yield Finding(node.field, keyword, refused=False)


def _gemini(schema: Schema, nodes: list[_Node]) -> Iterator[Finding]:
    del schema
    for node in nodes:
        if node.cycle and not node.optional:
            yield Finding(node.field, "a model that holds itself in a required field", refused=True)
        for keyword in sorted(GEMINI_IGNORES & node.schema.keys()):
            yield Finding(node.field, keyword, refused=False)


_RULES: dict[Dialect, Callable[[Schema, list[_Node]], Iterator[Finding]]] = {
    Dialect.OPENAI: _openai,
    Dialect.ANTHROPIC: _anthropic,
    Dialect.GEMINI: _gemini,
}
