"""A request as the provider gets it, understood: what it asks for, about which events, and under which key it is kept.

All of it is read from the body alone, so that a request which shows another row's words, or another draft, is noticed.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from typing import Any

import orjson

from batch_jobs.models import AskKind
from tests.contract.lifecycle.kit import JUDGE_MODEL, LIMIT, Sent

_EVENT = re.compile(r"event-\d+")
_DRAFT = re.compile(r"<answer>\n(.*)\n</answer>", re.DOTALL)
_RECORD = re.compile(r'<record id="(\d+)">\n(.*?)\n</record>', re.DOTALL)


@dataclass(frozen=True)
class Quoted:
    """What a request that asks again says of the answer before: its text, and why it was not taken."""

    text: str
    why: str


@dataclass(frozen=True)
class Asked(Sent):
    """One request.

    Attributes:
        account: of which provider it was asked.
        kind: what it asks for.
        events: what it is about, one for each record.
        ids: of the records of a bundle, in the order of its events.
        draft: that a judge is shown.
        quoted: where it asks again.
        question: a digest of all but the room for the answer: equal means that the same is asked.
    """

    account: str
    kind: AskKind
    events: tuple[str, ...]
    ids: tuple[str, ...] = ()
    draft: str = ""
    quoted: Quoted | None = None
    question: bytes = field(default=b"", repr=False)

    @property
    def event(self) -> str:
        """The first."""
        return self.events[0]

    @property
    def widened(self) -> bool:
        """Whether there is more room than at first; of a single answer or verdict."""
        return self.limit > LIMIT

    @property
    def name(self) -> str:
        """For the log."""
        again = " again" if self.quoted else ""
        return f"{self.kind} {' '.join(self.events)}{again}"


def understood(custom_id: str, body: dict[str, Any], account: str, prefix: bytes) -> Asked:
    """Read a request.

    Args:
        custom_id: its id; of a single call it has none.
        body: as it was sent.
        account: the provider that it was sent to.
        prefix: what the product's call cache puts before the body of such a call.
    """
    messages = body["messages"]
    text = str(messages[1]["content"])
    quoted = Quoted(messages[-2]["content"], messages[-1]["content"]) if len(messages) > 2 else None
    question = hashlib.sha256(prefix + b"\n" + orjson.dumps({**body, "max_completion_tokens": LIMIT})).digest()
    if body["model"] == JUDGE_MODEL:
        draft = _DRAFT.search(text)
        assert draft is not None
        about = (_event(text[: draft.start()]),)
        return Asked(custom_id, body, account, AskKind.JUDGE, about, draft=draft[1], quoted=quoted, question=question)
    records = _RECORD.findall(text)
    if records:
        ids, texts = zip(*records, strict=True)
        return Asked(custom_id, body, account, AskKind.BUNDLE, tuple(map(_event, texts)), ids, question=question)
    return Asked(custom_id, body, account, AskKind.ANSWER, (_event(text),), quoted=quoted, question=question)


def _event(text: str) -> str:
    found = _EVENT.findall(text)
    assert len(set(found)) == 1, text
    return str(found[0])
