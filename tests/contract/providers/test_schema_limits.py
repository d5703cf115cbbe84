"""What a provider's structured output does not take is found in the schema, with its field."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, create_model

from batch_jobs.models import Dialect
from providers.schema_limits import Finding, findings

OPENAI, ANTHROPIC, GEMINI = Dialect


class Level(StrEnum):
    LOW = "low"
    HIGH = "high"


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: str = Field(min_length=1, max_length=40, pattern="^[a-z]+$", description="Its name.")
    level: Level = Field(description="How high.")


class Answer(BaseModel):
    model_config = ConfigDict(extra="forbid")
    kind: Literal["a", "b"]
    parts: list[Part] = Field(min_length=1, max_length=3)
    main: Part | None = None


class Tree(BaseModel):
    label: str
    children: list[Tree]


class Loose(BaseModel):
    parts: list[dict[str, int]]


class Anything(BaseModel):
    part: Any


@pytest.mark.parametrize("dialect", Dialect)
def test_what_models_usually_hold_is_taken(dialect: Dialect) -> None:
    assert findings(dialect, Answer.model_json_schema()) == []


@pytest.mark.parametrize(
    ("dialect", "model", "found"),
    [
        (OPENAI, Tree, []),
        (ANTHROPIC, Tree, [Finding("children[]", "a model that holds itself", refused=True)]),
        (GEMINI, Tree, [Finding("children[]", "a model that holds itself in a required field", refused=True)]),
        (OPENAI, Loose, [Finding("parts[]", "an object with free keys", refused=False)]),
        (ANTHROPIC, Loose, [Finding("parts[]", "an object with free keys", refused=True)]),
        (GEMINI, Loose, []),
        (OPENAI, Anything, [Finding("part", "any value: no type", refused=False)]),
        (ANTHROPIC, Anything, [Finding("part", "any value: no type", refused=True)]),
        (GEMINI, Anything, []),
    ],
)
def test_a_construct_is_refused_or_a_hint(dialect: Dialect, model: type[BaseModel], found: list[Finding]) -> None:
    assert findings(dialect, model.model_json_schema()) == found


def of(**properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


DEEP: dict[str, Any] = {"type": "string"}
for _ in range(11):
    DEEP = of(a=DEEP)
OPTIONAL = dict.fromkeys((f"f{number}" for number in range(25)), (str | None, None))


@pytest.mark.parametrize(
    ("dialect", "schema", "field", "words"),
    [
        (OPENAI, of(x=of(**{f"p{n}": {"type": "string"} for n in range(5_000)})), "", "5,001 properties"),
        (OPENAI, DEEP, ".".join("a" * 11), "11 levels of nesting"),
        (OPENAI, of(x={"enum": [f"v{n}" for n in range(1_001)]}), "x", "1,001 enum values"),
        (OPENAI, of(x={"enum": [f"{n:060}" for n in range(251)]}), "x", "an enum of 251 values with 15,060 characters"),
        (OPENAI, of(**{f"{n:030}": {"type": "string"} for n in range(4_001)}), "", "120,030 characters"),
        (ANTHROPIC, create_model("M", **OPTIONAL).model_json_schema(), "f24", "25 optional fields"),  # type: ignore[call-overload]
        (ANTHROPIC, of(x={"type": ["string", "null"]}), "x", "a list of types"),
        (ANTHROPIC, of(x={"enum": [{"a": 1}]}), "x", "an enum of objects or lists"),
    ],
)
def test_a_limit_is_found_with_its_field(dialect: Dialect, schema: dict[str, Any], field: str, words: str) -> None:
    first = findings(dialect, schema)[0]
    assert (first.field, first.refused) == (field, True)
    assert words in first.construct


@pytest.mark.parametrize(
    ("dialect", "schema", "found"),
    [
        (OPENAI, of(x={"type": "array", "items": {"type": "string"}, "uniqueItems": True}), "uniqueItems"),
        (OPENAI, of(x={"oneOf": [{"type": "string"}, {"type": "null"}]}), "oneOf without a discriminator"),
        (ANTHROPIC, of(x={"type": "array", "prefixItems": [{"type": "string"}]}), "prefixItems"),
        (GEMINI, of(x={"type": "string", "not": {"const": "a"}}), "not"),
    ],
)
def test_what_is_not_enforced_is_a_hint(dialect: Dialect, schema: dict[str, Any], found: str) -> None:
    assert findings(dialect, schema) == [Finding("x", found, refused=False)]


def test_a_schema_that_unfolds_without_end_is_still_judged() -> None:
    defs: dict[str, Any] = {"d0": of(x={"type": "string"})}
    for number in range(1, 40):
        part = {"$ref": f"#/$defs/d{number - 1}"}
        defs[f"d{number}"] = of(a=part, b=part, c=part)
    schema = {**of(x={"$ref": "#/$defs/d39"}), "$defs": defs}
    assert findings(OPENAI, schema)[0].refused
