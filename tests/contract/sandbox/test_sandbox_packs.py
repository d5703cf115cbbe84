"""Packed requests: each record answered as if it had come alone, on every wire."""

from __future__ import annotations

import json
from typing import Any

from batch_jobs.models import Parameters, Request
from providers.sandbox.answers import compose
from providers.sandbox.behaviour import Behaviour
from providers.sandbox.judge import verdict_of
from providers.sandbox.packs import item_form, records
from providers.sandbox.question import Judging
from providers.sandbox.wire import Ask
from tests.contract.providers.wires import MODEL
from tests.contract.sandbox.kit import SCHEMA, prompt
from tests.contract.sandbox.test_sandbox_judges import VERDICT, judged
from tests.contract.sandbox.way import Way, on

ALL_WIRES = ("openai-chat", "openai-responses", "anthropic", "gemini")


def packed_form(form: dict[str, Any]) -> dict[str, Any]:
    """The form of a pack whose records have this form."""
    item = {**form, "properties": {"id": {"type": "string"}, **form["properties"]}}
    item["required"] = ["id", *form["required"]]
    fields = {"results": {"type": "array", "items": item}}
    return {"type": "object", "properties": fields, "required": ["results"], "additionalProperties": False}


def pack_text(texts: dict[str, str]) -> str:
    blocks = [f'<record id="{name}">\n{text}\n</record>' for name, text in texts.items()]
    return "\n\n".join(["Answer each record.", *blocks])


def asked(text: str, schema: dict[str, Any]) -> Request:
    return Request("Be brief.", text, schema, "answer", MODEL, Parameters(max_output_tokens=2000))


def call(way: Way, request: Request) -> Any:
    return json.loads(way.provider.complete(way.provider.codec.encode_body(request)).text)


@on(*ALL_WIRES)
def test_a_packed_record_is_answered_as_a_single_one(way: Way) -> None:
    found = call(way, asked(pack_text({str(at): prompt(at) for at in (3, 11, 4)}), packed_form(SCHEMA)))
    assert [entry["id"] for entry in found["results"]] == ["3", "11", "4"]
    for entry in found["results"]:
        assert {**entry, "id": ""} == {"id": "", **call(way, asked(prompt(int(entry["id"])), SCHEMA))}


@on()
def test_packed_judges_count_a_verdict_for_each_record(way: Way) -> None:
    way.server.behave(Behaviour(reject_share=0.5))
    before = way.server.get("verdicts")
    texts = {str(at): judged(at) for at in range(8)}
    found = call(way, asked(pack_text(texts), packed_form(VERDICT)))
    told = {name: verdict_of(text, Judging(0.5)).verdict for name, text in texts.items()}
    assert {entry["id"]: entry["verdict"] for entry in found["results"]} == told
    after = way.server.get("verdicts")
    counts = [list(told.values()).count(verdict) for verdict in ("accept", "reject")]
    assert [after[verdict] - before[verdict] for verdict in ("accept", "reject")] == counts


def test_a_record_has_its_own_text_and_nothing_after_its_end() -> None:
    assert records(pack_text({"1": "One.", "2": "<record>Two.</record>"}) + "\n\nBe brief.") == [
        ("1", "One."),
        ("2", "<record>Two.</record>"),
    ]
    assert records('<record id="1">never closed') == []


def test_what_only_looks_like_a_pack_is_none() -> None:
    form = packed_form(SCHEMA)
    assert item_form(form) is not None
    assert item_form({**form, "properties": {**form["properties"], "note": {"type": "string"}}}) is None
    assert item_form(SCHEMA) is None
    number = {"type": "object", "properties": {"results": {"type": "array", "items": {"type": "string"}}}}
    assert item_form(number) is None
    without = json.loads(compose(Ask("m", "", "No record is here.", form)).text)
    assert len(without["results"]) == 1


def test_a_pack_is_known_behind_references() -> None:
    inner = packed_form(SCHEMA)["properties"]["results"]["items"]
    level = {"type": "string", "enum": ["low"]}
    fields = {**inner["properties"], "severity": {"$ref": "#/$defs/Level"}}
    schema = {
        "type": "object",
        "properties": {"results": {"type": "array", "items": {"$ref": "#/$defs/Row"}}},
        "$defs": {"Row": {**inner, "properties": fields}, "Level": level},
    }
    found = json.loads(compose(Ask("m", "", pack_text({"a": prompt(1)}), schema)).text)
    (entry,) = found["results"]
    assert (entry["id"], entry["severity"]) == ("a", "low")
