"""One question about one record, as the simulated model sees it, whatever request it came in.

A single request is one question, a packed one has a question for each of its records.
"""

from __future__ import annotations

from dataclasses import dataclass

from .schema_answers import Schema


@dataclass(frozen=True, slots=True)
class Judging:
    """How verdicts fall, from the behaviour in force.

    Attributes:
        reject_share: of the texts that are judged, 0 to 1.
        reject_first_only: an answer that was repaired is accepted.
    """

    reject_share: float = 0.0
    reject_first_only: bool = False


ACCEPTING = Judging()
"""Every answer is accepted."""


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked about one record.

    Attributes:
        schema: of the answer.
        text: the record, which the answer is made of.
        whole: all that was said about it; in a conversation the earlier answers and the feedback too.
        previous: the answer that is to be repaired, "" for a first one.
        turns: answers that were given before.
        judging: how a verdict falls.
    """

    schema: Schema
    text: str
    whole: str
    previous: str = ""
    turns: int = 0
    judging: Judging = ACCEPTING
