"""Planted bugs of answers that take several steps: drafts, judges, repairs, several rows in one request."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from typing import Any

import orjson
import pytest

from batch_jobs.lifecycle import asked, checking, merger, passes
from batch_jobs.lifecycle.asked import _Maker
from batch_jobs.lifecycle.asking import Ask, Asker
from batch_jobs.lifecycle.merger import Merger
from batch_jobs.lifecycle.questions import Questions
from batch_jobs.lifecycle.settle import failed, judged
from batch_jobs.models import Verdict
from batch_jobs.render.answers import OutputSchema
from batch_jobs.render.bodies import cut
from batch_jobs.render.bundles import ID, RESULTS, Parts, parts_of
from batch_jobs.storage import drafts
from batch_jobs.storage.call_cache import Answer, CallCache
from batch_jobs.storage.drafts import Draft
from tests.simulation.faults import Fault
from tests.simulation.violations import Kind

Patch = pytest.MonkeyPatch
Planted = tuple[str, Callable[[Patch], None], Collection[Fault], Collection[Kind], int]


def a_rejected_draft_counts(patch: Patch) -> None:
    """Whatever the judge says, he has seen it."""

    def lenient(draft: Draft, judgement: Any, *how: Any) -> Any:
        return judged(draft, judgement._replace(verdict=Verdict.ACCEPT), *how)

    patch.setattr(merger, "judged", lenient)


def verdicts_are_cached_late(patch: Patch) -> None:
    """A verdict is counted, and then put into the cache; a crash between the two, and it is paid for again."""
    put, texts, count = CallCache.put, CallCache.texts, Merger.count
    later, seen = list[tuple[Any, Sequence[Answer]]](), dict[bytes, str]()

    def put_others(cache: CallCache, answers: Sequence[Answer]) -> None:
        verdicts = [answer for answer in answers if '"verdict"' in answer.answer]
        seen.update((answer.fingerprint, answer.answer) for answer in verdicts)
        later.append((cache, verdicts))
        put(cache, [answer for answer in answers if answer not in verdicts])

    def with_seen(cache: CallCache, fingerprints: Sequence[bytes]) -> dict[bytes, str]:
        return {**{key: seen[key] for key in fingerprints if key in seen}, **texts(cache, fingerprints)}

    def backwards(merger: Merger, *arguments: Any) -> None:
        count(merger, *arguments)
        while later:
            cache, verdicts = later.pop(0)
            if verdicts and not cache.process.dead:
                _perhaps_dies(cache.process)
                put(cache, verdicts)

    patch.setattr(CallCache, "put", put_others)
    patch.setattr(CallCache, "texts", with_seen)
    patch.setattr(Merger, "count", backwards)


def _perhaps_dies(process: Any) -> None:
    """Between the two: a crash there is what such a bug needs to show."""
    faults = process.world.faults
    if not faults.quiet and faults.strikes(Fault.CRASH_AT_CACHE):
        raise process.die()


def drafts_are_recorded_late(patch: Patch) -> None:
    """The answer is cached and counted, its draft is recorded in another commit, and the cache is not looked at."""
    put, count = drafts.put, Merger.count
    later: list[tuple[Any, ...]] | None = None

    def put_later(connection: Any, *what: Any) -> None:
        if later is None:
            put(connection, *what)
        else:
            later.append((what[0], list(what[1])))

    def in_two_commits(merger: Merger, *arguments: Any) -> None:
        nonlocal later
        later = []
        try:
            count(merger, *arguments)
        finally:
            waiting, later = later, None
        _perhaps_dies(merger.run.project.cache.process)  # type: ignore[attr-defined]
        with merger.run.write() as connection:
            for what in waiting:
                put(connection, *what)

    patch.setattr(drafts, "put", put_later)
    patch.setattr(Merger, "count", in_two_commits)
    patch.setattr(Questions, "_taken", lambda *_: ())


def repairs_have_no_bound(patch: Patch) -> None:
    """Again, until the judge is content."""

    def for_ever(draft: Draft, judgement: Any, rules: Any, bounds: Any) -> Any:
        return judged(draft, judgement, replace(rules, repairs=99), bounds)

    patch.setattr(merger, "judged", for_ever)


def invalid_answers_have_no_bound(patch: Patch) -> None:
    """Again, until the answer fits the schema."""

    def for_ever(kind: Any, result: Any, record: Any, draft: Draft, rules: Any, bounds: Any) -> Any:
        return failed(kind, result, record, draft, replace(rules, repairs=99), bounds)

    patch.setattr(merger, "failed", for_ever)


def a_repair_asks_the_same(patch: Patch) -> None:
    """An invalid answer is asked for again, without a word of what was wrong with it."""
    answer = Asker.answer

    def blind(asker: Asker, item: int, _: Draft | None) -> Ask:
        return answer(asker, item, None)

    patch.setattr(Asker, "answer", blind)


def the_judge_sees_another_row(patch: Patch) -> None:
    """The row of the item before."""
    shown = Asker._shown
    patch.setattr(Asker, "_shown", lambda asker, item: shown(asker, max(item - 1, 0)))


def the_judge_is_not_asked(patch: Patch) -> None:
    """His batches go to the provider that answers."""
    patch.setattr(passes, "side_of", lambda job, _: job)


def parts_are_matched_by_position(patch: Patch) -> None:
    """The first part of an answer to several rows is the first row's."""

    def by_position(output: OutputSchema, text: str, members: Sequence[int]) -> Parts:
        entries = orjson.loads(text)[RESULTS]
        renamed = [{**entry, ID: str(item)} for item, entry in zip(members, entries, strict=False)]
        return parts_of(output, orjson.dumps({RESULTS: renamed}).decode(), members)

    patch.setattr(checking, "parts_of", by_position)


def doubled_parts_are_taken(patch: Patch) -> None:
    """Of two parts for one row, the last is taken."""

    def last_wins(output: OutputSchema, text: str, members: Sequence[int]) -> Parts:
        entries = {str(entry.get(ID)): entry for entry in orjson.loads(text)[RESULTS]}
        return parts_of(output, orjson.dumps({RESULTS: list(entries.values())}).decode(), members)

    patch.setattr(checking, "parts_of", last_wins)


def bundles_are_cut_by_their_weight(patch: Patch) -> None:
    """A shard that is full leaves bundles over, and merging then puts its items together in another way."""
    patch.setattr(asked, "cut", lambda sizes, *most: cut(sizes, *most, overhead_bytes=asked.LINE_BYTES))
    write_all = _Maker._write_all
    patch.setattr(_Maker, "_write_all", lambda maker, asks, _: write_all(maker, asks, maker.limits))


def planted() -> Iterator[Planted]:
    """The table."""
    paid, again, lost, mixed = Kind.PAID_TWICE, Kind.SENT_AGAIN, Kind.LOST_ANSWER, Kind.MIXED_ROWS
    kept, judges = Kind.NOT_IN_CACHE, Fault.JUDGED
    yield "a rejected draft counts", a_rejected_draft_counts, (judges, Fault.REJECTED), (mixed,), 12
    yield "verdicts are cached late", verdicts_are_cached_late, (judges, Fault.CRASH_AT_CACHE), (kept, lost, paid), 12
    yield "drafts are recorded late", drafts_are_recorded_late, (judges, Fault.CRASH_AT_CACHE), (paid,), 12
    yield "repairs have no bound", repairs_have_no_bound, (judges, Fault.NEVER_CONTENT), (again,), 12
    yield (
        "invalid answers have no bound",
        invalid_answers_have_no_bound,
        (Fault.NEVER_VALID, Fault.FEW_REPAIRS),
        (again,),
        12,
    )
    yield "a repair asks the same", a_repair_asks_the_same, (Fault.INVALID_JSON,), (again,), 12
    yield "the judge sees another row", the_judge_sees_another_row, (judges,), (mixed,), 12
    yield "the judge is not asked", the_judge_is_not_asked, (judges,), (Kind.ACCOUNT,), 12
    bundled = Fault.BUNDLED
    yield "parts are matched by position", parts_are_matched_by_position, (bundled, Fault.PARTS_SHUFFLED), (mixed,), 12
    yield "doubled parts are taken", doubled_parts_are_taken, (bundled, Fault.PART_DOUBLED), (mixed,), 12
    cut = kept, lost, Kind.COST
    yield "bundles are cut by their weight", bundles_are_cut_by_their_weight, (bundled,), cut, 12
