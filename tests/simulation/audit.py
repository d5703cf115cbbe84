"""The audit of each request at the moment when money is about to be spent for it: may it be sent, after all that was?

It goes by what the provider handed out alone; what may be sent again is written down here a second time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import orjson

from batch_jobs.models import AskKind
from tests.simulation.asked import Asked
from tests.simulation.lines import ENDS, MENDABLE, Fate, Said
from tests.simulation.violations import Kind, Violation

_ONCE = frozenset({Fate.INVALID, Fate.TRUNCATED})
_ONCE_BY_CALLS = frozenset({Fate.INVALID})
_AGAIN: tuple[list[Fate], ...] = ([], [Fate.INVALID], [Fate.TRUNCATED], [Fate.INVALID, Fate.TRUNCATED])
_MAY_GO_ON = {AskKind.ANSWER: ([], [Fate.TRUNCATED]), AskKind.BUNDLE: _AGAIN, AskKind.JUDGE: _AGAIN}
"""After which of these the very same request may be sent once more; a repair of a plain one quotes what was invalid."""
_NOT_EXECUTED = frozenset({Fate.NOT_NOW, Fate.QUOTA})


@dataclass(frozen=True)
class Rules:
    """How the jobs of a world come to their answers, in the promise's terms."""

    judged: bool = False
    rows: int = 1
    repairs: int = 2


@dataclass(frozen=True)
class Handed:
    """One sending of a request, and what was handed out for it; nothing yet where it is under way.

    Attributes:
        counted: our side has it in the ledger; only cached, the good parts of a bundle are known, and not the others.
    """

    asked: Asked
    job: str
    place: str
    said: Said | None
    counted: bool = True


@dataclass(frozen=True)
class Audit:
    """What was handed out so far, as far as our side goes by it.

    Attributes:
        by_calls: single calls are tried again at once where it may help, as often as the config says.
        forgiven: how often an item of a job was opened again by our side, because not it was at fault.
    """

    rules: Rules
    history: Sequence[Handed]
    forgiven: Callable[[str, str], int]
    by_calls: bool

    def of(self, asked: Asked, job: str, place: str) -> Iterator[Violation]:
        """What is wrong with sending this."""
        for event in asked.events:
            about = [handed for handed in self.history if event in handed.asked.events]
            yield from self._under_way(event, about, place)
            yield from self._is_over(event, about, job, place)
            if asked.kind is not AskKind.JUDGE:
                yield from self._asks_again(asked, event, [h for h in about if h.job == job], place)
            if asked.quoted:
                yield from _quotes(asked, about)
        if asked.kind is AskKind.JUDGE:
            yield from _shows(asked, self.history)
        yield from self._same_question(asked, job, place)

    def _under_way(self, event: str, about: Sequence[Handed], place: str) -> Iterator[Violation]:
        for handed in about:
            if handed.said is None:
                yield Violation(Kind.PAID_TWICE, f"{event} was sent in {place} while {handed.place} runs")

    def _is_over(self, event: str, about: Sequence[Handed], job: str, place: str) -> Iterator[Violation]:
        """What was answered for anybody, or has failed for good for this job."""
        for handed in about:
            if handed.said is not None and is_final(self.rules, handed.said, event):
                yield Violation(Kind.PAID_TWICE, f"{event} was sent again in {place}: {handed.place} answered it")
        single = (h.said for h in about if h.job == job and h.said and h.asked.kind is not AskKind.BUNDLE)
        ends = [said.fate for said in single if said.fate in ENDS]
        if _unforgiven(ends, self.forgiven(job, event)):
            yield Violation(Kind.SENT_AGAIN, f"{event} was sent again in {place} after {list(map(str, ends))}")

    def _asks_again(self, asked: Asked, event: str, mine: Sequence[Handed], place: str) -> Iterator[Violation]:
        """An answer is asked for once more only where what came was no good, and with what was wrong with it."""
        faults = [handed for handed in mine if _is_fault(handed)]
        if len(faults) > self.rules.repairs:
            yield Violation(Kind.SENT_AGAIN, f"{event} was sent in {place} after {len(faults)} faulty answers")
        if faults and asked.quoted is None:
            yield Violation(Kind.SENT_AGAIN, f"{event} was sent again in {place} without what was wrong")
        if asked.kind is AskKind.BUNDLE and not all(map(self._came_to_nothing, mine)):
            yield Violation(Kind.SENT_AGAIN, f"{event} was sent again in {place}, together with others")
        if self.rules.judged:
            yield from self._has_draft(event, mine, place)

    def _came_to_nothing(self, handed: Handed) -> bool:
        """Whether nothing of a bundle is known to our side, so that it is tried again as it was."""
        return self.by_calls and (handed.said is None or handed.said.fate in _NOT_EXECUTED or not handed.counted)

    def _has_draft(self, event: str, mine: Sequence[Handed], place: str) -> Iterator[Violation]:
        """A draft is good until the judge rejects it."""
        for handed in mine:
            draft = handed.said and handed.said.gave(event)
            if draft and not any(_rejects(h, draft) for h in self.history):
                yield Violation(
                    Kind.PAID_TWICE, f"{event} was sent in {place}, and its draft in {handed.place} is good"
                )

    def _same_question(self, asked: Asked, job: str, place: str) -> Iterator[Violation]:
        """The very same request, whoever sent it."""
        same = [(h, h.said) for h in self.history if h.said and h.asked.question == asked.question]
        for handed, said in same:
            if said.is_any_good:
                yield Violation(Kind.PAID_TWICE, f"{asked.name} was sent in {place}, and {handed.place} answered it")
        fates = [said.fate for handed, said in same if handed.job == job and not _is_quoted(asked, said)]
        if not self.forgiven(job, asked.event):  # with the failures all that was before them
            yield from self._goes_on(asked, fates, place)

    def _goes_on(self, asked: Asked, fates: Sequence[Fate], place: str) -> Iterator[Violation]:
        """After what this job got for the very same request it is sent once more only where that may help."""
        once = [fate for fate in fates if fate in (_ONCE_BY_CALLS if self.by_calls else _ONCE)]
        if once not in _MAY_GO_ON[asked.kind]:
            yield Violation(Kind.SENT_AGAIN, f"{asked.name} was sent again in {place} after {list(map(str, fates))}")
        if Fate.TRUNCATED in once and not asked.widened:
            yield Violation(Kind.SENT_AGAIN, f"{asked.name} was cut off, and sent again in {place} with no more room")


def is_final(rules: Rules, said: Said, event: str) -> bool:
    """Whether this is an event's answer, and nothing more is to be asked about it."""
    return said.fate is Fate.ACCEPTED if rules.judged else said.gave(event) is not None


def _is_fault(handed: Handed) -> bool:
    """Whether a repair follows from it."""
    fate = handed.said and handed.said.fate
    return fate is Fate.REJECTED or (fate is Fate.INVALID and handed.asked.kind is AskKind.ANSWER)


def _rejects(handed: Handed, draft: str) -> bool:
    shown = handed.asked.kind is AskKind.JUDGE and orjson.loads(handed.asked.draft) == orjson.loads(draft)
    return shown and handed.said is not None and handed.said.fate is Fate.REJECTED


def _is_quoted(asked: Asked, said: Said) -> bool:
    """Whether this request asks to put right the very answer that it got before: the model said the same again."""
    return asked.quoted is not None and said.fate is Fate.INVALID and said.text == asked.quoted.text


def _unforgiven(ends: list[Fate], times: int) -> list[Fate]:
    """Without so many failures that were not the item's own."""
    return [fate for fate in ends if fate not in MENDABLE] + [fate for fate in ends if fate in MENDABLE][times:]


def _shows(asked: Asked, history: Sequence[Handed]) -> Iterator[Violation]:
    """What the judge sees is a draft that was given, of the row that he sees."""
    given = (h.said.gave(asked.event) for h in history if h.said and asked.event in h.asked.events)
    if not any(text and orjson.loads(text) == orjson.loads(asked.draft) for text in given):
        yield Violation(Kind.MIXED_ROWS, f"the judge of {asked.event} is shown {asked.draft}")


def _quotes(asked: Asked, about: Sequence[Handed]) -> Iterator[Violation]:
    """What a repair quotes was said for this event, and found wrong in these words."""
    assert asked.quoted is not None
    text, why = asked.quoted.text, asked.quoted.why
    invalid = any(h.said and h.said.fate is Fate.INVALID and h.said.text == text for h in about)
    rejected = any(h.said and h.said.why in why and _is_rejected(h, text) for h in about)
    if not (invalid or rejected):
        yield Violation(Kind.MIXED_ROWS, f"{asked.event} is asked again with {text}, {why}")


def _is_rejected(handed: Handed, text: str) -> bool:
    try:
        return _rejects(handed, text)
    except orjson.JSONDecodeError:
        return False
