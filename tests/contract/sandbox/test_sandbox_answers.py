"""The simulated model and the tables it leans on, without a server."""

from __future__ import annotations

from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batch_jobs.models import Dialect
from providers.sandbox import base_url
from providers.sandbox.answers import compose
from providers.sandbox.behaviour import Behaviour, Fault, FaultKind, Route
from providers.sandbox.limits import GEMINI_GENERATION_FIELDS, camel, known_fields
from providers.sandbox.schema_answers import answer_for
from providers.sandbox.wire import Ask
from providers.sandbox.words import data_point

TEXT = ["The first sentence is here.", "The second one follows.", "Third."]

TREE: dict[str, Any] = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "parts": {"type": "array", "items": {"$ref": "#"}}},
    "required": ["name"],
}
SCHEMAS: list[dict[str, Any]] = [
    {"type": "string", "maxLength": 10},
    {"type": "string", "minLength": 300, "maxLength": 310},
    {"type": "integer", "minimum": 3, "maximum": 5},
    {"type": "integer", "exclusiveMinimum": 3, "exclusiveMaximum": 5},
    {"type": "integer", "minimum": -10, "maximum": -8},
    {"type": "integer", "multipleOf": 7, "minimum": 8, "maximum": 30},
    {"type": "number", "minimum": 0, "maximum": 1},
    {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 0.5},
    {"type": "boolean"},
    {"type": "null"},
    {"const": {"a": 1}},
    {"enum": ["a", None]},
    {"type": ["string", "null"]},
    {"anyOf": [{"type": "null"}, {"type": "integer", "minimum": 7}]},
    {"type": "array", "items": {"enum": ["a", "b", "c"]}, "minItems": 3, "uniqueItems": True},
    {"type": "array", "items": {"type": "string"}, "minItems": 2, "maxItems": 4, "uniqueItems": True},
    {"type": "array", "items": {"type": "number"}, "maxItems": 0},
    {
        "$ref": "#/$defs/x",
        "$defs": {"x": {"type": "object", "properties": {"d": {"$ref": "#/$defs/y"}}}, "y": {"const": 1}},
    },
    {
        "allOf": [
            {"properties": {"a": {"type": "string"}}, "required": ["a"]},
            {"required": ["b"], "properties": {"b": {}}},
        ]
    },
    {"type": "string", "format": "date"},
    TREE,
]


@pytest.mark.parametrize("schema", SCHEMAS, ids=str)
def test_answers_are_valid(schema: dict[str, Any]) -> None:
    value = answer_for(schema, TEXT)
    jsonschema.Draft202012Validator(schema).validate(value)
    assert value == answer_for(schema, TEXT)


@given(st.integers(-50, 50), st.integers(0, 60), st.booleans(), st.text(min_size=1, max_size=80))
def test_numbers_stay_within_their_bounds(low: int, width: int, whole: bool, text: str) -> None:
    schema = {"type": "integer" if whole else "number", "minimum": low, "maximum": low + width}
    jsonschema.validate(answer_for(schema, [text]), schema)


@given(st.integers(0, 40), st.integers(0, 200), st.text(min_size=1, max_size=300))
def test_strings_stay_within_their_bounds(least: int, more: int, text: str) -> None:
    schema = {"type": "string", "minLength": least, "maxLength": least + more}
    jsonschema.validate(answer_for(schema, [text]), schema)


def test_geminis_upper_case_types_are_understood() -> None:
    schema = {"type": "OBJECT", "properties": {"n": {"type": "INTEGER"}, "s": {"type": "STRING", "nullable": True}}}
    value: Any = answer_for(schema, TEXT)
    assert isinstance(value["n"], int)
    assert value["s"].startswith("The first sentence is here.")


def test_the_data_point_is_the_longest_between_the_markers() -> None:
    points = "1: Country: NO\n2: DescriptionOfEvent: Long text: with a colon\nand a line more.\n3: Year: 2020\n"
    head = "A very long instruction that is longer than anything else in this prompt by far."
    text = f"{head}\n<data_points>\n{points}</data_points>\nBye."
    assert data_point(text) == "Long text: with a colon\nand a line more."
    assert data_point(f"Head.\n{points}") == "Long text: with a colon\nand a line more."
    assert data_point("Short.\n\nThe longest paragraph here.\n\nEnd.") == "The longest paragraph here."
    assert data_point("<data_points>free text</data_points>") == "free text"
    assert data_point("") == ""


def test_an_empty_request_still_gets_an_answer() -> None:
    assert compose(Ask("m", "", "")).text == "No text was given."


def test_gemini_fields_cover_the_sdk() -> None:
    from google.genai import types

    vertex_only = {"modelSelectionConfig", "routingConfig", "audioTimestamp"}
    fields = {camel(name) for name in types.GenerationConfig.model_fields}
    assert fields - vertex_only == GEMINI_GENERATION_FIELDS - {"imageConfig"}


def test_fields_come_from_the_sdks_own_types() -> None:
    from openai.types.responses import response_create_params

    wanted = set(response_create_params.ResponseCreateParamsBase.__annotations__)
    assert known_fields(Dialect.OPENAI, "/v1/responses") == wanted | {"stream"}
    assert {"model", "max_tokens", "output_config"} <= known_fields(Dialect.ANTHROPIC)


def test_a_behaviour_survives_json() -> None:
    fault = Fault(FaultKind.RATE_LIMITED, dialect=Dialect.GEMINI, route=Route.CALL, match="x", share=0.5, times=2)
    behaviour = Behaviour(batch_seconds=3, faults=(fault,))
    assert Behaviour.from_json(behaviour.to_json()) == behaviour
    assert Behaviour.from_json("{}") == Behaviour()
    assert Behaviour().with_faults(fault).faults == (fault,)
    with pytest.raises(ValueError, match="surprise"):
        Behaviour.from_json('{"surprise": 1}')


def test_base_urls() -> None:
    urls = [base_url(dialect, "http://127.0.0.1:1/") for dialect in Dialect]
    assert urls == [f"http://127.0.0.1:1/{path}" for path in ("openai/v1", "anthropic", "gemini")]
