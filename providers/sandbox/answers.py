"""The simulated model: deterministic answers made of the request's own words.

A summary is the first sentences of the longest data point, so that an answer on the wrong row shows at once and
a rehearsal looks like the real thing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import orjson

from .behaviour import Fault, FaultKind
from .judge import ACCEPT, REJECT, is_judge, judge
from .packs import item_form, pack_answer
from .python_answers import python_answer
from .question import Judging, Question
from .schema_answers import answer_for, revisions_in
from .wire import Answer, Ask, Cached, Finish
from .words import CHARS_PER_TOKEN, data_point, sentences, tokens

REFUSAL = "I'm sorry, but I can't help with that (simulated refusal)."

FORMS: tuple[Callable[[Question], object | None], ...] = (judge, python_answer)
"""Who answers questions of a special form: the first that gives an answer. All others are filled by their schema."""


def compose(
    ask: Ask,
    *,
    cached: Cached | None = None,
    held_tokens: int = 0,
    faults: Mapping[FaultKind, Fault] | None = None,
    judging: Judging | None = None,
) -> Answer:
    """Answer a request.

    Args:
        ask: the question.
        cached: what the provider's cache has of its prompt.
        held_tokens: of the cached content that it goes on from.
        faults: those that the request meets; some of them spoil the answer.
        judging: how verdicts fall.
    """
    met, cached = faults or {}, cached or Cached()
    said = _said(ask, met, judging or Judging())
    text, finish = _handed_out(said, met, ask.max_tokens)
    whole = finish is Finish.STOP and FaultKind.ITEM_INVALID_JSON not in met
    verdicts = _verdicts(ask, said) if whole else []
    return Answer(
        text=text,
        finish=finish,
        input_tokens=held_tokens + tokens(ask.fixed) + tokens(ask.text),
        cached_tokens=held_tokens + cached.read,
        written_tokens=cached.written,
        hour_tokens=cached.hour,
        output_tokens=tokens(text),
        accepted=verdicts.count(ACCEPT),
        rejected=verdicts.count(REJECT),
    )


def _said(ask: Ask, met: Mapping[FaultKind, Fault], judging: Judging) -> object:
    """What the model says: a value in the form that was asked for; without any form, or where it refuses, a text."""
    if FaultKind.ITEM_REFUSED in met:
        return REFUSAL
    record = ask.text if ask.record is None else ask.record
    if ask.schema is None:
        return " ".join(sentences(data_point(record))[:2]) + (" (revised)" if ask.answers_before else "")
    question = Question(ask.schema, record, ask.text, ask.previous, ask.answers_before, judging)
    packed = pack_answer(question, answer_one, met)
    return answer_one(question) if packed is None else packed


def answer_one(question: Question) -> object:
    """Answer one question, whole or one of a pack; a repaired answer differs from the one before it."""
    for form in FORMS:
        if (own := form(question)) is not None:
            return own
    lines = sentences(data_point(question.text))
    if not question.turns and not question.previous:
        return answer_for(question.schema, lines)
    revision = max(question.turns, 1 + revisions_in(question.previous))
    value = answer_for(question.schema, lines, revision)
    return value if _json(value) != question.previous else answer_for(question.schema, lines, revision + 1)


def _json(value: object) -> str:
    return orjson.dumps(value).decode()


def _verdicts(ask: Ask, said: object) -> list[object]:
    """The verdicts that an answer gives; a pack of them gives one for each record."""
    if ask.schema is None or not isinstance(said, dict) or said.keys().isdisjoint({"verdict", "results"}):
        return []
    if is_judge(ask.schema):
        return [said["verdict"]]
    form = item_form(ask.schema)
    return [each.get("verdict") for each in said["results"]] if form is not None and is_judge(form) else []


def _handed_out(said: object, met: Mapping[FaultKind, Fault], max_tokens: int | None) -> tuple[str, Finish]:
    """What comes of what the model says, and why it ends there: a fault may spoil it or cut it, or its room ends."""
    text = _spoilt(said if isinstance(said, str) else _json(said), met)
    if FaultKind.ITEM_TRUNCATED in met:
        return text[: max(1, len(text) // 2)], Finish.LENGTH
    if max_tokens is not None and tokens(text) > max_tokens:
        return text[: max_tokens * CHARS_PER_TOKEN], Finish.LENGTH
    return text, Finish.REFUSED if FaultKind.ITEM_REFUSED in met else Finish.STOP


def _spoilt(text: str, met: Mapping[FaultKind, Fault]) -> str:
    fault = met.get(FaultKind.ITEM_INVALID_JSON)
    if fault is None or FaultKind.ITEM_REFUSED in met:
        return text
    if fault.code == "schema":
        return '{"simulated_other_shape": true}'
    return "Here is the answer (simulated): {" + text[1:-1]
