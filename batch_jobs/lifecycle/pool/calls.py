"""Keeps the calls of one job in flight: begins what the gate lets through, takes what comes back, plans retries.

One thread decides; the pool's threads only make a call and check its answer. A call that came back holds its worker
until its answer is merged, so never more than `max_workers` paid answers are not durable yet.
"""

from __future__ import annotations

import contextlib
import heapq
import queue
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace

from batch_jobs.config import Concurrent
from batch_jobs.errors import ProviderError, QuotaExhausted, RateLimited, ServerFailed
from batch_jobs.lifecycle.pool.gate import Gate, News, Permit, Reason, Report, Wait
from batch_jobs.lifecycle.pool.retries import Call, Retries, TransientResult
from batch_jobs.lifecycle.pool.tracker import Tracker
from batch_jobs.models import AskKind, ItemResult, Outcome, Usage
from providers.codes import QUOTA_CODES

LOOK_SECONDS = 0.1
"""How soon a stop is noticed while nothing comes back."""
SHOW_SECONDS = 1.0
"""How often there is something to show, though nothing came back."""
MERGE_SECONDS = 0.05
"""How long an answer waits at most for others to be merged with: two syncs of the disk serve them all."""
LONG_SECONDS = 30.0
"""A wait that the job does not sit out: it gives its thread and its lease back, and comes again."""
OVERLOAD_STATUSES = frozenset({503, 529})
LONG_REASONS = frozenset({Reason.COOLING_DOWN, Reason.BREAKER})


@dataclass(frozen=True, slots=True)
class Way:
    """How one job's calls are made: what the pool is given, so that it needs to know nothing of jobs.

    Attributes:
        complete: makes one call, and checks its answer; raises ProviderError.
        widen: the body of a call with a larger output limit.
        gates: what calls of each kind pass.
        clock: the gate's.
        stopped: whether no call may be begun any more, by anybody's word; asked often, so it has to be cheap.
    """

    task_id: str
    complete: Callable[[Call], ItemResult]
    widen: Callable[[Call], bytes]
    settings: Concurrent
    gates: Mapping[AskKind, Gate]
    clock: Callable[[], float]
    stopped: Callable[[], bool]

    @property
    def gate(self) -> Gate:
        """What the calls for answers pass."""
        return self.gates[AskKind.ANSWER]


@dataclass(frozen=True, slots=True)
class Settled:
    """One call to be recorded.

    Attributes:
        call_id: that its cost is recorded by.
        ends: nothing more becomes of this call; otherwise it was paid for, and another attempt follows.
        begun: attempts at it by then, this one too.
        seconds: that they took together, without the waits between them.
        last_seconds: of them, what this one took, which brought the result.
    """

    call: Call
    call_id: str
    result: ItemResult
    ends: bool
    begun: int = 1
    seconds: float = 0.0
    last_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class _Returned:
    call: Call
    probe: bool
    seconds: float
    result: ItemResult | None = None
    error: ProviderError | None = None


@dataclass(order=True, slots=True)
class _Due:
    at: float
    number: int
    call: Call = field(compare=False)


class Pool:
    """The calls of one pass over a job's items; use `groups` once.

    Attributes:
        blocked: the error that concerns the account, for which the job has to wait.
        waits: why and how long nothing goes out, None while calls do.
        leaves_for_seconds: it ended with items open, as nothing may go out for so long.
        left: what was to be tried again then, by item.
    """

    def __init__(self, way: Way, source: Iterator[Call], tracker: Tracker) -> None:
        self.way, self.tracker = way, tracker
        self.blocked: ProviderError | None = None
        self.waits: Wait | None = None
        self.leaves_for_seconds: float | None = None
        self.left: dict[int, Call] = {}
        self._source, self._held = source, list[Call]()
        self._retries = Retries(way.settings)
        self._due: list[_Due] = []
        self._done: queue.SimpleQueue[Future[_Returned]] = queue.SimpleQueue()
        self._flying = self._number = 0
        self._settled: list[Settled] = []
        self._settled_at = self._shown_at = 0.0
        self._halt = threading.Event()
        self._heard = False

    def halt(self) -> None:
        """Begin no further call, and wait for none."""
        self._halt.set()

    def follow(self, calls: Iterable[Call]) -> None:
        """Make these calls as well, before any that wait: what was merged asks for them."""
        for call in () if self.halted else calls:
            self._again(call, 0.0)

    @property
    def halted(self) -> bool:
        """Whether no further call may be begun."""
        return self._halt.is_set() or self.way.stopped()

    @property
    def retrying(self) -> int:
        """Items that wait for another attempt."""
        return len(self._due)

    @property
    def in_flight(self) -> int:
        """Calls that are out."""
        return self._flying

    def groups(self) -> Iterator[list[Settled]]:
        """Yield what has come back, a group at a time, and now and then nothing, so that there is something to show.

        Whoever reads it makes a group durable before asking for the next one, and may fail (the lease is lost, the
        disk is full): then no further call is begun, as nobody would keep its answer.
        """
        workers = self.way.settings.max_workers
        with ThreadPoolExecutor(workers, "call") as executor, self._halting():
            while True:
                self._begin(executor)
                if self._flying == 0 and not self._settled and self._is_over():
                    return
                self._collect()
                now = self.way.clock()
                if self._merge_seconds(now) <= 0 or now - self._shown_at >= SHOW_SECONDS:
                    group, self._settled, self._shown_at = self._settled, [], now
                    yield group

    @contextlib.contextmanager
    def _halting(self) -> Iterator[None]:
        """Let no call begin any more once the block is left, however it is left."""
        try:
            yield
        finally:
            self.halt()
            for gate in self.way.gates.values():
                gate.leave(self.way.task_id)

    # -- beginning -----------------------------------------------------------------------------------------------

    def _begin(self, executor: ThreadPoolExecutor) -> None:
        """Begin every call that may go out now. One goes first, alone, until it has brought news of the account."""
        self.waits = None
        if self.halted:
            self._due.clear()
            self._held.clear()
            return
        at_once = self.way.settings.max_workers if self._heard else 1
        while self._flying + len(self._settled) < at_once:
            now = self.way.clock()
            retry = bool(self._due) and self._due[0].at <= now
            call = self._due[0].call if retry else self._fresh()
            if call is None:
                return
            said = self._ask(now, call, retry=retry)
            if isinstance(said, Wait):
                self.waits = said
                return
            self._take_out(retry=retry)
            call.begun += 1
            self._flying += 1
            executor.submit(self._make, call, said).add_done_callback(self._done.put)

    def _fresh(self) -> Call | None:
        """The next item's call, which stays in hand until it may go out."""
        if not self._held:
            self._held.extend(call for call in [next(self._source, None)] if call is not None)
        return self._held[0] if self._held else None

    def _take_out(self, *, retry: bool) -> None:
        if retry:
            heapq.heappop(self._due)
        else:
            self._held.pop()

    def _ask(self, now: float, call: Call, *, retry: bool) -> Permit | Wait:
        left = self.tracker.total - sum(self.tracker.ended.values())
        return self.way.gates[call.kind].ask(
            now, self.way.task_id, call.item, tokens=call.tokens, left=left, retry=retry
        )

    def _is_over(self) -> bool:
        """Whether nothing is left to do here, or nothing may go out for long."""
        if self.halted or (not self._due and self._fresh() is None):
            return True
        if self.waits and self.waits.reason in LONG_REASONS and self.waits.seconds >= LONG_SECONDS:
            self.leaves_for_seconds = self.waits.seconds
            self.left = {due.call.item: replace(due.call, state=None) for due in self._due}
            return True
        return False

    # -- in the pool's threads -----------------------------------------------------------------------------------

    def _make(self, call: Call, permit: Permit) -> _Returned:
        report, began = Report(News.NONE), self.way.clock()
        try:
            result = self.way.complete(call)
            report = _report_on(result)
            return _Returned(call, permit.probe, self.way.clock() - began, result)
        except ProviderError as error:
            report = _report_of(error)
            return _Returned(call, permit.probe, self.way.clock() - began, error=error)
        finally:
            self.way.gates[call.kind].done(self.way.clock(), permit, report)

    # -- coming back ---------------------------------------------------------------------------------------------

    def _collect(self) -> None:
        """Take what has come back; with nothing there, wait until something is, or something is due."""
        future = next_done(self._done, self._idle_seconds())
        while future is not None:
            self._flying -= 1
            self._settle(future.result())
            future = next_done(self._done, 0.0)

    def _idle_seconds(self) -> float:
        now = self.way.clock()
        waits = [self._merge_seconds(now), self._shown_at + SHOW_SECONDS - now]
        if self.waits is not None:
            waits.append(self.waits.seconds)
        if self._due and not self._flying_is_full():
            waits.append(self._due[0].at - now)
        return max(min(waits), 0.001)

    def _flying_is_full(self) -> bool:
        return self._flying + len(self._settled) >= (self.way.settings.max_workers if self._heard else 1)

    def _merge_seconds(self, now: float) -> float:
        """How long until what has come back is merged."""
        if not self._settled:
            return float("inf")
        if not self._flying or 4 * len(self._settled) >= 3 * self.way.settings.max_workers:
            return 0.0
        return self._settled_at + MERGE_SECONDS - now

    def _settle(self, returned: _Returned) -> None:
        """Decide what an attempt is to its item: the end, a step on the way, or nothing."""
        call, result, error = returned.call, returned.result, returned.error
        call.seconds, call.last_seconds = call.seconds + returned.seconds, returned.seconds
        self._track(returned)
        blocked = _account_error(result, error)
        if blocked is not None:
            self.blocked = self.blocked or blocked
            self.halt()
            self._record(call, result, ends=False)
            return
        self._heard = True
        failure = error or _failure_of(result)
        if failure is not None:
            self._failed(returned, failure)
        elif _is_cut_off(result) and not call.widened and call.kind is not AskKind.BUNDLE:
            self._record(call, result, ends=False)
            self._widen(call)
        else:
            self._record(call, result, ends=True)

    def _failed(self, returned: _Returned, failure: ProviderError | TransientResult) -> None:
        """Plan another attempt, or end the item with this one; interrupted in between, it stays open."""
        call, result, error = returned.call, returned.result, returned.error
        passing = isinstance(failure, TransientResult) or failure.transient
        if passing and self.halted:
            self._record(call, result, ends=False)
            return
        counts = not isinstance(error, RateLimited) and not (returned.probe and error is not None)
        seconds = self._retries.seconds_after(call, failure, counts=counts)
        if seconds is None:
            self._record(call, result or _as_result(failure), ends=True)
        else:
            self._record(call, result, ends=False)
            self._again(call, seconds)

    def _widen(self, call: Call) -> None:
        if not self.halted:
            again = replace(call, body=self.way.widen(call), widened=True, attempts=0, state=None)
            self._again(again, 0.0)

    def _again(self, call: Call, seconds: float) -> None:
        self._number += 1
        heapq.heappush(self._due, _Due(self.way.clock() + seconds, self._number, call))

    def _record(self, call: Call, result: ItemResult | None, *, ends: bool) -> None:
        if result is None:
            return
        if not self._settled:
            self._settled_at = self.way.clock()
        call_id = f"{self.way.task_id}-c{call.item}-{uuid.uuid4().hex[:12]}"
        result = replace(result, custom_id=call_id)
        self._settled.append(Settled(call, call_id, result, ends, call.begun, call.seconds, call.last_seconds))

    def _track(self, returned: _Returned) -> None:
        usage = returned.result.usage if returned.result else Usage()
        refused = isinstance(returned.error, RateLimited)
        self.tracker.came(
            self.way.clock(),
            returned.seconds,
            usage.input_tokens + usage.output_tokens,
            refused=refused,
            failed=returned.error is not None and not refused,
        )


def next_done(done: queue.SimpleQueue[Future[_Returned]], seconds: float) -> Future[_Returned] | None:
    """The next call that came back, within some seconds or until it is time to look around; None for none."""
    try:
        return done.get(timeout=min(seconds, LOOK_SECONDS)) if seconds > 0 else done.get_nowait()
    except queue.Empty:
        return None


def _account_error(result: ItemResult | None, error: ProviderError | None) -> ProviderError | None:
    """What concerns the account, not the item."""
    if error is not None:
        return error if error.operator else None
    if result is not None and result.code in QUOTA_CODES:
        return QuotaExhausted(result.detail or result.code, code=result.code)
    return None


def _failure_of(result: ItemResult | None) -> TransientResult | None:
    """A result that is no end yet, as the error that the retries know."""
    return TransientResult(result) if result is not None and result.transient else None


def _is_cut_off(result: ItemResult | None) -> bool:
    return result is not None and result.outcome is Outcome.TRUNCATED


def _as_result(error: ProviderError | TransientResult) -> ItemResult | None:
    if isinstance(error, TransientResult):
        return error.result
    code = error.code or type(error).__name__
    return ItemResult("", Outcome.ERRORED, code=code, detail=error.message, transient=error.transient)


def _report_on(result: ItemResult) -> Report:
    """What a result says of the provider; `UNREADABLE` counts as an answer, as one came."""
    usage = result.usage
    tokens = float(usage.input_tokens + usage.output_tokens) if result.billed else None
    news = News.OVERLOADED if result.transient and result.outcome is Outcome.ERRORED else News.ANSWERED
    return Report(news, tokens, allowance=result.allowance)


def _report_of(error: ProviderError) -> Report:
    if isinstance(error, RateLimited):
        news = News.REFUSED
    elif not error.transient:
        news = News.ANSWERED
    else:
        overloaded = isinstance(error, ServerFailed) and error.status in OVERLOAD_STATUSES
        news = News.OVERLOADED if overloaded else News.FAILED
    return Report(news, retry_after_seconds=error.retry_after_seconds, allowance=error.allowance)
