"""The words of a request: what it is about, its sentences, its tokens.

Answers are made of them, so that an answer on the wrong row shows at once.
"""

from __future__ import annotations

import math
import re

_MARKED = re.compile(r"<data_points>(.*)</data_points>", re.DOTALL)
_POINT = re.compile(r"^[ \t]*\d+:[ \t]*[^:\n]{1,120}:[ \t]*", re.MULTILINE)
_PARAGRAPH = re.compile(r"\n\s*\n")
_SENTENCE = re.compile(r"(?<=[.!?])\s+")

CHARS_PER_TOKEN = 4
MOST_SENTENCES = 40
"""No answer is made of more."""


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
    """Split into sentences on one line each; the first ones, at least one, possibly a stand-in for an empty text."""
    found = [" ".join(part.split()) for part in _SENTENCE.split(text.strip(), MOST_SENTENCES)[:MOST_SENTENCES]]
    return [part for part in found if part] or ["No text was given."]
