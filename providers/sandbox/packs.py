"""Packed requests: several records in one request, each answered as if it had come alone.

The answer's form is an object with one array, `results`, of objects with an `id`; the text has a block
`<record id="...">` for each record. Faults of packs spoil one record's answer and leave the others alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import orjson

from .behaviour import Fault, FaultKind
from .question import Question
from .schema_answers import Schema, node_of
from .wire import share_of

_OPENS, _CLOSES = re.compile(r'<record id="([^"]*)">'), "</record>"

Entry = dict[str, Any]
"""One record's answer with its id."""
Answerer = Callable[[Question], object]
"""What answers one question."""


def item_form(schema: Schema) -> Schema | None:
    """Give the form of one record's answer, without its id; None when the request is no pack."""
    properties = node_of(schema, schema).get("properties") or {}
    if properties.keys() != {"results"}:
        return None
    item = node_of(schema, node_of(schema, properties["results"]).get("items"))
    fields: Schema = item.get("properties") or {}
    if str(node_of(schema, fields.get("id")).get("type", "")).lower() != "string":
        return None
    definitions: Schema = {name: schema[name] for name in ("$defs", "definitions") if name in schema}
    own = {name: field for name, field in fields.items() if name != "id"}
    return {**item, **definitions, "properties": own, "required": [n for n in item.get("required", ()) if n != "id"]}


def records(text: str) -> list[tuple[str, str]]:
    """Give the records of a text: their ids and their own texts, each up to the last end before the next begins."""
    opened = list(_OPENS.finditer(text))
    ends = [*(found.start() for found in opened[1:]), len(text)]
    inner = [text[found.end() : end].rpartition(_CLOSES) for found, end in zip(opened, ends, strict=False)]
    return [(found[1], own.strip()) for found, (own, closed, _) in zip(opened, inner, strict=True) if closed]


def pack_answer(question: Question, answer: Answerer, faults: Mapping[FaultKind, Fault]) -> object | None:
    """Answer every record of a packed request.

    Args:
        question: the request.
        answer: answers one record.
        faults: of packs, met by the request.

    Returns:
        None when it is no pack.
    """
    form = item_form(question.schema)
    found = records(question.text) if form is not None else []
    if form is None or not found:
        return None
    before = _earlier(question.previous)

    def entry(name: str, text: str, previous: str) -> Entry:
        own = answer(replace(question, schema=form, text=text, whole=text, previous=previous))
        return {"id": name, **(own if isinstance(own, dict) else {})}

    entries = [entry(name, text, before.get(name, question.previous)) for name, text in found]
    texts = dict(found)
    for kind, spoil in _SPOILS.items():
        if fault := faults.get(kind):
            at = _hit(entries, fault)
            hit = entries[at]
            entries[at : at + 1] = spoil(hit, lambda: entry(hit["id"], texts[hit["id"]], _json(hit)))  # noqa: B023
    return {"results": entries}


def _earlier(previous: str) -> dict[str, str]:
    """The answer that is to be repaired, by record; empty when it can't be read."""
    try:
        results = orjson.loads(previous)["results"] if previous else []
        return {str(entry["id"]): _json(entry) for entry in results}
    except (ValueError, TypeError, KeyError):
        return {}


def _hit(entries: list[Entry], fault: Fault) -> int:
    """Which record a fault hits: the named one, else by a hash of the ids."""
    names = [str(entry["id"]) for entry in entries]
    if fault.code in names:
        return names.index(fault.code)
    lots = [share_of(fault.kind, *names, name) for name in names]
    return lots.index(min(lots))


def _json(entry: Entry) -> str:
    return orjson.dumps({name: value for name, value in entry.items() if name != "id"}).decode()


def _doubled(entry: Entry, again: Callable[[], Entry]) -> list[Entry]:
    """The answer, and another one under its id."""
    other = again()
    if other == entry:  # a verdict does not change when it is asked for again
        other = {**other, "feedback": f"{other.get('feedback', '')} (simulated: said twice)".strip()}
    return [entry, other]


Spoil = Callable[[Entry, Callable[[], Entry]], list[Entry]]
_SPOILS: dict[FaultKind, Spoil] = {
    FaultKind.PACK_DOUBLED: _doubled,
    FaultKind.PACK_INVALID: lambda entry, _: [{"id": entry["id"], "simulated_other_shape": True}],
    FaultKind.PACK_FOREIGN: lambda entry, _: [{**entry, "id": f"unsent-sim-{entry['id']}"}],
    FaultKind.PACK_MISSING: lambda *_: [],
}
"""What each fault makes of one record's answer, in this order; the other one is a new answer to the record."""
