"""What becomes of one request: checked, answered, billed, and written as the lines of a result file.

The same code serves items of batches and single calls, so both answer alike.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import orjson

from .answers import compose
from .behaviour import Fault, FaultKind
from .cached_contents import held_tokens
from .faults import Met, Subject, item_faults
from .question import ACCEPTING, Judging
from .records import BatchRow, BillLine
from .sandbox import Sandbox
from .wire import Answer, Ask, Body, Cached, Place, Problem, Unrun, Wire, needles, short_hash

UNREADABLE = (AttributeError, TypeError, KeyError, ValueError, IndexError, OverflowError, RecursionError)
"""What an odd body or schema may raise on the way to an answer."""


@dataclass(frozen=True, slots=True)
class ItemEnd:
    """How one item ended: its lines in the result, which kind they are, and what it cost."""

    lines: tuple[bytes, ...]
    kind: str  # succeeded, errored, expired, cancelled
    bill: BillLine | None = None


@dataclass(frozen=True, slots=True)
class Asker:
    """Who asks: the key's owner, and a name for this one request that is the same when it is executed again.

    `judging` says how verdicts fall for it.
    """

    owner: str
    subject: str
    judging: Judging = ACCEPTING


def answered(
    box: Sandbox, wire: Wire, body: object, place: Place, asker: Asker, met: Met
) -> tuple[Ask, Answer] | Problem:
    """Answer a request body, or say why the provider would not.

    Args:
        box: the sandbox.
        wire: the dialect.
        body: as it was sent.
        place: where it was found.
        asker: who asks.
        met: the faults of this item.
    """
    try:
        problem = wire.check(cast(Body, body), place) or error_of(met)
        if problem is not None:
            return problem
        ask = wire.ask(cast(Body, body), place)
        held = held_tokens(box, ask, asker.owner) if ask.held else 0
        return held if isinstance(held, Problem) else (ask, _execute(box, ask, asker, met, held))
    except UNREADABLE as error:
        return Problem(400, f"The request can't be read: {type(error).__name__}: {error} (simulated)")


def _execute(box: Sandbox, ask: Ask, asker: Asker, met: Met, held: int) -> Answer:
    cached = Cached() if ask.held else box.cache.take(ask, asker.owner, asker.subject, box.clock())
    return compose(ask, cached=cached, held_tokens=held, faults=met, judging=asker.judging)


def error_of(met: Met) -> Problem | None:
    """Give the error that an item's faults ask for instead of an answer."""
    fault = met.get(FaultKind.ITEM_ERROR)
    if fault is not None:
        message = fault.message or "The server had an error while processing. (simulated)"
        return Problem(fault.status or 500, message, code=fault.code)
    if FaultKind.ITEM_STATUS_ZERO in met:
        return Problem(0, "No status. (simulated)")
    return None


def bill_line(
    box: Sandbox, wire: Wire, ask: Ask, answer: Answer, *, custom_id: str = "", batch_id: str = ""
) -> BillLine:
    """Write down one executed call."""
    return BillLine(
        dialect=wire.dialect,
        model=ask.model,
        custom_id=custom_id,
        kind="batch" if batch_id else "single",
        input_tokens=answer.input_tokens,
        cached_tokens=answer.cached_tokens,
        output_tokens=answer.output_tokens,
        at=box.clock(),
        batch_id=batch_id,
        request_hash=short_hash(ask.model, ask.fixed, ask.text),
        written_tokens=answer.written_tokens,
        accepted=answer.accepted,
        rejected=answer.rejected,
    )


class ItemRunner:
    """Runs the items of one batch."""

    def __init__(self, box: Sandbox, wire: Wire, batch: BatchRow) -> None:
        self.box, self.wire, self.batch = box, wire, batch
        self.place = Place(
            endpoint=batch.endpoint,
            model=batch.model,
            in_batch=True,
            version=str(batch.spec.get("version", "")),
        )

    def run(self, index: int, line: bytes, unrun: Unrun | None) -> ItemEnd:
        """Execute one input line, or say why it was not executed.

        Args:
            index: its place in the input.
            line: as it was sent.
            unrun: set when the batch ended before its turn.
        """
        custom_id, body = self.wire.read_line(line)
        ident = short_hash(self.batch.batch_id, str(index))
        subject = f"{self.batch.batch_id}/{index}"
        met: Met = {}
        if self.batch.plan.item_faults:
            item = Subject(self.wire.dialect, _finder(line), self._take(subject), lambda: custom_id)
            met = item_faults(self.batch.plan, item, executed=unrun is None)
        if FaultKind.ITEM_MISSING in met:
            return ItemEnd((), unrun or "errored")
        unrun = Unrun.EXPIRED if FaultKind.ITEM_EXPIRED in met else unrun
        if unrun is not None:
            return ItemEnd(self._spread(self.wire.unrun_line(custom_id, unrun, ident), met, ident), unrun)
        asker = Asker(self.batch.owner, subject, self.batch.plan.judging)
        done = answered(self.box, self.wire, body, self.place, asker, met)
        if isinstance(done, Problem):
            return ItemEnd(self._spread(self.wire.errored_line(custom_id, done, ident), met, ident), "errored")
        ask, answer = done
        reply = self.wire.reply(ask, answer, ident)
        bill = bill_line(self.box, self.wire, ask, answer, custom_id=custom_id, batch_id=self.batch.batch_id)
        return ItemEnd(self._spread(self.wire.succeeded_line(custom_id, reply, ident), met, ident), "succeeded", bill)

    def _take(self, subject: str) -> Callable[[Fault], bool]:
        return lambda fault: self.box.state.take_hit(fault, subject)

    def _spread(self, line: Body, met: Met, ident: str) -> tuple[bytes, ...]:
        """Turn an item's one line into the lines its faults ask for."""
        own = self._dump(line)
        if not met:
            return (own,)
        lines = [own, own] if FaultKind.ITEM_DOUBLED in met else [own]
        if stray := met.get(FaultKind.ITEM_UNKNOWN_ID):
            other = self._dump({**line, "key" if "key" in line else "custom_id": f"unsent-sim-{ident}"})
            lines = [other] if stray.code == "replace" else [*lines, other]
        if broken := met.get(FaultKind.BAD_LINE):
            lines = [own[: len(own) // 2]] if broken.code == "replace" else [*lines, own[: len(own) // 2]]
        return tuple(lines)

    def _dump(self, line: Body) -> bytes:
        if self.batch.spec.get("inline"):
            line = {("metadata" if k == "key" else k): ({"key": v} if k == "key" else v) for k, v in line.items()}
        return orjson.dumps(line)


def _finder(line: bytes) -> Callable[[str], bool]:
    return lambda text: any(needle in line for needle in needles(text))
