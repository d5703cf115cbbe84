"""Which faults a request, a batch or an item meets: decisions only, nothing is done here.

Every choice follows from hashes and durable counters, so the same run meets the same faults.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from batch_jobs.models import BatchProblem, Dialect

from .behaviour import BATCH_KINDS, ITEM_KINDS, ROUTE_KINDS, Behaviour, Fault, FaultKind, Route
from .records import BatchPlan, End
from .wire import share_of

Take = Callable[[Fault], bool]
"""Uses one of a fault's `times`; False when they are used up."""

_ACCEPTING = frozenset({FaultKind.REPLY_LOST, FaultKind.ACCEPT_LATE, FaultKind.ACCEPTED_THEN_500})
_TOKEN_LIMIT = "token_limit_exceeded"


def route_faults(
    behaviour: Behaviour, dialect: Dialect, route: Route, contains: Callable[[str], bool], take: Take, lot: str
) -> list[Fault]:
    """Give the faults that one HTTP request meets.

    Args:
        behaviour: in force.
        dialect: of the request.
        route: of the request.
        contains: tells whether the request holds a text.
        take: uses up one of a fault's `times`.
        lot: stands for the request where a fault hits a share of them.
    """
    wanted = (fault for fault in behaviour.faults if fault.kind in ROUTE_KINDS and _on_route(fault, dialect, route))
    return [fault for fault in wanted if _matches(fault, contains, lot) and take(fault)]


def file_fault(
    behaviour: Behaviour, dialect: Dialect, kind: FaultKind, contains: Callable[[str], bool], take: Take
) -> Fault | None:
    """Give the fault of this kind that an upload or a download meets."""
    wanted = (fault for fault in behaviour.faults if fault.kind is kind and fault.dialect in {None, dialect})
    return next((fault for fault in wanted if _matches(fault, contains, "") and take(fault)), None)


def plan_batch(behaviour: Behaviour, dialect: Dialect, contains: Callable[[str], bool], take: Take) -> BatchPlan:
    """Decide a new batch's life from the behaviour in force."""
    plan = BatchPlan(
        seconds=behaviour.batch_seconds,
        shuffle=behaviour.shuffle,
        item_faults=tuple(
            fault for fault in behaviour.faults if fault.kind in ITEM_KINDS and _on_route(fault, dialect, Route.ITEM)
        ),
    )
    for fault in behaviour.faults:
        if fault.kind not in BATCH_KINDS or fault.dialect not in {None, dialect}:
            continue
        whole = replace(fault, share=None) if fault.kind is FaultKind.BATCH_EXPIRES else fault
        if _matches(whole, contains, "") and take(fault):
            plan = _with(plan, fault, dialect)
    return plan


def _with(plan: BatchPlan, fault: Fault, dialect: Dialect) -> BatchPlan:
    """Write a batch fault into a plan; LIST_LAG is not part of it."""
    if fault.kind is FaultKind.BATCH_FAILS and dialect is Dialect.ANTHROPIC:
        return _all_errored(plan, fault)  # Anthropic knows no failed batch: every request of it is errored
    change = _CHANGES.get(fault.kind)
    return change(plan, fault) if change else plan


def _all_errored(plan: BatchPlan, fault: Fault) -> BatchPlan:
    every = Fault(FaultKind.ITEM_ERROR, status=fault.status, code=fault.code)
    return replace(plan, item_faults=(every, *plan.item_faults))


def _failed(plan: BatchPlan, fault: Fault) -> BatchPlan:
    code = fault.code or _TOKEN_LIMIT
    return replace(plan, end=End.FAILED, problems=(BatchProblem(code, _failure_message(code)),))


def _or(value: float | None, usual: float) -> float:
    return usual if value is None else value


_CHANGES: dict[FaultKind, Callable[[BatchPlan, Fault], BatchPlan]] = {
    FaultKind.BATCH_FAILS: _failed,
    FaultKind.ONLY_ERROR_FILE: _all_errored,
    FaultKind.BATCH_EXPIRES: lambda plan, fault: replace(plan, end=End.EXPIRED, done_share=_or(fault.share, 0.5)),
    FaultKind.BATCH_SLOW: lambda plan, fault: replace(plan, seconds=plan.seconds + _or(fault.seconds, 1.0)),
    FaultKind.UNKNOWN_STATE: lambda plan, fault: replace(plan, unknown_until=_or(fault.seconds, plan.seconds)),
    FaultKind.COUNTS_LIE: lambda plan, _: replace(plan, counts_lie=True),
}


def _failure_message(code: str) -> str:
    if code == _TOKEN_LIMIT:
        return (
            "Enqueued token limit reached for this model in organization org-sim. Limit: 2,000,000 enqueued tokens. "
            "Please try again once some in_progress batches have been completed. (simulated)"
        )
    return f"The batch failed: {code}. (simulated)"


def item_faults(
    faults: Iterable[Fault], custom_id: str, contains: Callable[[str], bool], take: Take
) -> dict[FaultKind, Fault]:
    """Give the faults that one item meets, by kind; the first of a kind counts."""
    met: dict[FaultKind, Fault] = {}
    for fault in faults:
        if fault.kind not in met and _matches(fault, contains, custom_id) and take(fault):
            met[fault.kind] = fault
    return met


def call_faults(
    behaviour: Behaviour, dialect: Dialect, contains: Callable[[str], bool], take: Take, lot: str
) -> dict[FaultKind, Fault]:
    """Give the item faults that a single call meets."""
    wanted = [f for f in behaviour.faults if f.kind in ITEM_KINDS and _on_route(f, dialect, Route.CALL)]
    return item_faults(wanted, lot, contains, take)


def _on_route(fault: Fault, dialect: Dialect, route: Route) -> bool:
    if fault.dialect not in {None, dialect}:
        return False
    if fault.route is not None:
        return fault.route is route
    return route is Route.CREATE if fault.kind in _ACCEPTING else True


def _matches(fault: Fault, contains: Callable[[str], bool], lot: str) -> bool:
    if fault.match is not None and not contains(fault.match):
        return False
    if fault.share is None or fault.share >= 1:
        return True
    return share_of(fault.kind, lot) < fault.share
