"""Bundles: several items in one request, to pay for the fixed part once; answers are matched by their ids alone.

Each row stands in a block of its own with its item's number as id; the answer is a list whose entries carry the ids. A
row whose answer is missing, doubled or no answer fails alone, and goes alone the next time.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from batch_jobs.errors import ConfigError
from batch_jobs.models import Outcome, Parameters, Request
from batch_jobs.render.answers import OutputSchema, answer_text, without_fence
from providers.contract import Codec

SEED = 42
RESULTS, ID, RECORD = "results", "id", "record"
NOTE = (
    "There are several records, each between <record id=...> and </record>. Answer for each of them as if it stood "
    'alone: nothing of one record belongs into the answer to another. Give one entry in "results" for each record, '
    'with its id as "id".'
)
_TAG = re.compile(r"<(?=[^\w<>]*record)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Parts:
    """What a bundle's answer holds.

    Attributes:
        answers: valid ones, as canonical JSON, by item.
        faults: why an item of the bundle has none: (code, words).
        foreign: ids that were not asked for.
    """

    answers: dict[int, str] = field(default_factory=dict)
    faults: dict[int, tuple[str, str]] = field(default_factory=dict)
    foreign: list[str] = field(default_factory=list)


def bundles_of(items: Collection[int], size: int) -> list[tuple[int, ...]]:
    """Put items into bundles, shuffled, so that long and short rows mix: the same items give the same bundles.

    The first item of each is the one that its request is named after.
    """
    mixed = sorted(items)
    random.Random(SEED).shuffle(mixed)
    return [tuple(mixed[start : start + size]) for start in range(0, len(mixed), size)]


def check_bundled(task_name: str, output: OutputSchema) -> None:
    """Check that an answer can stand in a list with others.

    Raises:
        ConfigError: it has a field of the name that the ids need, or refers to itself.
    """
    key = f"tasks.{task_name}.rows_per_request"
    if ID in output.fields:
        raise ConfigError(f'{key}: {output.name} has a field "{ID}", which rows in one request are told apart by')
    if b'"$ref":"#"' in orjson.dumps(output.schema):
        raise ConfigError(f"{key}: {output.name} refers to itself, so it can't stand in a list; set it to 1")


def bundle_schema(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema of the answers to several rows."""
    shared: dict[str, Any] = {key: schema[key] for key in ("$defs", "definitions") if key in schema}
    entry = {key: value for key, value in schema.items() if key not in {"title", "$schema", "$id", *shared}}
    entry["properties"] = {ID: {"type": "string", "description": "The record's id."}, **schema.get("properties", {})}
    entry["required"] = [ID, *schema.get("required", ())]
    listed = {"type": "array", "items": entry, "description": "One entry for each record."}
    closed = {"type": "object", "properties": {RESULTS: listed}, "required": [RESULTS], "additionalProperties": False}
    return {"title": "Results", **closed, **shared}


def bundle_body(
    codec: Codec, bodies: Sequence[tuple[int, bytes]], output: OutputSchema, model: str, parameters: Parameters
) -> bytes:
    """One request for several items.

    Args:
        codec: of the dialect.
        bodies: each item's own request, as it was rendered.
        output: what is answered for each.
        model: the provider's.
        parameters: of one item's request.
    """
    texts = [(item, *codec.texts(body)) for item, body in bodies]
    fixed = texts[0][1]
    own = ((item, text if same == fixed else f"{same}\n\n{text}") for item, same, text in texts)
    blocks = (f'<{RECORD} id="{item}">\n{_inside(text)}\n</{RECORD}>' for item, text in own)
    request = Request(
        fixed=f"{fixed}\n\n{NOTE}" if fixed else NOTE,
        text="\n\n".join(blocks),
        schema=bundle_schema(output.schema),
        schema_name="Results",
        model=model,
        parameters=widened(parameters, len(texts)),
    )
    return codec.encode_body(request)


def widened(parameters: Parameters, rows: int) -> Parameters:
    """The parameters with room for so many answers."""
    values = {name: getattr(parameters, name) for name in Parameters.__slots__}
    return Parameters(**{**values, "max_output_tokens": parameters.max_output_tokens * rows})


def _inside(text: str) -> str:
    """A row's text that can't close its block, nor open another."""
    return _TAG.sub("&lt;", text)


def parts_of(output: OutputSchema, text: str, members: Sequence[int]) -> Parts:
    """Read the answer to a bundle: every member ends in an answer or in a fault.

    Raises:
        ValueError: it is no list of answers at all.
    """
    entries, parts, asked = _entries(text), Parts(), {str(item): item for item in members}
    ids = [str(entry.get(ID)) if isinstance(entry, dict) else "" for entry in entries]
    times = Counter(ids)
    for name, entry in zip(ids, entries, strict=True):
        if name not in asked:
            parts.foreign.append(name)
        elif times[name] > 1:
            parts.faults[asked[name]] = "doubled_id", "the answer to several rows holds this one more than once"
        else:
            _take(parts, output, asked[name], entry)
    for item in members:
        if item not in parts.answers and item not in parts.faults:
            parts.faults[item] = "left_out", "the answer to several rows leaves this one out"
    return parts


def _entries(text: str) -> list[Any]:
    try:
        entries = orjson.loads(without_fence(text.strip()))[RESULTS]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        raise ValueError(f'no JSON object with "{RESULTS}"') from None
    if not isinstance(entries, list):
        raise ValueError(f'"{RESULTS}" is no list')
    return entries


def _take(parts: Parts, output: OutputSchema, item: int, entry: dict[str, Any]) -> None:
    own = {key: value for key, value in entry.items() if key != ID}
    try:
        parts.answers[item] = answer_text(output, orjson.dumps(own).decode())
    except ValueError as error:
        parts.faults[item] = "schema", str(error)


FAULT_OUTCOMES = {"schema": Outcome.INVALID, "doubled_id": Outcome.ERRORED, "left_out": Outcome.MISSING}
"""How a row's fault within a bundle is called."""
