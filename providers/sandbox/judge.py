"""Verdicts on answers: accept or reject by a hash of the text that is judged, so that a test can tell them before.

A request is a judge's when its answer has a verdict (accept or reject), a score and a feedback.
"""

from __future__ import annotations

from typing import NamedTuple

from .question import Judging, Question
from .schema_answers import Schema, answer_for, node_of, revisions_in
from .wire import share_of
from .words import data_point, sentences

ACCEPT, REJECT = "accept", "reject"
QUOTED_WORDS = 8
_FIELDS = frozenset({"verdict", "score", "feedback"})


class Verdict(NamedTuple):
    """What a judge says: `accept` with 0.7 to 1 and no feedback, or `reject` with 0 to 0.4 and a sentence."""

    verdict: str
    score: float
    feedback: str


def verdict_of(text: str, judging: Judging, *, repaired: bool = False) -> Verdict:
    """Tell the verdict on a text.

    Args:
        text: all that a judge request says after its fixed part, with the record and the answer.
        judging: how verdicts fall.
        repaired: the answer is known to be a repaired one; else its own mark tells.
    """
    spared = judging.reject_first_only and (repaired or revisions_in(text) > 0)
    lot = share_of("score", text)
    if spared or share_of("verdict", text) >= judging.reject_share:
        return Verdict(ACCEPT, round(0.7 + 0.3 * lot, 2), "")
    words = " ".join(sentences(data_point(text))[0].split()[:QUOTED_WORDS])
    return Verdict(REJECT, round(0.4 * lot, 2), f'Simulated: say more of "{words}".')


def is_judge(schema: Schema) -> bool:
    """Tell whether an answer of this form is a verdict."""
    properties = node_of(schema, schema).get("properties") or {}
    if not properties.keys() >= _FIELDS:
        return False
    return {ACCEPT, REJECT} <= set(node_of(schema, properties["verdict"]).get("enum") or ())


def judge(question: Question) -> object | None:
    """Answer a judge's question; None when it is another's."""
    if not is_judge(question.schema):
        return None
    said = verdict_of(question.whole, question.judging, repaired=question.turns > 0)
    node = node_of(question.schema, question.schema["properties"]["feedback"])
    feedback = said.feedback or ("Simulated: nothing to add." if node.get("minLength") else "")
    own = {"verdict": said.verdict, "score": said.score, "feedback": feedback[: node.get("maxLength")]}
    filled = answer_for(question.schema, sentences(data_point(question.text)))
    return {**filled, **own} if isinstance(filled, dict) else own
