"""Judges: verdicts that a test can tell before, on every wire, and how they are counted."""

from __future__ import annotations

import json
from typing import Any

import pytest

from batch_jobs.models import Parameters, Request
from providers.sandbox.behaviour import Behaviour
from providers.sandbox.judge import is_judge, verdict_of
from providers.sandbox.question import Judging
from tests.contract.providers.wires import MODEL
from tests.contract.sandbox.kit import row_text
from tests.contract.sandbox.way import Way, on

ALL_WIRES = ("openai-chat", "openai-responses", "anthropic", "gemini")
VERDICT: dict[str, Any] = {
    "type": "object",
    "title": "Verdict",
    "properties": {
        "verdict": {"type": "string", "enum": ["accept", "reject"]},
        "score": {"type": "number", "minimum": 0, "maximum": 1},
        "feedback": {"type": "string"},
    },
    "required": ["verdict", "score", "feedback"],
    "additionalProperties": False,
}
HALF = Judging(reject_share=0.5)


def judged(index: int, answer: str = "Valve lost.") -> str:
    """What a judge is asked about one row."""
    return f"<record>\n{row_text(index)}\n</record>\n\n<answer>\n{answer}\n</answer>"


def call(way: Way, text: str) -> dict[str, Any]:
    request = Request("Judge the answer.", text, VERDICT, "Verdict", MODEL, Parameters(max_output_tokens=300))
    found: dict[str, Any] = json.loads(way.provider.complete(way.provider.codec.encode_body(request)).text)
    return found


@on(*ALL_WIRES)
def test_verdicts_are_those_that_were_told_before(way: Way) -> None:
    way.server.behave(Behaviour(reject_share=0.5))
    before = way.server.get("verdicts")
    said = [call(way, judged(index)) for index in range(12)]
    told = [verdict_of(judged(index), HALF) for index in range(12)]
    assert [(each["verdict"], each["score"], each["feedback"]) for each in said] == [tuple(each) for each in told]
    assert {each.verdict for each in told} == {"accept", "reject"}
    after = way.server.get("verdicts")
    for verdict in ("accept", "reject"):
        assert after[verdict] - before[verdict] == sum(each.verdict == verdict for each in told)
    assert sum(row["reject"] for row in after["totals"]) == after["reject"]


def test_a_reject_says_why_in_the_requests_own_words() -> None:
    said = verdict_of(judged(7), Judging(reject_share=1))
    assert 0 <= said.score <= 0.4
    assert said.feedback == 'Simulated: say more of "<record> Rig platform7 lost valve7 near Port7.".'
    spared = verdict_of(judged(7), Judging())
    assert (spared.verdict, spared.feedback) == ("accept", "")
    assert 0.7 <= spared.score <= 1


def test_the_share_is_kept_and_a_text_keeps_its_verdict() -> None:
    texts = [judged(index) for index in range(2000)]
    rejected = [text for text in texts if verdict_of(text, Judging(0.1)).verdict == "reject"]
    assert 150 < len(rejected) < 250
    assert all(verdict_of(text, HALF).verdict == "reject" for text in rejected)


def test_a_repaired_answer_can_be_spared() -> None:
    again, spared = Judging(1.0), Judging(1.0, reject_first_only=True)
    first, repaired = judged(1), judged(1, "Valve lost. (revised)")
    assert [verdict_of(text, again).verdict for text in (first, repaired)] == ["reject", "reject"]
    assert [verdict_of(text, spared).verdict for text in (first, repaired)] == ["reject", "accept"]
    assert verdict_of(first, spared, repaired=True).verdict == "accept"


@pytest.mark.parametrize("name", ["verdict", "score", "feedback"])
def test_what_lacks_a_field_of_a_verdict_is_no_judge(name: str) -> None:
    assert is_judge(VERDICT)
    properties = {key: value for key, value in VERDICT["properties"].items() if key != name}
    assert not is_judge(VERDICT | {"properties": properties})


def test_a_verdict_is_known_in_geminis_form_and_behind_a_reference() -> None:
    upper = {"type": "STRING", "enum": ["reject", "accept"], "format": "enum"}
    fields = {"verdict": upper, "score": {"type": "NUMBER"}, "feedback": {"type": "STRING", "nullable": True}}
    assert is_judge({"type": "OBJECT", "properties": fields})
    assert is_judge({"$defs": {"V": upper}, "properties": fields | {"verdict": {"$ref": "#/$defs/V"}}})
    assert not is_judge({"properties": fields | {"verdict": {"enum": ["accept", "maybe"]}}})
