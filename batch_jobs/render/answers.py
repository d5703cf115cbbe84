"""What the LLM has to answer: one schema for the prompt, for the provider's structured output and for the check.

It comes from a pydantic model of a prompt module, or from a JSON Schema. Here too: how an answer becomes a cell.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Protocol

import orjson
from pydantic import BaseModel, ValidationError

from batch_jobs.config import nearest
from batch_jobs.errors import ConfigError

FENCE = "```"
MAX_ECHO_CHARS = 80


class OutputSchema(Protocol):
    """What an answer has to be.

    Attributes:
        name: for the provider, in letters, digits, `_` and `-`.
        schema: as a JSON Schema; equal sources give equal schemas, key order included.
        fields: of the answer, in order.
    """

    @property
    def name(self) -> str:
        """See above."""
        ...

    @property
    def schema(self) -> dict[str, Any]:
        """See above."""
        ...

    @property
    def fields(self) -> tuple[str, ...]:
        """See above."""
        ...

    def read(self, content: str) -> object:
        """Read a JSON text as an answer, in plain JSON values.

        Raises:
            ValueError: it is none; a short reason for people, that names the field and echoes no answer.
        """
        ...


@dataclass(frozen=True, slots=True)
class ModelOutput:
    """An answer that a pydantic model describes; how strict types are (`"5"` for a number) is the model's setting."""

    model: type[BaseModel]
    schema: dict[str, Any] = field(repr=False)

    @classmethod
    def of(cls, model: type[BaseModel]) -> ModelOutput:
        """Take a model; whatever pydantic raises where it has no schema."""
        return cls(model, model.model_json_schema())

    @property
    def name(self) -> str:
        """The model's."""
        return self.model.__name__

    @property
    def fields(self) -> tuple[str, ...]:
        """The model's."""
        return tuple(self.model.model_fields)

    def read(self, content: str) -> object:
        """See `OutputSchema`."""
        try:
            return self.model.model_validate_json(content).model_dump(mode="json")
        except ValidationError as error:
            raise ValueError(_reason(error)) from None  # the original echoes the whole answer
        except Exception as error:  # a validator of the prompt module fell over: this row's failure, nobody else's
            raise ValueError(f"{self.name} could not check it: {type(error).__name__}") from error


class JsonOutput:
    """An answer that a JSON Schema describes, taken as it is: nothing is converted."""

    def __init__(self, schema: dict[str, Any], name: str) -> None:
        """Check a schema.

        Args:
            schema: of an object with properties; its references lead nowhere else.
            name: where it has no title.

        Raises:
            ValueError: it is none of that; says what and where.
        """
        import jsonschema_rs

        _check_schema(schema)
        self.schema = schema
        self.name = re.sub(r"[^A-Za-z0-9_-]+", "_", str(schema.get("title") or name))[:64]
        self.fields = tuple(schema["properties"])
        try:
            self._validator = jsonschema_rs.validator_for(schema, mask="the value", retriever=_nowhere)
        except (jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError) as error:
            place = ".".join(map(str, getattr(error, "instance_path", ())))
            said = str(getattr(error, "message", error)).splitlines()[0]
            raise ValueError(f"{place or 'the schema'}: {said}") from None

    def read(self, content: str) -> object:
        """See `OutputSchema`."""
        try:
            answer = orjson.loads(content)
        except orjson.JSONDecodeError as error:
            raise ValueError(f"not valid JSON: {shorten(str(error))}") from None
        problems = list(self._validator.iter_errors(answer))
        if problems:
            raise ValueError(_said(_place(problems[0].instance_path), problems[0].message, _more(problems)))
        return answer


def _nowhere(uri: str) -> Any:
    raise ValueError(f"{uri} is not part of the schema")


def _check_schema(schema: object) -> None:
    if not isinstance(schema, dict) or schema.get("type") != "object":
        raise ValueError('the schema has to describe an object: "type": "object"')
    if not isinstance(schema.get("properties"), dict) or not schema["properties"]:
        raise ValueError('the schema names no fields: "properties"')


def answer_text(output: OutputSchema, text: str) -> str:
    """Read the LLM's text as the answer that was asked for.

    White space around it and one markdown code fence are taken off.

    Returns:
        The answer as one compact JSON object: field name -> value.

    Raises:
        ValueError: the text is no such answer; a short reason for people, that names the field.
    """
    content = without_fence(text.strip())
    if not content:
        raise ValueError("empty answer")
    answer = output.read(content)
    try:
        written = orjson.dumps(answer)
    except TypeError:
        written = b""
    # pydantic reads NaN, Infinity and integers of any length; our files can't hold them, and orjson writes null
    if not written or (b"null" in written and orjson.loads(written) != answer):
        raise ValueError("a number that is not finite, or beyond 64 bits")
    return written.decode()


def without_fence(text: str) -> str:
    """Take one markdown code fence off."""
    if len(text) < 2 * len(FENCE) or not (text.startswith(FENCE) and text.endswith(FENCE)):
        return text
    inside = text[len(FENCE) : -len(FENCE)]
    return (inside[4:] if inside[:4].lower() == "json" else inside).strip()


def _reason(error: ValidationError) -> str:
    """The first problem in a few words, and how many there are besides."""
    problems = error.errors(include_url=False, include_input=False)
    first = problems[0]
    more, field = _more(problems), _place(first["loc"])
    match first["type"]:
        case "json_invalid":
            return f"not valid JSON: {shorten(first['msg'].removeprefix('Invalid JSON: '))}"
        case "missing":
            return f'field "{field}" is missing{more}'
        case "extra_forbidden":
            return f'unknown field "{field}"{more}'
    return _said(field, first["msg"].removeprefix("Value error, "), more)


def _place(path: Iterable[object]) -> str:
    return shorten(".".join(map(str, path)))


def _more(problems: Sequence[object]) -> str:
    return f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""


def _said(place: str, said: str, more: str) -> str:
    return f'field "{place}": {shorten(said)}{more}' if place else f"{shorten(said)}{more}"


def shorten(text: str) -> str:
    """A text for a message: on one line, and cut."""
    flat = " ".join(text.split())
    return flat if len(flat) <= MAX_ECHO_CHARS else f"{flat[: MAX_ECHO_CHARS - 1]}…"


def cell_text(value: object) -> str:
    """Write one field of an answer as a cell: lists of scalars joined by `; `, anything deeper as compact JSON."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "TRUE" if value else "FALSE"
    if isinstance(value, int | float | Decimal):
        return str(value)
    if isinstance(value, list | tuple) and all(_is_scalar(part) for part in value):
        return "; ".join(cell_text(part) for part in value)
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=str)


def _is_scalar(value: object) -> bool:
    return value is None or isinstance(value, str | int | float | Decimal)


def check_output_columns(task_name: str, output_columns: Mapping[str, str], output: OutputSchema) -> None:
    """Check that every field which config.json makes a column of is a field of the answer.

    Args:
        task_name: for the message.
        output_columns: field of the answer -> name of the new column.
        output: the answer.

    Raises:
        ConfigError: a field is not there; names the nearest one.
    """
    for name in output_columns:
        if name not in output.fields:
            raise ConfigError(
                f'tasks.{task_name}.output_columns: {output.name} has no field "{name}"{nearest(name, output.fields)} '
                f"(there is: {', '.join(output.fields)})"
            )
