"""The concurrent path: a pool of threads with single calls, one retry layer (tenacity), one merging thread.

Calls in flight are bounded; what has come back is merged in groups, cache first. A stop finishes what is in flight. One
call goes first, alone: a wrong key, an empty account or a wrong model costs one call, not one a worker.
"""

from __future__ import annotations

import contextlib
import threading
import uuid
from collections.abc import Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from typing import IO

import orjson
from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception,
    sleep_using_event,
    stop_after_attempt,
    stop_after_delay,
)
from tenacity.stop import stop_when_event_set
from tenacity.wait import wait_random_exponential

from batch_jobs import system
from batch_jobs.errors import ProviderError, QuotaExhausted
from batch_jobs.lifecycle.checking import checked_result
from batch_jobs.lifecycle.control import has_mass_error
from batch_jobs.lifecycle.filing import file_answers
from batch_jobs.lifecycle.merge import Attempt, Merger
from batch_jobs.lifecycle.policy import WIDEN_FACTOR
from batch_jobs.lifecycle.rounds import body_of, planned_items
from batch_jobs.lifecycle.run import Progress, Run
from batch_jobs.lifecycle.sharing import claim_calls
from batch_jobs.models import ItemResult, Outcome, Phase
from batch_jobs.render.bodies import BodyReader
from batch_jobs.storage import items, jobs
from batch_jobs.storage.files import store_errors
from batch_jobs.storage.jobs import Job
from providers.codes import QUOTA_CODES
from providers.connect import codec_for
from providers.contract import Codec, Provider

FILE_EVERY = 1_000
LOOK_SECONDS = 0.1
"""How soon a stop reaches calls that wait for their next attempt, and how long the first call's news may take."""


class InvalidResponse(Exception):
    """The model answered, but not in the task's schema; the paid result travels with it."""

    def __init__(self, result: ItemResult) -> None:
        super().__init__(result.detail)
        self.result = result


@dataclass
class Answered:
    """What the attempts at one item came to.

    Attributes:
        attempts: every executed call, and the last failure; the last one counts.
        blocked: an error that concerns the account: the item stays open and the job pauses.
    """

    item: int
    attempts: list[Attempt] = field(default_factory=list)
    blocked: ProviderError | None = None


@dataclass(frozen=True)
class Caller:
    """Makes the calls of one job; shared by the pool's threads.

    Attributes:
        halt: set when no further call may be begun, and none may be waited for.
        heard: set when a call came back with anything but an error of the account.
    """

    run: Run
    job: Job
    provider: Provider
    codec: Codec
    merger: Merger
    halt: threading.Event = field(default_factory=threading.Event)
    heard: threading.Event = field(default_factory=threading.Event)

    @property
    def halted(self) -> bool:
        """Whether no further call may be begun."""
        return self.halt.is_set() or self.run.stop.is_set()

    def answer(self, item: int, body: bytes) -> Answered:
        """Answer one item, trying again as `concurrent.attempts` allows."""
        answered = Answered(item)
        if self.halted:
            return answered
        result = self._try(answered, body)
        widened = False
        if result is not None and result.outcome is Outcome.TRUNCATED and not self.halted:
            wider = self.codec.widen(body, self.job.parameters.max_output_tokens * WIDEN_FACTOR)
            result, widened = self._try(answered, wider), True
        if answered.blocked is not None or self._interrupted(result, widened):
            answered.attempts = [replace(attempt, provisional=True) for attempt in answered.attempts]
        return answered

    def _interrupted(self, result: ItemResult | None, widened: bool) -> bool:
        """Whether a halt came before the item's attempts were used up: it is paid for, and stays open."""
        if not self.halted:
            return False
        if result is None or result.transient or result.outcome is Outcome.INVALID:
            return True
        return result.outcome is Outcome.TRUNCATED and not widened

    def _try(self, answered: Answered, body: bytes) -> ItemResult | None:
        settings = self.run.project.settings.concurrent
        retrying = Retrying(
            stop=stop_after_attempt(settings.attempts)
            | stop_after_delay(settings.max_seconds)
            | stop_when_event_set(self.halt)
            | stop_when_event_set(self.run.stop),
            wait=_Wait(settings.min_wait_seconds, settings.max_wait_seconds),
            retry=retry_if_exception(_worth_another_try),
            sleep=sleep_using_event(self.halt),
            reraise=True,
        )
        try:
            return retrying(self._call, answered, body)
        except _Stopped:
            return None
        except InvalidResponse as error:
            return error.result
        except ProviderError as error:
            if error.operator:
                answered.blocked = error
                self.halt.set()
            elif not (error.transient and self.halted):
                result = _as_result(error)
                self._note(answered, result)
                return result
        return None

    def _call(self, answered: Answered, body: bytes) -> ItemResult:
        if self.halted:  # it came while this item waited for its next attempt
            raise _Stopped
        try:
            result = checked_result(self.merger.prompt, self.provider.complete(body))
        except ProviderError as error:
            if not error.operator:
                self.heard.set()
            raise
        self._note(answered, result)
        if result.code in QUOTA_CODES:
            raise QuotaExhausted(result.detail or result.code, code=result.code)
        self.heard.set()
        if result.outcome is Outcome.INVALID:
            raise InvalidResponse(result)
        if result.transient:
            raise _TransientResult(result)
        return result

    def _note(self, answered: Answered, result: ItemResult) -> None:
        call_id = f"{self.job.task_id}-c{answered.item}-{uuid.uuid4().hex[:12]}"
        answered.attempts.append(Attempt(answered.item, call_id, replace(result, custom_id=call_id)))


class _Stopped(Exception):
    """No further attempt is begun."""


class _TransientResult(InvalidResponse):
    """A result that says "not now"."""


class _Wait:
    """Exponential wait with full jitter between the bounds; a longer Retry-After is honoured."""

    def __init__(self, min_seconds: float, max_seconds: float) -> None:
        self._jittered = wait_random_exponential(multiplier=1, min=min_seconds, max=max_seconds)

    def __call__(self, state: RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        asked = error.retry_after_seconds if isinstance(error, ProviderError) else None
        return max(self._jittered(state), asked or 0.0)


def _worth_another_try(error: BaseException) -> bool:
    return isinstance(error, InvalidResponse) or (isinstance(error, ProviderError) and error.transient)


def _as_result(error: ProviderError) -> ItemResult:
    code = error.code or type(error).__name__
    return ItemResult("", Outcome.ERRORED, code=code, detail=error.message, transient=error.transient)


@dataclass
class AllAnswered:
    """What a pass over the open items came to.

    Attributes:
        blocked: the error that concerns the account, for which the job has to wait.
        held: open items that other jobs have under way, by their task_id.
    """

    blocked: ProviderError | None = None
    held: Mapping[str, int] = field(default_factory=dict)


def answer_all(run: Run, job: Job) -> AllAnswered:
    """Answer every open item of a job that no other job has under way.

    It ends early when the run is stopped, the job cancelled, the account blocked, or when all calls fail alike.
    """
    project = run.project
    found = claim_calls(run, job)
    waiting, came = found.free, AllAnswered(held=found.held)
    merger = Merger(run, job, last_round=True)
    codec = codec_for(project.entry(job.provider).dialect, job.endpoint)
    caller = Caller(run, job, project.provider(job), codec, merger)
    done: list[int] = []
    filed = 0
    plan = project.workspace.plan(job.task_id)
    with store_errors(plan), BodyReader(plan) as reader, _artefacts(run, job) as (log_sent, log_received):
        for answered in _answers(run, job, caller, _bodies(run, job, waiting, reader, codec, log_sent)):
            _merge(run, job, merger, answered)
            log_received.writelines(_lines(answered))
            came.blocked = came.blocked or next((one.blocked for one in answered if one.blocked), None)
            if merger.tally.looks_like_mass_error(project.settings.rounds) and has_mass_error(run, job):
                caller.halt.set()
            done += [one.item for one in answered if one.attempts]
            run.notify(Progress(job.task_id, "answering", len(done), len(waiting)))
            if len(done) - filed >= FILE_EVERY:
                file_answers(project, job, done[filed:])
                filed = len(done)
    file_answers(project, job, done[filed:])
    return came


def _answers(run: Run, job: Job, caller: Caller, source: Iterator[tuple[int, bytes]]) -> Iterator[list[Answered]]:
    """Keep the pool busy, yield what has come back; when nothing new may start, drain what is in flight.

    Whoever reads it may fail (the lease is lost, the disk is full): then what is queued is not begun, as nobody would
    keep its answer.
    """
    workers = run.project.settings.concurrent.max_workers
    flying: set[Future[Answered]] = set()
    with ThreadPoolExecutor(workers, "call") as pool, _halting(caller):
        while True:
            if run.stop.is_set():
                caller.halt.set()
            if not caller.halt.is_set() and not _cancelled(run, job):
                at_once = 2 * workers if caller.heard.is_set() else 1
                free = islice(source, max(at_once - len(flying), 0))
                flying |= {pool.submit(caller.answer, item, body) for item, body in free}
            if not flying:
                return
            finished, flying = wait(flying, timeout=LOOK_SECONDS, return_when=FIRST_COMPLETED)
            if finished:
                yield [future.result() for future in finished]


@contextlib.contextmanager
def _halting(caller: Caller) -> Iterator[None]:
    """Let no call begin any more once the block is left, however it is left."""
    try:
        yield
    finally:
        caller.halt.set()


@contextlib.contextmanager
def _artefacts(run: Run, job: Job) -> Iterator[tuple[IO[bytes], IO[bytes]]]:
    """What is sent, and what comes back, a line a request and a line a call; for audit, the cache is the truth."""
    workspace = run.project.workspace
    sent = workspace.calls_sent(job.task_id)
    received = workspace.calls_received(job.task_id)
    for path in (sent, received):
        path.parent.mkdir(parents=True, exist_ok=True)
    with sent.open("ab") as log_sent, received.open("ab") as log_received:
        for path in (sent, received):
            system.sync_folder(path.parent)  # they are there after a crash, whatever they hold
        yield log_sent, log_received


def _bodies(
    run: Run, job: Job, waiting: list[int], reader: BodyReader, codec: Codec, log: IO[bytes]
) -> Iterator[tuple[int, bytes]]:
    for planned in planned_items(run, job, waiting):
        body = body_of(reader, codec, job, planned, None)
        log.write(codec.encode_line(f"{job.task_id}-c{planned.item}", body))
        yield planned.item, body


def _lines(answered: list[Answered]) -> Iterator[bytes]:
    for one in answered:
        for attempt in one.attempts:
            yield orjson.dumps({"item": attempt.item, **asdict(attempt.result)}, option=orjson.OPT_APPEND_NEWLINE)


def _merge(run: Run, job: Job, merger: Merger, answered: list[Answered]) -> None:
    attempts = [attempt for one in answered for attempt in one.attempts]
    if attempts:
        with run.project.ledger.read() as connection:
            records = items.some(connection, job.task_id, [attempt.item for attempt in attempts])
        merger.merge_now(attempts, records)


def _cancelled(run: Run, job: Job) -> bool:
    with run.project.ledger.read() as connection:
        return jobs.get(connection, job.task_id).phase is not Phase.RUNNING
