"""Merge of a shard: what its raw results say of its items, and what became of those that they don't answer.

Ids first, over all lines, so that a doubled one is known before any answer is taken; then range by range, each counted
in one commit. Run again, it has the same effect.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import starmap
from operator import attrgetter

from batch_jobs.errors import RequestRejected
from batch_jobs.lifecycle.checking import (
    Checked,
    Checks,
    Problem,
    Range,
    are_many,
    check_range,
    ranges_of,
    read_answers,
    read_ids,
    unknown_id,
)
from batch_jobs.lifecycle.filing import file_answers
from batch_jobs.lifecycle.merger import Merger, Tally, prompt_of
from batch_jobs.lifecycle.policy import is_last_round
from batch_jobs.lifecycle.run import Progress, Run
from batch_jobs.lifecycle.sides import side_of
from batch_jobs.models import AskKind, BatchState, EventName, ItemResult, Outcome, ShardState, Usage
from batch_jobs.render.bundles import bundles_of
from batch_jobs.storage import drafts, events, items, shards
from batch_jobs.storage.items import Ending
from batch_jobs.storage.jobs import Job
from batch_jobs.storage.shards import Shard
from providers.codes import QUEUE_CODES

CHUNK = 10_000


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


def last_round(run: Run, job: Job, round_no: int) -> bool:
    """Whether nothing is sent again after this round."""
    rounds = run.project.settings.rounds
    age = run.project.clock() - (job.resumed_at or job.started_at or job.created_at)
    return is_last_round(round_no - job.round_base + 1, rounds.max + job.rules.more_rounds, age, rounds.max_hours)


def merge_shard(run: Run, job: Job, shard: Shard) -> Tally:
    """Merge a fetched shard: every item of it ends this round with exactly one outcome."""
    project = run.project
    folder = project.workspace.raw_results(job.task_id, shard.round, shard.shard)
    with project.ledger.read() as connection:
        wanted, past = items.waiting_in_shard(connection, shard)
        if wanted and (shard.kind is AskKind.JUDGE or job.rules.judge is not None):
            wanted = _by_call(drafts.some(connection, job.task_id, list(wanted)), wanted)
    last = last_round(run, job, shard.round)
    merger = Merger(run, job, last_try=last, last_ask=last)
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


def _by_call(found: Mapping[int, drafts.Draft], wanted: Mapping[int, bytes]) -> dict[int, bytes]:
    """Where the answers of a judged job are kept until they are accepted: under the calls that gave them."""
    return {item: found[item].call or fingerprint for item, fingerprint in wanted.items()}


def _merge_results(
    run: Run, merger: Merger, shard: Shard, ranges: Sequence[Range], wanted: Mapping[int, bytes], past: set[int]
) -> list[Told]:
    """Take what the results answer; then what they don't, by how the batch as a whole ended; say what was odd."""
    members = _members(merger.job, shard, {*wanted, *past})
    checks = _checks(run, merger.job, shard, members)
    whose = _ids(run, checks, ranges, members or {*wanted, *past})
    twice: dict[int, ItemResult | None] = dict.fromkeys(whose.doubled)
    unread: dict[int, str] = {}
    foreign: list[Told] = []
    for number, checked in enumerate(_check(run, checks, ranges, whose, wanted), 1):
        twice.update((item, result) for item, result in checked.past if item in twice)
        unread.update((item, why) for item, why in checked.unread if item not in twice)
        foreign += map(_foreign, checked.foreign)
        merger.count(checked.without(whose.doubled), shard)
        if are_many(ranges):
            run.notify(Progress(shard.task_id, "merging", shard.requests * number // len(ranges), shard.requests))
    left = list(_left(whose, unread, wanted, members))
    for start in range(0, len(left), CHUNK):
        rest = [(item, _unanswered(shard, item, first, twice)) for item, first in left[start : start + CHUNK]]
        merger.count(Checked(others=rest), shard)
    return _told(whose, unread) + foreign


def _left(
    whose: Whose, unread: Collection[int], wanted: Collection[int], members: Mapping[int, tuple[int, ...]]
) -> Iterator[tuple[int, int]]:
    """The items whose request has no result that could be taken, each with the one that the request is named after."""
    named = {item: first for first, others in members.items() for item in others}
    for item in wanted:
        first = named.get(item, item)
        if first not in whose.seen or first in whose.doubled or first in unread:
            yield item, first


def _foreign(found: tuple[int, str]) -> Told:
    """An id within a result for several items that was not asked for."""
    item, name = found
    return EventName.RESULT_UNKNOWN_ID, {"item": item, "custom_id": name[:100]}


def _members(job: Job, shard: Shard, inside: Collection[int]) -> dict[int, tuple[int, ...]]:
    """The bundles of a shard, by the item that each is named after; none where its requests are of one item each."""
    if shard.kind is not AskKind.BUNDLE:
        return {}
    return {bundle[0]: bundle for bundle in bundles_of(inside, job.rules.rows_per_request)}


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


def _checks(run: Run, job: Job, shard: Shard, members: Mapping[int, tuple[int, ...]]) -> Checks:
    project, side = run.project, side_of(job, shard.kind)
    prompt = prompt_of(run, job)
    return Checks(
        job=side,
        shard_key=shard.shard_key,
        kind=shard.kind,
        dialect=project.entry(side.provider).dialect,
        price=project.price(side.provider, side.model, side.mode),
        prompt_folder=prompt.path.parent,
        prompt_file=prompt.path.name,
        cache=project.workspace.call_cache,
        at=project.clock(),
        members=members,
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
        single = [item for item in answered if item not in whose.doubled]
        mine = {each: wanted[each] for item in single for each in checks.members.get(item, (item,)) if each in wanted}
        return checks, part, mine, set(answered).difference(mine if not checks.members else ())

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


def _unanswered(shard: Shard, item: int, first: int, doubled: Mapping[int, ItemResult | None]) -> ItemResult:
    """What became of an item that the results do not answer, by how the batch as a whole ended.

    Args:
        shard: that it was sent in.
        item: the item.
        first: the one that its request is named after, mostly itself.
        doubled: items whose request was answered more than once, with one of the results where it was billed.
    """
    custom_id = shards.custom_id(shard.shard_key, first)
    if first in doubled:
        detail = "the provider sent more than one result for this item; none was taken"
        one = doubled[first] or ItemResult(custom_id, Outcome.ERRORED)
        if item != first:
            one = replace(one, usage=Usage(), billed=False)  # one request, one bill
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
