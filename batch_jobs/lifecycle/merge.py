"""Merge: where both paths meet. A result is a result wherever it came from.

Per chunk: check each answer against the schema, make the answers durable in the cache, and only then count them
in the ledger, together with what they cost. Run again, it has the same effect.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import repeat, starmap
from operator import attrgetter
from typing import Any

from batch_jobs.config import Rounds, pick
from batch_jobs.errors import RequestRejected
from batch_jobs.lifecycle.checking import (
    Checked,
    Checks,
    Counted,
    Problem,
    Range,
    answer_of,
    are_many,
    check_range,
    ranges_of,
    read_answers,
    read_ids,
    unknown_id,
)
from batch_jobs.lifecycle.filing import file_answers
from batch_jobs.lifecycle.policy import ONCE_MORE, Next, after_attempt, is_last_round, mass_error, mass_rule
from batch_jobs.lifecycle.run import Progress, Run
from batch_jobs.models import BatchState, EventName, ItemResult, Outcome, Phase, Price, ShardState
from batch_jobs.render.prompt import Prompt
from batch_jobs.render.prompts import kept_prompt
from batch_jobs.storage import calls, events, items, shards
from batch_jobs.storage.call_cache import Answer
from batch_jobs.storage.calls import CallRecord, cost_of
from batch_jobs.storage.items import Ending, ItemRecord
from batch_jobs.storage.jobs import Job
from batch_jobs.storage.shards import Shard
from providers.codes import QUEUE_CODES

CHUNK = 10_000


@dataclass(frozen=True, slots=True)
class Attempt:
    """One executed or failed attempt at an item, under the id that its cost is recorded by.

    `provisional`: it was paid for, but the item was interrupted before its next attempt and stays open.
    """

    item: int
    call_id: str
    result: ItemResult
    provisional: bool = False

    @property
    def answered(self) -> bool:
        """Whether it gave the item its answer."""
        return self.result.outcome is Outcome.SUCCEEDED


@dataclass
class Tally:
    """What a merge did."""

    outcomes: Counter[str] = field(default_factory=Counter)
    errors: Counter[tuple[str, str]] = field(default_factory=Counter)
    paused_by: str | None = None

    def looks_like_mass_error(self, rounds: Rounds) -> bool:
        """Whether most of what was merged so far ended in one and the same error."""
        return mass_error(self.outcomes.total(), self.errors, mass_rule(rounds)) is not None


@dataclass(frozen=True, slots=True)
class Whose:
    """Whose the lines of a shard's results are.

    Attributes:
        answered: the shard's items that each range answers, a doubled one each time.
        seen: all of them.
        doubled: items with more than one line; none of these is taken.
        problems: lines that are nobody's, in order.
    """

    answered: list[list[int]]
    seen: set[int]
    doubled: set[int]
    problems: list[Problem]


class Merger:
    """Merges attempts of one job. The prompt module that was kept with the job reads the answers."""

    def __init__(self, run: Run, job: Job, *, last_round: bool) -> None:
        self.run, self.job, self.last_round = run, job, last_round
        self.cancelling = job.phase is Phase.CANCELLING
        self.prompt = prompt_of(run, job)
        self.price: Price | None = run.project.price(job.provider, job.model, job.mode)
        self.tally = Tally()

    def merge_now(self, attempts: Sequence[Attempt], records: Mapping[int, ItemRecord]) -> None:
        """Merge attempts of the concurrent path, whose results are checked; several at one item end with the last."""
        fresh = [attempt for attempt in attempts if not attempt.provisional and records[attempt.item].outcome is None]
        self.run.project.cache.put([self._answer(attempt, records) for attempt in fresh if attempt.answered])
        endings = {attempt.item: self._ending(attempt, records[attempt.item]) for attempt in fresh}
        with self.run.write() as connection:
            calls.add_all(connection, [self._call(attempt) for attempt in attempts if attempt.result.billed])
            round_no = self.job.round
            items.end(connection, self.job.task_id, list(endings.values()), round_no=round_no, attempts=1)
        self._tally(list(endings.values()))

    def count(self, checked: Checked, shard: Shard) -> None:
        """Count a checked range of a shard's results in one commit; its answers are in the cache already."""
        records: dict[int, ItemRecord] = {}
        if checked.others:
            with self.run.project.ledger.read() as connection:
                records = items.some(connection, self.job.task_id, [item for item, _ in checked.others])
        endings = [
            self._ending(Attempt(item, result.custom_id, result), records[item]) for item, result in checked.others
        ]
        succeeded = [*checked.counted.items, *checked.unbilled]
        with self.run.write() as connection:
            calls.add_all(connection, self._counted(checked.counted, shard))
            calls.add_all(connection, self._billed(checked, shard))
            items.end_succeeded(connection, self.job.task_id, succeeded, round_no=shard.round)
            items.end(connection, self.job.task_id, endings, round_no=shard.round)
        self.tally.outcomes[Outcome.SUCCEEDED] += len(succeeded)
        self._tally(endings)

    def _counted(self, counted: Counted, shard: Shard) -> Iterable[tuple[Any, ...]]:
        """The call records of valid answers, made column by column."""
        job = self.job
        return zip(
            repeat(job.task_id),
            map(partial(shards.custom_id, shard.shard_key), counted.items),
            counted.items,
            repeat(job.mode.value),
            repeat(job.model),
            repeat(Outcome.SUCCEEDED.value),
            counted.input_tokens,
            counted.cached_tokens,
            counted.output_tokens,
            counted.cost_usd,
            repeat(self.run.project.clock()),
            strict=False,
        )

    def _billed(self, checked: Checked, shard: Shard) -> list[CallRecord]:
        return [
            self._call(Attempt(item, shards.custom_id(shard.shard_key, item), result))
            for item, result in (*checked.others, *checked.past)
            if result.billed
        ]

    def _tally(self, endings: Sequence[Ending]) -> None:
        self.tally.outcomes.update(ending.last_outcome for ending in endings)
        self.tally.errors.update(
            (ending.code, ending.detail) for ending in endings if ending.outcome is Outcome.ERRORED
        )

    def _ending(self, attempt: Attempt, record: ItemRecord) -> Ending:
        result = attempt.result
        decision = after_attempt(result, record.last_outcome, last_round=self.last_round, cancelling=self.cancelling)
        if decision is Next.PAUSE:
            self.tally.paused_by = result.detail or result.code
        final = result.outcome if decision is Next.FINAL else None
        last = result.outcome
        if final is None and last not in ONCE_MORE and record.last_outcome in ONCE_MORE:
            last = record.last_outcome  # an attempt that gave no answer does not undo what the one before it taught
        return Ending(attempt.item, last, final, result.code, result.detail)

    def _answer(self, attempt: Attempt, records: Mapping[int, ItemRecord]) -> Answer:
        at = self.run.project.clock()
        return answer_of(self.job, self.price, records[attempt.item].fingerprint, attempt.result, at)

    def _call(self, attempt: Attempt) -> CallRecord:
        job, used = self.job, attempt.result.usage
        return CallRecord(
            task_id=job.task_id,
            call_id=attempt.call_id,
            item=attempt.item,
            mode=job.mode.value,
            model=job.model,
            outcome=attempt.result.outcome.value,
            input_tokens=used.input_tokens,
            cached_tokens=used.cached_tokens,
            output_tokens=used.output_tokens,
            cost_usd=cost_of(used, self.price),
            at=self.run.project.clock(),
        )


def prompt_of(run: Run, job: Job) -> Prompt:
    """The prompt module as it was when the job was planned."""
    name = pick("task", job.task, run.project.settings.tasks).prompt
    return kept_prompt(run.project.workspace.prompt(job.task_id, name).parent, name)


def last_round(run: Run, job: Job, round_no: int) -> bool:
    """Whether nothing is sent again after this round."""
    rounds = run.project.settings.rounds
    age = run.project.clock() - (job.resumed_at or job.started_at or job.created_at)
    return is_last_round(round_no - job.round_base + 1, rounds.max, age, rounds.max_hours)


def merge_shard(run: Run, job: Job, shard: Shard) -> Tally:
    """Merge a fetched shard: every item of it ends this round with exactly one outcome."""
    project = run.project
    folder = project.workspace.raw_results(job.task_id, shard.round, shard.shard)
    with project.ledger.read() as connection:
        wanted, past = items.waiting_in_shard(connection, shard)
    merger = Merger(run, job, last_round=last_round(run, job, shard.round))
    with project.workers.kept():
        told = _merge_results(run, merger, shard, ranges_of(sorted(folder.glob("*.jsonl"))), wanted, past)
    with run.write() as connection:
        for name, data in told:
            events.add(connection, job.task_id, name, {"shard_key": shard.shard_key, **data})
        shards.move(connection, shard, ShardState.MERGED, merged_at=project.clock())
        data = {"shard_key": shard.shard_key, **merger.tally.outcomes}
        events.add(connection, job.task_id, EventName.SHARD_MERGED, data)
    file_answers(project, job, sorted([*wanted, *past]), notify=run.notify)
    return merger.tally


def _merge_results(
    run: Run, merger: Merger, shard: Shard, ranges: Sequence[Range], wanted: Mapping[int, bytes], past: set[int]
) -> list[Told]:
    """Take what the results answer; then what they don't, by how the batch as a whole ended; say what was odd."""
    checks = _checks(run, merger.job, shard)
    whose = _ids(run, checks, ranges, {*wanted, *past})
    twice: dict[int, ItemResult | None] = dict.fromkeys(whose.doubled)
    unread: dict[int, str] = {}
    for number, checked in enumerate(_check(run, checks, ranges, whose, wanted), 1):
        twice.update((item, result) for item, result in checked.past if item in twice)
        unread.update((item, why) for item, why in checked.unread if item not in twice)
        merger.count(checked.without(whose.doubled), shard)
        if are_many(ranges):
            run.notify(Progress(shard.task_id, "merging", shard.requests * number // len(ranges), shard.requests))
    left = [item for item in wanted if item not in whose.seen or item in whose.doubled or item in unread]
    for start in range(0, len(left), CHUNK):
        rest = [(item, _unanswered(shard, item, twice)) for item in left[start : start + CHUNK]]
        merger.count(Checked(others=rest), shard)
    return _told(whose, unread)


def reject_shard(run: Run, job: Job, shard: Shard, error: RequestRejected) -> None:
    """End the items of a shard that the provider will never accept, with the provider's words.

    In one commit: a shard that could still be sent, with items that have ended, would be paid for nothing.
    """
    code = error.code or "request_rejected"
    with run.write() as connection:
        inside = items.of_shard(connection, shard)
        endings = [Ending(item, Outcome.ERRORED, Outcome.ERRORED, code, error.message) for item in inside]
        items.end(connection, job.task_id, endings, round_no=shard.round)
        problems = [{"code": code, "message": error.message, "line": None}]
        shards.move(connection, shard, ShardState.MERGED, problems=problems, merged_at=run.project.clock())


def _checks(run: Run, job: Job, shard: Shard) -> Checks:
    project = run.project
    prompt = prompt_of(run, job)
    return Checks(
        job=job,
        shard_key=shard.shard_key,
        dialect=project.entry(job.provider).dialect,
        price=project.price(job.provider, job.model, job.mode),
        prompt_folder=prompt.path.parent,
        prompt_file=prompt.path.name,
        cache=project.workspace.call_cache,
        at=project.clock(),
    )


def _ids(run: Run, checks: Checks, ranges: Sequence[Range], inside: Collection[int]) -> Whose:
    """First pass over the raw lines, ids only; `inside` are the shard's items."""
    answered, problems, lines = list[list[int]](), list[Problem](), 0
    seen, doubled = set[int](), set[int]()
    tasks = ((checks, part) for part in ranges)
    for ids in run.project.workers.run(read_ids, tasks, here=not are_many(ranges)):
        asked = [item for item in ids.items if item in inside]
        others = zip(ids.items, ids.numbers, strict=True) if len(asked) < len(ids.items) else ()
        nobodys = [unknown_id(n, shards.custom_id(checks.shard_key, i)) for i, n in others if i not in inside]
        problems += [problem._replace(line=lines + problem.line) for problem in (*ids.problems, *nobodys)]
        doubled.update(item for item, times in Counter(asked).items() if times > 1 or item in seen)
        seen.update(asked)
        answered.append(asked)
        lines += ids.lines
    return Whose(answered, seen, doubled, sorted(problems, key=attrgetter("line")))


def _check(
    run: Run, checks: Checks, ranges: Sequence[Range], whose: Whose, wanted: Mapping[int, bytes]
) -> Iterator[Checked]:
    """Second pass: the results that are exactly one item's, their answers in the cache already."""

    def task(part: Range, answered: list[int]) -> tuple[Checks, Range, dict[int, bytes], set[int]]:
        mine = {item: wanted[item] for item in answered if item in wanted and item not in whose.doubled}
        return checks, part, mine, set(answered).difference(mine)

    tasks = map(task, ranges, whose.answered)
    if are_many(ranges):
        yield from run.project.workers.run(check_range, tasks)
        return
    for answers, checked in starmap(read_answers, tasks):
        run.project.cache.put(answers)
        yield checked


Told = tuple[EventName, dict[str, object]]


def _told(whose: Whose, unread: Mapping[int, str]) -> list[Told]:
    """What is nobody's, what is doubled, and what has an id and is no result."""
    told: list[Told] = [(name, {"line": line, **data}) for name, line, data in whose.problems]
    told += [(EventName.RESULT_UNREADABLE, {"item": item, "why": unread[item]}) for item in sorted(unread)]
    return told + [(EventName.RESULT_DOUBLED_ID, {"item": item}) for item in sorted(whose.doubled)]


def _unanswered(shard: Shard, item: int, doubled: Mapping[int, ItemResult | None]) -> ItemResult:
    """What became of an item that the results do not answer, by how the batch as a whole ended."""
    custom_id = shards.custom_id(shard.shard_key, item)
    if item in doubled:
        detail = "the provider sent more than one result for this item; none was taken"
        one = doubled[item] or ItemResult(custom_id, Outcome.ERRORED)
        return replace(one, outcome=Outcome.ERRORED, text="", code="doubled_id", detail=detail, transient=True)
    outcome, code, detail, transient = _batch_wide(shard)
    return ItemResult(custom_id, outcome, code=code, detail=detail, transient=transient)


def _batch_wide(shard: Shard) -> tuple[Outcome, str, str, bool]:
    """Outcome, code, detail and transience for items without a result of their own."""
    match shard.batch_state:
        case BatchState.EXPIRED:
            return Outcome.EXPIRED, "batch_expired", "not executed within the completion window", True
        case BatchState.CANCELLED:
            return Outcome.CANCELLED, "batch_cancelled", "the batch was cancelled", True
        case BatchState.FAILED:
            problem = (shard.problems or [{"code": "batch_failed", "message": shard.provider_state}])[0]
            code = str(problem["code"])
            return Outcome.ERRORED, code, str(problem["message"]), code in QUEUE_CODES
        case _:
            return Outcome.MISSING, "missing", "the provider's results do not hold this item", True
