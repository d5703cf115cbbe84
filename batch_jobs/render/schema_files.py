"""The schema that a YAML prompt names: written there, a JSON Schema beside it, or a module of pydantic models."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from batch_jobs.config import nearest
from batch_jobs.errors import ConfigError, SchemaMissing
from batch_jobs.render.answers import JsonOutput, OutputSchema
from batch_jobs.render.prompt_module import load_models

JSON_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*\.json")
MODULE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*\.py")


@dataclass(frozen=True, slots=True)
class PromptSchema:
    """What a prompt's answers have to be.

    Attributes:
        output: the answer.
        text: as the prompt shows it for {llm_schema}.
        sources: what was read besides the prompt.
        files: where.
    """

    output: OutputSchema
    text: str
    sources: tuple[bytes, ...] = ()
    files: tuple[Path, ...] = ()


def read_schema(prompt: Path, given: object) -> PromptSchema:
    """Read what a prompt says under `schema`.

    Args:
        prompt: the prompt's file.
        given: a JSON Schema, or the name of a file beside the prompt.

    Raises:
        SchemaMissing: it names a module that is not there yet.
        ConfigError: something else is wrong with it.
    """
    if isinstance(given, str) and MODULE_NAME.fullmatch(given):
        return _module(prompt, given)
    schema, sources, files = schema_of(prompt, given)
    try:
        output = JsonOutput(schema, prompt.stem)
    except ValueError as error:
        raise ConfigError(f"{files[-1]}: {error}") from error
    return PromptSchema(output, json.dumps(schema, ensure_ascii=False, indent=2), sources, files[1:])


def schema_of(path: Path, given: object) -> tuple[dict[str, Any], tuple[bytes, ...], tuple[Path, ...]]:
    """A JSON Schema, what it was read from besides the prompt, and the prompt's files."""
    if isinstance(given, dict):
        return given, (), (path,)
    name = str(given)
    if not JSON_NAME.fullmatch(name):
        raise ConfigError(
            f'{path}: "schema" has to be a JSON Schema, or the name of a .json file beside the prompt, or of a '
            ".py module there"
        )
    file = _beside(path, name, "*.json")
    source = file.read_bytes()
    try:
        schema = json.loads(source)
    except ValueError as error:
        raise ConfigError(f"{file}: is no JSON: {error}") from error
    return schema, (source,), (path, file)


def _module(prompt: Path, name: str) -> PromptSchema:
    file = _beside(prompt, name, "*.py")
    source = file.read_bytes()
    output, models = load_models(file, source)
    if output.schema.get("type") != "object" or not output.fields:
        raise ConfigError(f"{file}: {output.name} has no fields; the answer has to be an object with some")
    return PromptSchema(output, schema_text(output.schema, models), (source,), (file,))


def _beside(prompt: Path, name: str, pattern: str) -> Path:
    file = prompt.parent / name
    if file.is_file() and file.resolve().is_relative_to(prompt.parent.resolve()):
        return file
    kind = SchemaMissing if pattern == "*.py" and not file.exists() else ConfigError
    others = sorted(other.name for other in prompt.parent.glob(pattern))
    raise kind(f"{file}: there is no such schema{nearest(name, others)}")


def schema_text(schema: dict[str, Any], models: Sequence[type[BaseModel]] = ()) -> str:
    """A schema as JSON text for a prompt: closed objects, what is required, all descriptions; always the same bytes.

    Keywords are sorted; properties stay in their order, which is the order that the LLM answers in.

    Args:
        schema: of the answer.
        models: of its module; those that the answer does not refer to stand under `$defs` all the same.
    """
    further: dict[str, Any] = dict(schema.get("$defs", {}))
    for model in models:
        if model.__name__ not in (*further, schema.get("title")):
            described = model.model_json_schema()
            further |= described.pop("$defs", {})
            further[model.__name__] = described
    whole = {**schema, "$defs": further} if further else schema
    return json.dumps(_closed(whole), ensure_ascii=False, indent=2)


def _closed(node: Any) -> Any:
    """A copy with sorted keywords, its objects closed, and `required` in each."""
    if isinstance(node, list):
        return [_closed(part) for part in node]
    if not isinstance(node, dict):
        return node
    made = {key: _closed(node[key]) for key in sorted(node)}
    for group in ("properties", "$defs"):
        if isinstance(node.get(group), dict):
            made[group] = {name: _closed(part) for name, part in node[group].items()}
    if isinstance(node.get("properties"), dict):
        made.setdefault("additionalProperties", False)
        made.setdefault("required", [])
    return {key: made[key] for key in sorted(made)}
