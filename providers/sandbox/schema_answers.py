"""A value for any JSON schema, made of given sentences: deterministic and valid.

Knows the part of JSON Schema that the providers take for structured output, and Gemini's own upper-case types.
"""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

Schema = dict[str, Any]

MAX_DEPTH = 12
DEFAULT_STRING_CHARS = 1200
_CHOICES = frozenset({"$ref", "allOf", "anyOf", "oneOf"})
_REVISED = re.compile(r" \(revised(?: (\d+))?\)")

_FORMATS = {
    "date": "2026-01-01",
    "date-time": "2026-01-01T00:00:00Z",
    "time": "00:00:00Z",
    "duration": "P1D",
    "email": "simulated@example.com",
    "hostname": "example.com",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "uri": "https://example.com/simulated",
    "uuid": "00000000-0000-4000-8000-000000000000",
}


def answer_for(schema: Schema, sentences: Sequence[str], revision: int = 0) -> object:
    """Make a value that is valid against the schema.

    Args:
        schema: JSON Schema, or Gemini's OpenAPI-like form of it.
        sentences: what strings are made of; at least one.
        revision: how often it was written anew. Strings are marked with it; an answer without any gets other values.
    """
    seed = zlib.crc32(sentences[0].encode("utf-8", "surrogatepass"))
    filler = _Filler(schema, sentences, seed, revision)
    value = filler.value(schema, "", 0)
    if not revision or filler.marked:
        return value
    return _Filler(schema, sentences, seed, shift=revision).value(schema, "", 0)


def revisions_in(text: str) -> int:
    """Tell how often the answers in a text were written anew, as their marks say; 0 for never."""
    return max((int(found[1] or 1) for found in _REVISED.finditer(text)), default=0)


def node_of(root: Schema, schema: object) -> Schema:
    """Give a part of a schema with its references and choices followed.

    Args:
        root: the whole, where references point.
        schema: the part; anything but an object gives {}.
    """
    if not isinstance(schema, dict):
        return {}
    return schema if _CHOICES.isdisjoint(schema) else _Filler(root, (), 0).plain(schema)


@dataclass(slots=True)
class _Filler:
    root: Schema
    sentences: Sequence[str]
    seed: int
    revision: int = 0
    shift: int = 0
    strings: int = 0
    marked: bool = False

    def value(self, schema: object, name: str, depth: int) -> object:
        node = self.plain(schema)
        if "const" in node:
            return node["const"]
        if node.get("enum"):
            return self._pick(node["enum"], name)
        kind = _type_of(node)
        if depth > MAX_DEPTH and kind in {"object", "array"}:
            return {} if kind == "object" else []
        if kind == "object":
            return self._object(node, depth)
        if kind == "array":
            return self._array(node, name, depth)
        return self._scalar(node, kind, name)

    def plain(self, schema: object) -> Schema:
        """Follow references and choices until a node says what it is."""
        node = cast(Schema, schema) if isinstance(schema, dict) else {}
        for _ in range(MAX_DEPTH):
            if "$ref" in node:
                node = {**self._resolve(str(node["$ref"])), **{k: v for k, v in node.items() if k != "$ref"}}
            elif "allOf" in node:
                node = self._merged(node)
            elif choices := node.get("anyOf") or node.get("oneOf"):
                chosen = next((choice for choice in choices if not _is_null(choice)), choices[0])
                node = {**{k: v for k, v in node.items() if k not in {"anyOf", "oneOf"}}, **chosen}
            else:
                break
        return node

    def _merged(self, node: Schema) -> Schema:
        merged: Schema = {key: value for key, value in node.items() if key != "allOf"}
        for part in node["allOf"]:
            plain = self.plain(part)
            properties = {**merged.get("properties", {}), **plain.get("properties", {})}
            required = [*merged.get("required", []), *plain.get("required", [])]
            merged = {**merged, **plain, **({"properties": properties, "required": required} if properties else {})}
        return merged

    def _resolve(self, ref: str) -> Schema:
        node: Any = self.root
        for part in ref.removeprefix("#").strip("/").split("/") if ref != "#" else []:
            node = node.get(part.replace("~1", "/").replace("~0", "~"), {}) if isinstance(node, dict) else {}
        return cast(Schema, node) if isinstance(node, dict) else {}

    def _pick(self, options: Sequence[object], name: str) -> object:
        real = [option for option in options if option is not None] or list(options)
        return real[self._lot(name) % len(real)]

    def _lot(self, name: str) -> int:
        return (self.seed ^ zlib.crc32(name.encode())) + self.shift

    def _object(self, node: Schema, depth: int) -> dict[str, object]:
        properties: Schema = node.get("properties") or {}
        required = node.get("required", ())
        wanted = properties if depth < MAX_DEPTH // 2 else {k: v for k, v in properties.items() if k in required}
        filled = {key: self.value(part, key, depth + 1) for key, part in wanted.items()}
        return filled | {key: self.value({}, key, depth + 1) for key in required if key not in filled}

    def _array(self, node: Schema, name: str, depth: int) -> list[object]:
        least, most = int(node.get("minItems", 0)), node.get("maxItems")
        parts: list[object] = list(node.get("prefixItems", ()))
        length = max(least, 1, len(parts))
        length = min(length, int(most)) if most is not None else length
        if depth > MAX_DEPTH // 2:
            length = least
        items = node.get("items", {})
        values = [self.value(parts[i] if i < len(parts) else items, f"{name}.{i}", depth + 1) for i in range(length)]
        return self._distinct(values, self.plain(items)) if node.get("uniqueItems") else values

    @staticmethod
    def _distinct(values: list[object], items: Schema) -> list[object]:
        if "enum" in items:
            return list(items["enum"][: len(values)])
        if all(isinstance(value, str) for value in values):
            return [f"{index} {value}" for index, value in enumerate(values, 1)]
        if all(isinstance(value, (int, float)) for value in values):
            low = int(items.get("minimum", 0))
            return [low + index for index in range(len(values))]
        return values[:1]

    def _scalar(self, node: Schema, kind: str, name: str) -> object:
        if kind == "null":
            return None
        if kind == "boolean":
            return bool(self._lot(name) & 1)
        if kind in {"integer", "number"}:
            return self._number(node, name, whole=kind == "integer")
        return self._string(node)

    def _number(self, node: Schema, name: str, *, whole: bool) -> int | float:
        low, high = (
            _bound(node, "minimum", "exclusiveMinimum", whole),
            _bound(node, "maximum", "exclusiveMaximum", whole),
        )
        if low is None:
            low = 0.0 if high is None or high >= 0 else high - 100
        if high is None:
            high = low + 100
        lot = (self._lot(name) + 499 * self.shift) % 1000 / 1000
        step = node.get("multipleOf")
        if step:
            first, last = math.ceil(low / step), math.floor(high / step)
            value = (first + int(lot * max(0, last - first + 1))) * step
            return int(value) if whole else value
        if whole:
            first, last = math.ceil(low), math.floor(high)
            return first + int(lot * max(1, last - first + 1))
        return round(low + lot * (high - low), 6) if high - low > 1e-3 else (low + high) / 2

    def _string(self, node: Schema) -> str:
        form = node.get("format")
        if form in _FORMATS:
            return _FORMATS[form]
        start = min(self.strings, len(self.sentences) - 1)
        self.strings += 1
        least, most = int(node.get("minLength", 0)), int(node.get("maxLength", DEFAULT_STRING_CHARS))
        text = " ".join(self.sentences[start : start + 2])
        while len(text) < least:
            text = f"{text} {self.sentences[0]}"
        return self._mark(_cut(text, max(most, 0), least), max(most, 0), least)

    def _mark(self, text: str, most: int, least: int) -> str:
        """Say in a text that it was written anew; one that is too short for it stays as it is."""
        mark = " (revised)" if self.revision == 1 else f" (revised {self.revision})"
        if not self.revision or most <= len(mark):
            return text
        self.marked = True
        room = most - len(mark)
        return _cut(text, room, max(0, least - len(mark))) + mark


def _cut(text: str, most: int, least: int) -> str:
    if len(text) <= most:
        return text
    cut = text[:most]
    shorter = cut.rsplit(" ", 1)[0].rstrip(" ,;:")
    return shorter if len(shorter) >= max(least, most // 2) else cut


def _bound(node: Schema, inclusive: str, exclusive: str, whole: bool) -> float | None:
    limit, beyond = node.get(inclusive), node.get(exclusive)
    away = 1 if whole else 1e-3
    if beyond is not None and not isinstance(beyond, bool):
        inside = float(beyond) + (away if exclusive == "exclusiveMinimum" else -away)
        return inside if limit is None else (max if exclusive == "exclusiveMinimum" else min)(inside, float(limit))
    return None if limit is None else float(limit)


def _is_null(schema: object) -> bool:
    return isinstance(schema, dict) and str(schema.get("type", "")).lower() == "null"


def _type_of(node: Schema) -> str:
    kind = node.get("type")
    if isinstance(kind, list):
        kind = next((each for each in kind if str(each).lower() != "null"), "null")
    if kind:
        return str(kind).lower()
    if "properties" in node:
        return "object"
    return "array" if "items" in node or "prefixItems" in node else "string"
