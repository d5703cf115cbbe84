"""The model behind the simulated provider: what it answers to each kind of request, and with which of the faults.

Where a judge tells drafts apart no two are equal, but for one that is given again though it was not taken.
"""

from __future__ import annotations

from typing import Any

import orjson

from batch_jobs.models import AskKind
from tests.contract.lifecycle.kit import answer_text
from tests.simulation.asked import Asked
from tests.simulation.faults import Fault, Faults
from tests.simulation.lines import BY_FAULT, Fate, Said, answered, invalid, not_executed

OFTEN = 0.6
"""The chance of what a judge or a bundle is there for: there are fewer of these than of plain requests."""


class Model:
    """Answers requests.

    Args:
        faults: what goes wrong.
        judged: whether drafts are judged, and have to differ.

    Attributes:
        repeated: events whose draft was given once more: asked again in the same words, the same verdict is known.
    """

    def __init__(self, faults: Faults, *, judged: bool) -> None:
        self.faults, self.judged = faults, judged
        self._drafts = self._verdicts = 0
        self.repeated: set[str] = set()
        self._stubborn: dict[Fault, str] = {}

    def say(self, asked: Asked) -> Said:
        """Execute one request: a good answer, or what one of the faults that are on makes of it."""
        for fault, said in BY_FAULT.items():
            if self.faults.strikes(fault):
                return said(asked)
        match asked.kind:
            case AskKind.JUDGE:
                return self._judge(asked)
            case AskKind.BUNDLE:
                return self._several(asked)
            case AskKind.ANSWER:
                return self._answer(asked)

    def fail(self, asked: Asked) -> Said:
        """A request that was not executed: for now, or for good."""
        if self.faults.draw("error") < 0.5:
            return Said(Fate.NOT_NOW, not_executed(asked, "server_error"), error=True)
        return BY_FAULT[Fault.ITEM_400](asked)

    def _answer(self, asked: Asked) -> Said:
        if self._never(Fault.NEVER_VALID, asked.event):
            return invalid(asked, "never anything else")
        text = self._text(asked.event)
        if asked.quoted and "summary" in asked.quoted.text and self.faults.strikes(Fault.DRAFT_REPEATED, chance=1.0):
            text = asked.quoted.text
            self.repeated.add(asked.event)
        return Said(Fate.GOOD, answered(asked, text), text=text)

    def _judge(self, asked: Asked) -> Said:
        rejects = self._never(Fault.NEVER_CONTENT, asked.event) or self.faults.strikes(Fault.REJECTED, chance=OFTEN)
        self._verdicts += 1
        why = f"no {self._verdicts}: something is made up" if rejects else self.faults.pick("praise", ["", "fine"])
        verdict = {"verdict": "reject" if rejects else "accept", "score": 0.2 if rejects else 1, "feedback": why}
        text = orjson.dumps(verdict).decode()
        return Said(Fate.REJECTED if rejects else Fate.ACCEPTED, answered(asked, text), text=text, why=why)

    def _several(self, asked: Asked) -> Said:
        """Each record's own answer, or what becomes of it; in any order, and perhaps with one that nobody asked for."""
        entries, texts, parts = list[dict[str, Any]](), dict[str, str](), dict[str, Fate]()
        for name, event in zip(asked.ids, asked.events, strict=True):
            text = self._text(event)
            mine, parts[event] = self._part({"id": name, **orjson.loads(text)})
            entries += mine
            if parts[event] is Fate.GOOD:
                texts[event] = text
        if self.faults.strikes(Fault.PART_UNKNOWN, chance=OFTEN):
            stray = self.faults.pick("stray part", ["99", f"0{asked.ids[0]}", "", f" {asked.ids[-1]}"])
            entries.insert(0, {"id": stray, **orjson.loads(answer_text("somebody else"))})
        if self.faults.strikes(Fault.PARTS_SHUFFLED, chance=OFTEN):
            entries = self.faults.shuffled("parts", entries)
        line = answered(asked, orjson.dumps({"results": entries}).decode())
        return Said(Fate.GOOD, line, parts=parts, texts=texts)

    def _part(self, entry: dict[str, Any]) -> tuple[list[dict[str, Any]], Fate]:
        strikes = self.faults.strikes
        if strikes(Fault.PART_MISSING):
            return [], Fate.MISSING
        if strikes(Fault.PART_DOUBLED):
            return [entry, {**entry, "summary": "about somebody else"}], Fate.DOUBLED
        if strikes(Fault.PART_INVALID):
            return [{"id": entry["id"], "abstract": "of another schema"}], Fate.INVALID
        return [entry], Fate.GOOD

    def _text(self, event: str) -> str:
        if not self.judged:
            return answer_text(event)
        self._drafts += 1
        return orjson.dumps({"summary": f"about {event}, draft {self._drafts}"}).decode()

    def _never(self, fault: Fault, event: str) -> bool:
        """Whether this is the event with which it goes wrong however often it is asked."""
        if fault not in self._stubborn and self.faults.strikes(fault, chance=OFTEN):
            self._stubborn[fault] = event
        elif self._stubborn.get(fault) == event and not self.faults.quiet:
            self.faults.note(fault)
        return self._stubborn.get(fault) == event and not self.faults.quiet
