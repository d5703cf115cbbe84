"""A pydantic schema in each provider's subset, without a change of what it means."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from enum import StrEnum
from typing import Annotated, Any, Literal

import jsonschema
import orjson
import pytest
from anthropic import transform_schema
from openai.lib._pydantic import to_strict_json_schema
from pydantic import BaseModel, ConfigDict, Field, RootModel

from batch_jobs.models import Dialect
from providers._schemas import anthropic_schema, gemini_schema, strict_schema
from providers.connect import codec_for
from tests.contract.providers.conftest import a_request


class Severity(StrEnum):
    LOW = "low"
    HIGH = "high"


class Part(BaseModel):
    name: str = Field(description="Its name.", min_length=1, max_length=40, pattern="^[a-z]+$")
    score: float = Field(default=0.0, ge=0, le=1)


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: int


class Dog(BaseModel):
    kind: Literal["dog"]
    part: Part


class Tree(BaseModel):
    label: str
    children: list[Tree] = []


class Everything(BaseModel):
    """All that a prompt module is likely to use."""

    model_config = ConfigDict(extra="forbid")

    summary: str
    severity: Severity = Severity.LOW
    note: str | None = None
    parts: list[Part] = Field(default_factory=list, min_length=1, max_length=5)
    main: Part = Field(description="The main part.")
    pet: Annotated[Cat | Dog, Field(discriminator="kind")]
    either: int | Part | None = None
    day: str = Field(json_schema_extra={"format": "date"}, default="2026-11-21")
    tree: Tree | None = None


MODELS: list[type[BaseModel]] = [Part, Cat, Dog, Tree, Everything]

VALID: dict[str, Any] = {
    "summary": "s",
    "severity": "high",
    "note": None,
    "parts": [{"name": "abc", "score": 0.5}],
    "main": {"name": "main", "score": 1},
    "pet": {"kind": "dog", "part": {"name": "tail", "score": 0}},
    "either": {"name": "abc", "score": 0.1},
    "day": "2026-11-20",
    "tree": {"label": "root", "children": [{"label": "leaf", "children": []}]},
}


def _objects(schema: Any) -> list[dict[str, Any]]:
    """Every object schema inside a schema."""
    if isinstance(schema, list):
        return [found for part in schema for found in _objects(part)]
    if not isinstance(schema, dict):
        return []
    inside = [found for part in schema.values() for found in _objects(part)]
    return inside + ([schema] if schema.get("type") == "object" else [])


@pytest.mark.parametrize("model", MODELS)
def test_strict_requires_every_property_and_closes_every_object(model: type[BaseModel]) -> None:
    strict = strict_schema(model.model_json_schema())
    assert strict is not None
    assert strict["type"] == "object"
    for found in _objects(strict):
        assert found["required"] == list(found["properties"])
        assert found["additionalProperties"] is False


@pytest.mark.parametrize("model", [Part, Cat, Dog, Tree])
def test_strict_is_what_the_openai_sdk_makes_but_for_defaults(model: type[BaseModel]) -> None:
    theirs = copy.deepcopy(to_strict_json_schema(model))

    def without_defaults(part: Any) -> Any:
        if isinstance(part, dict):
            return {key: without_defaults(value) for key, value in part.items() if key != "default"}
        return [without_defaults(entry) for entry in part] if isinstance(part, list) else part

    assert strict_schema(model.model_json_schema()) == without_defaults(theirs)


def test_strict_accepts_what_the_model_accepts_and_nothing_else() -> None:
    strict = strict_schema(Everything.model_json_schema())
    assert strict is not None
    jsonschema.Draft202012Validator.check_schema(strict)
    jsonschema.validate(VALID, strict)
    Everything.model_validate(VALID)
    wrongs: list[dict[str, Any]] = [
        {"severity": "huge"},
        {"parts": [{"name": "UPPER", "score": 0.5}]},
        {"parts": []},
        {"pet": {"kind": "cow", "lives": 1}},
        {"main": {"name": "main", "score": 2}},
        {"tree": {"label": 1, "children": []}},
        {"surprise": 1},
    ]
    for wrong in wrongs:
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**VALID, **wrong}, strict)


def test_strict_leaves_the_original_alone() -> None:
    schema = Everything.model_json_schema()
    before = copy.deepcopy(schema)
    strict_schema(schema)
    anthropic_schema(schema)
    assert schema == before


def test_a_format_that_strict_mode_refuses_is_left_out() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string", "format": "uri"}, "b": {"$ref": "#/$defs/D"}}}
    strict = strict_schema({**schema, "$defs": {"D": {"type": "string", "format": "date"}}})
    assert strict is not None
    assert strict["properties"]["a"] == {"type": "string"}
    assert strict["$defs"]["D"] == {"type": "string", "format": "date"}


class Free(BaseModel):
    values: dict[str, int]


class Anything(BaseModel):
    value: Any


class Pair(BaseModel):
    pair: tuple[int, str]


@pytest.mark.parametrize("model", [Free, Anything, Pair, RootModel[list[int]]])
def test_what_strict_mode_cant_say_is_sent_unchanged_and_not_strict(model: type[BaseModel]) -> None:
    schema = model.model_json_schema()
    assert strict_schema(schema) is None
    request = a_request()
    body = orjson.loads(codec_for(Dialect.OPENAI, None).encode_body(type(request)("", "x", schema, "answer", "m")))
    assert body["response_format"]["json_schema"]["strict"] is False
    assert body["response_format"]["json_schema"]["schema"] == schema


@pytest.mark.parametrize("model", MODELS)
def test_anthropics_schema_is_what_its_sdk_makes(model: type[BaseModel]) -> None:
    assert anthropic_schema(model.model_json_schema()) == transform_schema(model)


def test_gemini_gets_the_schema_with_nothing_beside_a_reference() -> None:
    schema = Everything.model_json_schema()
    body = orjson.loads(codec_for(Dialect.GEMINI, None).encode_body(type(a_request())("", "x", schema, "answer", "m")))
    sent = body["generationConfig"]["responseJsonSchema"]
    assert {key: part for key, part in sent.items() if key not in {"properties", "$defs"}} == {
        key: part for key, part in schema.items() if key not in {"properties", "$defs"}
    }
    assert all(node.keys() == {"$ref"} for node in nodes_of(sent) if "$ref" in node)
    assert sent["properties"]["main"] == {**schema["$defs"]["Part"], "description": "The main part."}
    jsonschema.validate(VALID, sent)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**VALID, "severity": "unheard of"}, sent)


def nodes_of(schema: object) -> Iterator[dict[str, Any]]:
    if isinstance(schema, dict):
        yield schema
    parts = schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ()
    for part in parts:
        yield from nodes_of(part)


def test_a_recursive_reference_of_gemini_stays_one() -> None:
    node = {"$ref": "#/$defs/N", "description": "Below it."}
    schema = {
        "type": "object",
        "properties": {"top": node},
        "$defs": {"N": {"type": "object", "properties": {"a": node}}},
    }
    top = gemini_schema(schema)["properties"]["top"]
    assert top == {"type": "object", "description": "Below it.", "properties": {"a": {"$ref": "#/$defs/N"}}}
