"""What the three protocols have in common, in our words: a question, an answer, a problem, and how to write them.

Executing is the same for every provider; only reading a body and writing a reply differ. `Wire` is that seam.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from batch_jobs.models import Dialect

Body = dict[str, Any]
"""Raw provider JSON."""

ANY_JSON: Body = {"type": "object", "properties": {"answer": {"type": "string"}}}
"""What an answer is like that has to be JSON, and of which nothing more is said."""

SPOOL_BYTES = 1 << 20
"""Bodies above this go to a file, and files are read in such pieces."""


class Finish(StrEnum):
    """Why an answer ends."""

    STOP = "stop"
    LENGTH = "length"  # the output limit
    REFUSED = "refused"


class Unrun(StrEnum):
    """Why an item of a batch was not executed."""

    EXPIRED = "expired"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a request is refused.

    Attributes:
        status: HTTP status.
        message: for people.
        code: the provider's error code, where its dialect has one.
        param: the field that is at fault.
        retry_after_seconds: for the Retry-After header.
        kind: the provider's error type; "" for the usual one of the status.
    """

    status: int
    message: str
    code: str | None = None
    param: str | None = None
    retry_after_seconds: float | None = None
    kind: str = ""


def first_of(found: Iterable[Problem | None]) -> Problem | None:
    """Give the first problem of a row of checks; those after it are not made."""
    return next(filter(None, found), None)


@dataclass(frozen=True, slots=True)
class Left:
    """What is left of one limit a minute, as headers tell it.

    Attributes:
        limit: of a minute.
        remaining: that may come at once now.
        reset_seconds: until all of it may.
    """

    limit: int
    remaining: int
    reset_seconds: float


class Refused(Exception):
    """The request is refused with a provider's error body."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.message)
        self.problem = problem


@dataclass(frozen=True, slots=True)
class Mark:
    """The end of a beginning that is to be cached: characters of `fixed` and `text` together, and for how long."""

    end: int
    ttl: str


@dataclass(frozen=True, slots=True)
class Cached:
    """Tokens of a prompt that were read from the cache, and written to it; `hour` are those written for an hour."""

    read: int = 0
    written: int = 0
    hour: int = 0


@dataclass(frozen=True, slots=True)
class Ask:
    """What one request asks.

    Attributes:
        model: as it was named.
        fixed: the system part, which many requests share.
        text: the user part.
        schema: the JSON schema of the answer, None for plain text.
        max_tokens: output limit.
        endpoint: OpenAI's, "" elsewhere.
        implicit: the provider looks for a cached beginning by itself.
        marks: where the request wants its beginning cached, in order.
        blocks: where its blocks end, in order; with `marks` only.
        cache_key: what the request says about its cache.
        held: the cached content it goes on from, "" for none.
        in_batch: asked in a batch.
        record: of a conversation, what was said before the first answer; None where `text` is all there is.
        previous: of a conversation, the last answer.
        answers_before: of a conversation, how many answers it has.
    """

    model: str
    fixed: str
    text: str
    schema: Body | None = None
    max_tokens: int | None = None
    endpoint: str = ""
    implicit: bool = True
    marks: tuple[Mark, ...] = ()
    blocks: tuple[int, ...] = ()
    cache_key: str = ""
    held: str = ""
    in_batch: bool = False
    record: str | None = None
    previous: str = ""
    answers_before: int = 0


@dataclass(frozen=True, slots=True)
class Answer:
    """What the simulated model says, and what it would cost.

    `input_tokens` includes the cached and the cache-written ones, `written_tokens` those written for an hour;
    `accepted` and `rejected` count verdicts.
    """

    text: str
    finish: Finish = Finish.STOP
    input_tokens: int = 0
    cached_tokens: int = 0
    written_tokens: int = 0
    hour_tokens: int = 0
    output_tokens: int = 0
    accepted: int = 0
    rejected: int = 0


@dataclass(frozen=True, slots=True)
class Place:
    """Where a request body was found: a single call or a batch, and what that place says about it."""

    endpoint: str = ""
    model: str = ""
    in_batch: bool = False
    version: str = ""


class Wire(Protocol):
    """One dialect: how it names things in a request and in a reply."""

    dialect: Dialect

    def key(self, headers: Mapping[str, str], query: Mapping[str, str]) -> str:
        """Give the API key of a request, "" for none."""
        ...

    def key_problem(self, key: str) -> Problem:
        """Say that a key is missing or wrong."""
        ...

    def read_line(self, line: bytes) -> tuple[str, Body]:
        """Read one input line of a batch: its id and the request body."""
        ...

    def check(self, body: Body, place: Place) -> Problem | None:
        """Find what the provider would refuse in a request body."""
        ...

    def ask(self, body: Body, place: Place) -> Ask:
        """Read a request body that has passed `check`."""
        ...

    def reply(self, ask: Ask, answer: Answer, ident: str) -> Body:
        """Write an answer as the endpoint's reply."""
        ...

    def succeeded_line(self, custom_id: str, reply: Body, ident: str) -> Body:
        """Write a result line with a reply."""
        ...

    def errored_line(self, custom_id: str, problem: Problem, ident: str) -> Body:
        """Write a result line with an error."""
        ...

    def unrun_line(self, custom_id: str, why: Unrun, ident: str) -> Body:
        """Write a result line of an item that was not executed."""
        ...

    def error_body(self, problem: Problem) -> Body:
        """Write an error reply."""
        ...

    def call_headers(self, requests: Left, tokens: Left) -> dict[str, str]:
        """Give the rate-limit headers of a single call."""
        ...

    def quota_problem(self) -> Problem:
        """Say that the money or the quota is used up."""
        ...

    def rate_problem(self, retry_after_seconds: float | None) -> Problem:
        """Say that requests come too fast."""
        ...


class Talk(NamedTuple):
    """What was said after the fixed part, turn by turn: `text` is all of it, the rest see `Ask`."""

    text: str
    record: str | None = None
    previous: str = ""
    answers_before: int = 0


def talk(turns: Sequence[tuple[bool, str]]) -> Talk:
    """Read a conversation.

    Args:
        turns: whether the model said it, and what.
    """
    if len(turns) == 1 and not turns[0][0]:
        return Talk(turns[0][1])
    text = "\n\n".join(said for _, said in turns)
    answers = [at for at, (own, _) in enumerate(turns) if own]
    if not answers:
        return Talk(text)
    record = "\n\n".join(said for _, said in turns[: answers[0]])
    return Talk(text, record, turns[answers[-1]][1], len(answers))


def short_hash(*parts: str) -> str:
    """Give 24 hex digits that stand for the parts."""
    return hashlib.blake2b("\0".join(parts).encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()


def needles(text: str) -> set[bytes]:
    """Give the forms a text may have in a JSON body: plain, with escapes, in ASCII."""
    return {text.encode(), json.dumps(text, ensure_ascii=False)[1:-1].encode(), json.dumps(text)[1:-1].encode()}


def file_hash(path: Path) -> str:
    """Give hex digits that stand for a file's content."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "blake2b").hexdigest()


def file_contains(path: Path, text: str) -> bool:
    """Tell whether a file holds a text, in any of its forms."""
    wanted = needles(text)
    tail, longest = b"", max(len(needle) for needle in wanted)
    with path.open("rb") as handle:
        while chunk := handle.read(SPOOL_BYTES):
            block = tail + chunk
            if any(needle in block for needle in wanted):
                return True
            tail = block[-longest:]
    return False


def share_of(*parts: str) -> float:
    """Give a number in [0, 1) that stands for the parts: the lot that decides about a fault's share."""
    return int(short_hash(*parts)[:12], 16) / float(1 << 48)
