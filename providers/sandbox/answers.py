"""The simulated model: deterministic answers made of the request's own words.

A summary is the first sentences of the longest data point, so that an answer on the wrong row shows at once and
a rehearsal looks like the real thing.
"""

from __future__ import annotations

import math
import re

import orjson

from .behaviour import FaultKind
from .python_answers import python_answer
from .schema_answers import answer_for
from .wire import Answer, Ask, Finish

_MARKED = re.compile(r"<data_points>(.*)</data_points>", re.DOTALL)
_POINT = re.compile(r"^[ \t]*\d+:[ \t]*[^:\n]{1,120}:[ \t]*", re.MULTILINE)
_PARAGRAPH = re.compile(r"\n\s*\n")
_SENTENCE = re.compile(r"(?<=[.!?])\s+")

CHARS_PER_TOKEN = 4
MIN_CACHED_TOKENS = 1024
REFUSAL = "I'm sorry, but I can't help with that (simulated refusal)."


def tokens(text: str) -> int:
    """Count tokens the rough way: four characters each."""
    return math.ceil(len(text) / CHARS_PER_TOKEN)


def data_point(text: str) -> str:
    """Find what the request is about: the longest data point, else the longest paragraph."""
    marked = _MARKED.search(text)
    inner = marked.group(1) if marked else text
    starts = list(_POINT.finditer(inner))
    if starts:
        ends = [found.start() for found in starts[1:]] + [len(inner)]
        pieces = [inner[found.end() : end].strip() for found, end in zip(starts, ends, strict=True)]
    else:
        pieces = [piece.strip() for piece in ([inner] if marked else _PARAGRAPH.split(inner))]
    return max(pieces, key=len)


def sentences(text: str) -> list[str]:
    """Split into sentences on one line each; at least one, possibly a stand-in for an empty text."""
    found = [" ".join(part.split()) for part in _SENTENCE.split(text.strip())]
    return [part for part in found if part] or ["No text was given."]


def is_cacheable(ask: Ask) -> bool:
    """Whether the provider would keep the fixed part of this request in its prompt cache."""
    return ask.cacheable and tokens(ask.fixed) >= MIN_CACHED_TOKENS


def compose(
    ask: Ask, *, seen_before: bool = False, twist: FaultKind | None = None, variant: str | None = None
) -> Answer:
    """Answer a request.

    Args:
        ask: the question.
        seen_before: the fixed part is in the provider's cache.
        twist: the fault that spoils the answer, if any.
        variant: the fault's `code`.
    """
    text = REFUSAL if twist is FaultKind.ITEM_REFUSED else _spoil(_text(ask), twist, variant)
    finish = Finish.REFUSED if twist is FaultKind.ITEM_REFUSED else Finish.STOP
    if twist is FaultKind.ITEM_TRUNCATED:
        text, finish = text[: max(1, len(text) // 2)], Finish.LENGTH
    elif ask.max_tokens is not None and tokens(text) > ask.max_tokens:
        text, finish = text[: ask.max_tokens * CHARS_PER_TOKEN], Finish.LENGTH
    cached = tokens(ask.fixed) if is_cacheable(ask) else 0
    return Answer(
        text=text,
        finish=finish,
        input_tokens=tokens(ask.fixed) + tokens(ask.text),
        cached_tokens=cached if seen_before else 0,
        written_tokens=0 if seen_before else cached,
        output_tokens=tokens(text),
    )


def _text(ask: Ask) -> str:
    if (module := python_answer(ask)) is not None:
        return module
    lines = sentences(data_point(ask.text))
    if ask.schema is None:
        return " ".join(lines[:2])
    return orjson.dumps(answer_for(ask.schema, lines)).decode()


def _spoil(text: str, twist: FaultKind | None, variant: str | None) -> str:
    if twist is not FaultKind.ITEM_INVALID_JSON:
        return text
    return (
        '{"simulated_other_shape": true}' if variant == "schema" else "Here is the answer (simulated): {" + text[1:-1]
    )
