"""The JSON types of a field of an answer: each way in which a schema tells them, and those in which it tells none."""

from __future__ import annotations

from typing import Any

import pytest

from batch_jobs.render.field_types import ANY, types_of

DEFS: dict[str, Any] = {
    "Severity": {"enum": ["low", "high"]},
    "Optional": {"anyOf": [{"$ref": "#/$defs/Severity"}, {"type": "null"}]},
    "a/b~c": {"type": "boolean"},
    "Loop": {"$ref": "#/$defs/Loop"},
    "Tree": {"anyOf": [{"type": "string"}, {"$ref": "#/$defs/Tree"}, {"$ref": "#/$defs/Forest"}]},
    "Forest": {"oneOf": [{"type": "array"}, {"$ref": "#/$defs/Tree"}, {"$ref": "#/$defs/Forest"}]},
}


def schema_of(field: object) -> dict[str, Any]:
    return {"type": "object", "properties": {"x": field}, "$defs": DEFS}


@pytest.mark.parametrize(
    ("field", "types"),
    [
        ({"type": "string"}, {"string"}),
        ({"type": ["integer", "null"]}, {"integer", "null"}),
        ({"type": ["integer", "number"]}, {"number"}),
        ({"enum": ["a", 1, 0.5, True, None, [], {}]}, {"string", "number", "boolean", "null", "array", "object"}),
        ({"enum": [1, 2]}, {"integer"}),
        ({"const": True}, {"boolean"}),
        ({"const": None}, {"null"}),
        ({"anyOf": [{"type": "integer"}, {"type": "null"}]}, {"integer", "null"}),
        ({"oneOf": [{"type": "integer"}, {"const": "none"}]}, {"integer", "string"}),
        ({"anyOf": [{"anyOf": [{"type": "integer"}, {"type": "number"}]}, {"type": "null"}]}, {"number", "null"}),
        ({"anyOf": [{"type": "string"}, {}]}, {"string", ANY}),
    ],
)
def test_what_a_schema_tells_of_a_field(field: object, types: set[str]) -> None:
    assert types_of(schema_of(field), "x") == types


@pytest.mark.parametrize(
    ("field", "types"),
    [
        ({"type": "number", "enum": [0, 1]}, {"number"}),
        ({"type": "string", "anyOf": [{"minLength": 3}, {"pattern": "^-"}]}, {"string"}),
        ({"type": "string", "const": "a"}, {"string"}),
        ({"$ref": "#/$defs/Severity", "description": "How bad it is."}, {"string"}),
    ],
)
def test_a_type_that_is_named_goes_before_what_stands_beside_it(field: object, types: set[str]) -> None:
    assert types_of(schema_of(field), "x") == types


@pytest.mark.parametrize(
    ("reference", "types"),
    [
        ("#/$defs/Severity", {"string"}),
        ("#/$defs/Optional", {"string", "null"}),
        ("#/$defs/a~1b~0c", {"boolean"}),
        ("#", {"object"}),
        ("#/$defs/Nothing", {ANY}),
        ("#/$defs/Severity/enum/0", {ANY}),
        ("#Severity", {ANY}),
        ("elsewhere.json#/$defs/Severity", {ANY}),
    ],
)
def test_where_a_reference_leads(reference: str, types: set[str]) -> None:
    assert types_of(schema_of({"$ref": reference}), "x") == types


@pytest.mark.parametrize(
    ("reference", "types"),
    [
        ("#/properties/x", {ANY}),
        ("#/$defs/Loop", {ANY}),
        ("#/$defs/Tree", {"string", "array"}),
        ("#/$defs/Forest", {"string", "array"}),
    ],
)
def test_a_schema_that_refers_to_itself_adds_nothing_to_its_types(reference: str, types: set[str]) -> None:
    assert types_of(schema_of({"$ref": reference}), "x") == types


@pytest.mark.parametrize("field", [{}, True, {"description": "Whatever."}, {"anyOf": []}])
def test_a_field_of_which_nothing_is_told_may_hold_anything(field: object) -> None:
    assert types_of(schema_of(field), "x") == {ANY}


def test_so_may_one_that_the_schema_does_not_have() -> None:
    assert types_of(schema_of({"type": "string"}), "alias") == {ANY}
