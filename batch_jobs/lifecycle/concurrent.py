"""The concurrent path: every open item is answered by single calls; what comes back is merged in groups, cache first.

The pool (`batch_jobs.lifecycle.pool`) decides when a call goes out; here is what a job gives to it and does with what
it brings. A stop finishes what is in flight.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain
from typing import IO

from batch_jobs.config import pick
from batch_jobs.errors import ProviderError
from batch_jobs.lifecycle.asked import needs_asking
from batch_jobs.lifecycle.asking import Ask, Asker
from batch_jobs.lifecycle.checking import checked_result, shared_out
from batch_jobs.lifecycle.control import has_mass_error
from batch_jobs.lifecycle.filing import expect_folders, file_answers
from batch_jobs.lifecycle.merger import Attempt, Merger, output_of
from batch_jobs.lifecycle.plan import layout_of
from batch_jobs.lifecycle.policy import WIDEN_FACTOR
from batch_jobs.lifecycle.pool.artefacts import open_artefacts, write_received
from batch_jobs.lifecycle.pool.calls import Pool, Settled, Way
from batch_jobs.lifecycle.pool.retries import Call
from batch_jobs.lifecycle.pool.tell import Teller
from batch_jobs.lifecycle.pool.tracker import Tracker
from batch_jobs.lifecycle.questions import Questions
from batch_jobs.lifecycle.run import Run
from batch_jobs.lifecycle.settle import Step
from batch_jobs.lifecycle.sharing import claim_calls
from batch_jobs.lifecycle.sides import side_of
from batch_jobs.models import AskKind, EventName, ItemResult, Layout, Outcome, Phase
from batch_jobs.render.bodies import BYTES_PER_TOKEN, BodyReader
from batch_jobs.render.bundles import bundles_of
from batch_jobs.render.items import read_chosen
from batch_jobs.storage import events, items, jobs
from batch_jobs.storage.files import store_errors
from batch_jobs.storage.jobs import Job
from providers.connect import codec_for
from providers.contract import Codec

FILE_EVERY = 1_000
EXPECT_AFTER_SECONDS = 5.0
"""A job that is answered sooner needs no folders of what waits."""
LOOK_SECONDS = 0.1
"""How soon a job that was cancelled or paused elsewhere begins no further call, beside a look after each merge."""


@dataclass
class AllAnswered:
    """What a pass over the open items came to.

    Attributes:
        blocked: the error that concerns the account, for which the job has to wait.
        held: open items that other jobs have under way, by their task_id.
        wait_seconds: nothing may go out for so long (the provider's word, or the breaker's); items are still open.
    """

    blocked: ProviderError | None = None
    held: Mapping[str, int] = field(default_factory=dict)
    wait_seconds: float | None = None


def answer_all(run: Run, job: Job) -> AllAnswered:
    """Answer every open item of a job that no other job has under way.

    It ends early when the run is stopped, the job cancelled, the account blocked, when all calls fail alike, or when
    nothing may go out for long.
    """
    project = run.project
    found = claim_calls(run, job)
    merger = Merger(run, job, last_try=True, last_ask=False)
    going = _Going(run, job)
    way = _way(run, job, going)
    tracker = Tracker(len(found.free), way.clock())
    with (
        store_errors(project.workspace.plan(job.task_id)),
        open_artefacts(project.workspace, job.task_id) as (log_sent, log_received),
        _Requests(run, job, found.free, log_sent) as requests,
        ThreadPoolExecutor(1, "file") as executor,
    ):
        filing = _Filing(run, job, found.free, executor)
        pool = Pool(way, requests.first(), tracker)
        with Teller(run, job, pool, way).telling() as tell:
            for group in pool.groups():
                steps = requests.go_on(merger, _merge(run, job, merger, group))
                write_received(log_received, group)
                tracker.end(step.ending.outcome for step in steps)
                going.look()
                if group and merger.tally.looks_like_mass_error(project.settings.rounds) and has_mass_error(run, job):
                    pool.halt()
                pool.follow(requests.next(step) for step in steps if step.ending.outcome is None)
                filing.add([step.ending.item for step in steps if step.ending.outcome is Outcome.SUCCEEDED])
                tell()
        filing.finish(goes_on=not going.stopped())
    if pool.left:
        project.gates.kept[job.task_id] = pool.left
    return AllAnswered(pool.blocked, found.held, pool.leaves_for_seconds)


def _way(run: Run, job: Job, going: _Going) -> Way:
    """How calls of each kind are made, and checked."""
    project = run.project
    asked = [AskKind.ANSWER, AskKind.BUNDLE, *([AskKind.JUDGE] if job.rules.judge is not None else [])]
    sides = {kind: side_of(job, kind) for kind in asked}
    providers = {kind: project.provider(side) for kind, side in sides.items()}
    outputs = {kind: output_of(run, job, kind) for kind in asked}

    def complete(call: Call) -> ItemResult:
        result = providers[call.kind].complete(call.body)
        return result if call.kind is AskKind.BUNDLE else checked_result(outputs[call.kind], result)

    def widen(call: Call) -> bytes:
        most = sides[call.kind].parameters.max_output_tokens * WIDEN_FACTOR
        return providers[call.kind].codec.widen(call.body, most)

    return Way(
        task_id=job.task_id,
        complete=complete,
        widen=widen,
        settings=project.settings.concurrent,
        gates={kind: project.gate(side) for kind, side in sides.items()},
        clock=project.gates.clock,
        stopped=going.stopped,
    )


@dataclass
class _Going:
    """Whether a job still is to make calls: it was neither stopped here nor paused or cancelled elsewhere."""

    run: Run
    job: Job
    _over: bool = False
    _looked_at: float = float("-inf")

    def stopped(self) -> bool:
        """Whether it is not."""
        if self.run.stop.is_set():
            return True
        if self.run.project.gates.clock() - self._looked_at >= LOOK_SECONDS:
            self.look()
        return self._over

    def look(self) -> None:
        """Look into the ledger."""
        self._looked_at = self.run.project.gates.clock()
        with self.run.project.ledger.read() as connection:
            self._over = self._over or jobs.get(connection, self.job.task_id).phase is not Phase.RUNNING


class _Requests:
    """The requests of a pass: the first of every open item, and what follows from an answer; use as a context manager.

    Each is noted in `log` before it is sent.
    """

    def __init__(self, run: Run, job: Job, waiting: list[int], log: IO[bytes]) -> None:
        self._run, self._job, self._waiting, self._log = run, job, waiting, log
        self._codecs = {kind: _codec(run, side_of(job, kind)) for kind in AskKind}
        self._expected = pick("task", job.task, run.project.settings.tasks).expected_output_tokens
        self._bodies = BodyReader(run.project.workspace.plan(job.task_id))
        self._next: dict[int, Ask] = {}

    def __enter__(self) -> _Requests:
        return self

    def __exit__(self, *exc: object) -> None:
        self._bodies.__exit__()
        if "_asker" in self.__dict__:
            self._asker.__exit__()

    @cached_property
    def _asker(self) -> Asker:
        return Asker(self._run.project, self._job)

    def first(self) -> Iterator[Call]:
        """The next request of every open item, in order; those that had begun before a pause as they were."""
        kept = self._run.project.gates.kept.pop(self._job.task_id, {})
        for call in self._asked() if needs_asking(self._run, self._job) else self._planned():
            begun = kept.get(call.item)
            yield begun if begun is not None and self._is_still(begun, call) else call

    def _is_still(self, begun: Call, call: Call) -> bool:
        """Whether a call that had begun asks for what is to be asked: another process may have gone on meanwhile."""
        if (begun.kind, begun.items) != (call.kind, call.items):
            return False
        most = side_of(self._job, call.kind).parameters.max_output_tokens * WIDEN_FACTOR
        return begun.body in (call.body, self._codecs[call.kind].widen(call.body, most))

    def go_on(self, merger: Merger, steps: list[Step]) -> list[Step]:
        """The same steps, but what was answered before is not asked again, whichever job asked it.

        A draft may come once more that was judged, and a row that goes alone may have gone alone before.
        """
        while self._job.rules.judge is not None:
            self._next = {step.ending.item: self._ask(step) for step in steps if step.ending.outcome is None}
            there = self._run.project.cache.known(ask.calls[0] for ask in self._next.values())
            known: dict[AskKind, dict[int, bytes]] = {}
            for (item, ask), is_known in zip(self._next.items(), there, strict=True):
                if is_known:
                    known.setdefault(ask.kind, {})[item] = ask.calls[0]
            if not known:
                break
            taken = chain.from_iterable(merger.take_known(kind, calls) for kind, calls in known.items())
            by_item = {step.ending.item: step for step in taken}
            steps = [by_item.get(step.ending.item, step) for step in steps]
        return steps

    def next(self, step: Step) -> Call:
        """What is asked of an item that is still open after this step."""
        found = self._next.pop(step.ending.item) if step.ending.item in self._next else self._ask(step)
        return self._call(found)

    def _ask(self, step: Step) -> Ask:
        kind = step.draft.step if step.draft is not None else AskKind.ANSWER
        return self._asker.ask(kind, step.ending.item, step.draft)

    def _planned(self) -> Iterator[Call]:
        for planned in read_chosen(self._run.project.workspace.plan(self._job.task_id), self._waiting):
            body = self._bodies.read(planned)
            yield self._noted(Call(planned.item, body, len(body) / BYTES_PER_TOKEN + self._expected))

    def _asked(self) -> Iterator[Call]:
        questions, waiting = Questions(self._run, self._job, self._asker), self._waiting
        while waiting:
            for kind, chosen in questions.by_kind(waiting).items():
                if kind is AskKind.BUNDLE:
                    bundles = bundles_of(questions.unanswered(chosen), self._job.rules.rows_per_request)
                    yield from (self._call(self._asker.bundle(bundle)) for bundle in bundles)
                else:
                    yield from map(self._call, questions.asks(kind, chosen))
            waiting = questions.moved()

    def _call(self, ask: Ask) -> Call:
        tokens = len(ask.body) / BYTES_PER_TOKEN + self._expected * len(ask.items)
        calls = ask.calls if self._job.rules.judge is not None else ()
        return self._noted(Call(ask.items[0], ask.body, tokens, ask.kind, ask.items, calls))

    def _noted(self, call: Call) -> Call:
        self._log.write(self._codecs[call.kind].encode_line(f"{self._job.task_id}-c{call.item}", call.body))
        return call


def _codec(run: Run, side: Job) -> Codec:
    return codec_for(run.project.entry(side.provider).dialect, side.endpoint)


def _merge(run: Run, job: Job, merger: Merger, group: Sequence[Settled]) -> list[Step]:
    """Merge what came back; returns how the items stand now."""
    if not group:
        return []
    attempts = list(chain.from_iterable(_attempts(run, job, settled) for settled in group))
    with run.project.ledger.read() as connection:
        records = items.some(connection, job.task_id, sorted({attempt.item for attempt in attempts}))
    return merger.merge_now(attempts, records)


def _attempts(run: Run, job: Job, settled: Settled) -> Iterator[Attempt]:
    """A call as attempts at its items; one for several is billed by itself."""
    call, result = settled.call, settled.result
    if call.kind is not AskKind.BUNDLE:
        key = call.calls[0] if call.calls else None
        yield Attempt(call.item, settled.call_id, result, provisional=not settled.ends, kind=call.kind, call=key)
        return
    yield Attempt(call.item, settled.call_id, replace(result, text=""), provisional=True, kind=call.kind)
    if not settled.ends:
        return
    output = output_of(run, job, call.kind)
    parts, foreign = shared_out(output, result, call.items)
    keys = dict(zip(call.items, call.calls, strict=True)) if call.calls else {}
    for item, part in parts.items():
        yield Attempt(item, settled.call_id, checked_result(output, part), kind=call.kind, call=keys.get(item))
    if foreign:
        with run.write() as connection:
            for name in foreign:
                data = {"item": call.item, "custom_id": name[:100]}
                events.add(connection, job.task_id, EventName.RESULT_UNKNOWN_ID, data)


class _Filing:
    """Files answers beside the calls, a thousand at a time: it takes half a second, in which no call would go out.

    Once the job has gone on for a while it also makes the folders of what waits, from the end: what is answered first
    is filed at once, and its folder was never needed.
    """

    def __init__(self, run: Run, job: Job, waiting: list[int], executor: ThreadPoolExecutor) -> None:
        self._run, self._job, self._executor = run, job, executor
        self._done, self._answered = list[int](), set[int]()
        self._waiting = [] if layout_of(job) is Layout.PACKED else waiting
        self._under_way: Future[int] | None = None
        self._began = run.project.gates.clock()

    def add(self, done: list[int]) -> None:
        """Note items that are answered; where nothing is under way, go on with what is worth it. Never waits."""
        self._done += done
        self._answered.update(done)
        if self._under_way is not None and not self._under_way.done():
            return
        if len(self._done) >= FILE_EVERY:
            self._file()
        elif self._waiting and self._run.project.gates.clock() - self._began >= EXPECT_AFTER_SECONDS:
            self._expect()

    def finish(self, *, goes_on: bool) -> None:
        """Do what is left; returns when all is done.

        Args:
            goes_on: what has no answer gets its folders, too: it waits for an operator or a provider, or it failed.
        """
        self._file()
        while self._waiting and goes_on:
            self._expect()
        self._settle()

    def _settle(self) -> None:
        if self._under_way is not None:
            self._under_way.result()

    def _file(self) -> None:
        self._settle()
        if self._done:
            self._under_way = self._executor.submit(file_answers, self._run.project, self._job, self._done)
            self._done = []

    def _expect(self) -> None:
        """Make the folders of the last items that wait and have none yet."""
        self._settle()
        self._waiting, last = self._waiting[:-FILE_EVERY], self._waiting[-FILE_EVERY:]
        still = [item for item in last if item not in self._answered]
        if still:
            self._under_way = self._executor.submit(expect_folders, self._run.project, self._job, still)
