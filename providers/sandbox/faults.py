"""Which faults a request, a batch or an item meets: decisions only, nothing is done here.

Every choice follows from hashes and durable counters, so the same run meets the same faults. Only a fault that takes
effect uses up one of its `times`: a list of faults is a script.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace

from batch_jobs.models import BatchProblem, Dialect

from .behaviour import (
    BATCH_ENDS,
    BATCH_KINDS,
    CALL_KINDS,
    DOWNLOAD_KINDS,
    ITEM_ENDS,
    ITEM_KINDS,
    LINE_KINDS,
    ONLY,
    PACK_KINDS,
    REQUEST_ENDS,
    ROUTE_KINDS,
    Behaviour,
    Fault,
    FaultKind,
    Route,
)
from .question import Judging
from .records import BatchPlan, End
from .validation import LINE_CODES, MESSAGES
from .wire import share_of

_ACCEPTING = frozenset({FaultKind.REPLY_LOST, FaultKind.ACCEPT_LATE, FaultKind.ACCEPTED_THEN_500})
_DONE_SHARE = frozenset({FaultKind.BATCH_EXPIRES, FaultKind.BATCH_CANCELLED})
_EXECUTED = frozenset({FaultKind.ITEM_REFUSED, FaultKind.ITEM_TRUNCATED, FaultKind.ITEM_INVALID_JSON}) | PACK_KINDS
_TOKEN_LIMIT = "token_limit_exceeded"
_GROUPS: dict[FaultKind, str] = {
    **dict.fromkeys(REQUEST_ENDS, "request"),
    **dict.fromkeys(BATCH_ENDS, "batch"),
    **dict.fromkeys(ITEM_ENDS, "item"),
    **dict.fromkeys(DOWNLOAD_KINDS, "download"),
}

_ALSO = dict.fromkeys(PACK_KINDS, "record")
_ELSE = {**dict.fromkeys(PACK_KINDS, "item"), **dict.fromkeys(ITEM_ENDS, "record")}
"""Where one record of a pack is spoilt, the whole answer is not, and the other way round."""

Met = dict[FaultKind, Fault]
"""The faults that take effect, by kind."""


@dataclass(frozen=True, slots=True)
class Subject:
    """What a fault may hit.

    Attributes:
        dialect: of the request, batch or item.
        contains: tells whether it holds a text.
        take: uses up one of a fault's `times`; False when they are used up.
        lot: stands for it where a fault hits a share, or draws a delay; called only then.
    """

    dialect: Dialect
    contains: Callable[[str], bool]
    take: Callable[[Fault], bool]
    lot: Callable[[], str]


def route_faults(behaviour: Behaviour, route: Route, request: Subject) -> Met:
    """Give the faults that one HTTP request meets."""
    return _met((each for each in _of(behaviour, ROUTE_KINDS) if _on_route(each, route)), request)


def file_faults(behaviour: Behaviour, kinds: Collection[FaultKind], file: Subject) -> Met:
    """Give the faults of these kinds that an uploaded or a downloaded file meets."""
    return _met(_of(behaviour, kinds), file)


def batch_faults(behaviour: Behaviour, batch: Subject) -> Met:
    """Give the faults that a new batch meets as a whole."""
    return _met(_of(behaviour, BATCH_KINDS), batch)


def item_faults(plan: BatchPlan, item: Subject, *, executed: bool) -> Met:
    """Give the faults that one item of a batch meets.

    Args:
        plan: of its batch.
        item: which.
        executed: False when the batch ended before its turn: then only its line can be hit.
    """
    kinds = ITEM_KINDS if executed else LINE_KINDS | {FaultKind.ITEM_MISSING}
    return _met((fault for fault in plan.item_faults if fault.kind in kinds), item)


def call_faults(behaviour: Behaviour, call: Subject) -> Met:
    """Give the faults of items that a single call meets."""
    return _met((each for each in _of(behaviour, CALL_KINDS) if _on_route(each, Route.CALL)), call)


def _of(behaviour: Behaviour, kinds: Collection[FaultKind]) -> list[Fault]:
    return [fault for fault in behaviour.faults if fault.kind in kinds]


def _met(wanted: Iterable[Fault], subject: Subject) -> Met:
    """Of the faults that exclude each other, the first that hits counts; the others keep their `times`."""
    met: Met = {}
    decided: set[str] = set()
    for fault in wanted:
        group = _GROUPS.get(fault.kind, fault.kind)
        if decided.isdisjoint({group, _ELSE.get(fault.kind, group)}) and _hits(fault, subject) and subject.take(fault):
            decided |= {group, _ALSO.get(fault.kind, group)}
            met[fault.kind] = fault
    return met


def _hits(fault: Fault, subject: Subject) -> bool:
    if fault.dialect not in {None, subject.dialect} or subject.dialect not in ONLY.get(fault.kind, frozenset(Dialect)):
        return False
    if fault.match is not None and not subject.contains(fault.match):
        return False
    if fault.kind in PACK_KINDS and not subject.contains(f'<record id="{fault.code}"' if fault.code else "<record id="):
        return False
    if fault.share is None or fault.share >= 1 or fault.kind in _DONE_SHARE:
        return True
    return share_of(fault.kind, subject.lot()) < fault.share


def _on_route(fault: Fault, route: Route) -> bool:
    if fault.route is not None:
        return fault.route is route
    return route is Route.CREATE if fault.kind in _ACCEPTING else True


def delay_seconds(fault: Fault | None, lot: Callable[[], str]) -> float:
    """Give how long a fault delays: what it says, else a second; with jitter a part of that.

    Args:
        fault: None for no delay.
        lot: stands for what is delayed; the same lot draws the same part.
    """
    if fault is None:
        return 0.0
    seconds = 1.0 if fault.seconds is None else fault.seconds
    return seconds * share_of("jitter", fault.kind, lot()) if fault.jitter else seconds


# -- the life of a batch --------------------------------------------------------------------------------------


def plan_batch(behaviour: Behaviour, met: Met, batch: Subject) -> BatchPlan:
    """Write a new batch's life from the behaviour in force and the faults it meets."""
    later = tuple(fault for fault in _of(behaviour, ITEM_KINDS) if _on_route(fault, Route.ITEM))
    slow = delay_seconds(met.get(FaultKind.BATCH_SLOW), batch.lot)
    judging = Judging(behaviour.reject_share, behaviour.reject_first_only)
    seconds = behaviour.batch_seconds + slow
    plan = BatchPlan(seconds=seconds, shuffle=behaviour.shuffle, item_faults=later, judging=judging)
    for fault in met.values():
        if fault.kind is FaultKind.BATCH_FAILS and batch.dialect is Dialect.ANTHROPIC:
            plan = _all_errored(plan, fault)  # Anthropic knows no failed batch: every request of it is errored
        elif change := _CHANGES.get(fault.kind):
            plan = change(plan, fault)
    return plan


def _all_errored(plan: BatchPlan, fault: Fault) -> BatchPlan:
    """Let every item fail; one that is to fail in its own way keeps it."""
    own = (each for each in plan.item_faults if each.kind not in _EXECUTED)
    every = Fault(FaultKind.ITEM_ERROR, status=fault.status, code=fault.code, message=fault.message)
    return replace(plan, item_faults=(*own, every))


def _failed(plan: BatchPlan, fault: Fault) -> BatchPlan:
    code = fault.code or _TOKEN_LIMIT
    message = fault.message or MESSAGES.get(code, f"The batch failed: {code}. (simulated)")
    line = 1 if fault.line is None and code in LINE_CODES else fault.line
    return replace(plan, end=End.FAILED, problems=(BatchProblem(code, message, line),))


def _ends(end: End) -> Callable[[BatchPlan, Fault], BatchPlan]:
    return lambda plan, fault: replace(plan, end=end, done_share=0.5 if fault.share is None else fault.share)


def _unknown(plan: BatchPlan, fault: Fault) -> BatchPlan:
    return replace(plan, unknown_until=plan.seconds if fault.seconds is None else fault.seconds)


_CHANGES: dict[FaultKind, Callable[[BatchPlan, Fault], BatchPlan]] = {
    FaultKind.BATCH_FAILS: _failed,
    FaultKind.BATCH_EXPIRES: _ends(End.EXPIRED),
    FaultKind.BATCH_CANCELLED: _ends(End.CANCELLED),
    FaultKind.UNKNOWN_STATE: _unknown,
    FaultKind.COUNTS_LIE: lambda plan, fault: replace(plan, counts_lie=True, total_lies=fault.code == "total"),
    FaultKind.DISORDER: lambda plan, _: replace(plan, reverse=True),
    FaultKind.ONLY_ERROR_FILE: _all_errored,
    FaultKind.NO_FILES: lambda plan, _: replace(plan, no_files=True),
    FaultKind.EMPTY_IDS: lambda plan, _: replace(plan, empty_ids=True),
    FaultKind.LONG_FILE_ID: lambda plan, _: replace(plan, long_file_id=True),
}
"""What each fault writes into a plan; the delays are not part of it."""
