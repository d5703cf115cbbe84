"""The promises, checked after every step and at the end, by plain SQL and by the provider's own books."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

import orjson

from batch_jobs.lifecycle.check import check_store
from batch_jobs.lifecycle.view import view
from batch_jobs.models import AskKind, JobOutcome, Mode, Outcome, ShardState
from tests.simulation.asked import Asked
from tests.simulation.audit import is_final
from tests.simulation.lines import BILLED, ENDS, MENDABLE, VALID, Fate, Said, price_of
from tests.simulation.server import Batch
from tests.simulation.template import EQUAL_ERRORS_MIN, JobPlan
from tests.simulation.violations import Kind, Violation
from tests.simulation.world import World

OUTCOMES = {
    Fate.REFUSED: Outcome.REFUSED,
    Fate.FAILED: Outcome.ERRORED,
    Fate.NOT_RUN: Outcome.ERRORED,
    Fate.MASS: Outcome.ERRORED,
}
WORDS = {
    Outcome.INVALID: "invalid answer",
    Outcome.REFUSED: "refused by the model",
    Outcome.TRUNCATED: "answer cut off",
    Outcome.ERRORED: "provider error",
    Outcome.EXPIRED: "not executed in time",
    Outcome.CANCELLED: "cancelled",
    Outcome.MISSING: "missing from the provider's results",
    Outcome.REJECTED: "rejected by the judge",
}
"""What the status column says, written down a second time."""
UNJUDGED = frozenset({Outcome.CANCELLED, Outcome.MISSING})
"""How a draft ends that nobody judges any more."""
EXACT = 1e-9
ROUNDS, HOURS = 3, 90
"""What config.json allows, where nothing is judged or sent together."""
_ITEMS = "SELECT item, fingerprint, outcome FROM items WHERE task_id = ? ORDER BY item"
_SHARDS = "SELECT shard_key, state, batch_id FROM provider_batches WHERE task_id = ?"
_CALLS = "SELECT item, call_id, outcome, cost_usd FROM calls WHERE task_id = ?"
_DRAFTS = "SELECT item, draft, verdict, repairs FROM drafts WHERE task_id = ?"
_JOB = "SELECT mode, outcome, round, round_base, coalesce(resumed_at, started_at, created_at) began FROM jobs "


class Books:
    """Both sides' records of one job at one moment.

    Attributes:
        adopted: the provider's batches that the ledger goes by, each with its shard's state.
        calls: that are counted.
        drafts: event -> how far it is on its way.
        outcome_of: event -> the outcome that the ledger has.
    """

    def __init__(self, world: World, plan: JobPlan) -> None:
        self.world, self.plan = world, plan
        self.items = _rows(world, _ITEMS, plan.task_id)
        self.shards = {row["shard_key"]: row for row in _rows(world, _SHARDS, plan.task_id)}
        self.calls = _rows(world, _CALLS, plan.task_id)
        self.spent = math.fsum(row["cost_usd"] for row in self.calls)
        self.drafts = {plan.events[row["item"]]: row for row in _rows(world, _DRAFTS, plan.task_id)}
        self.job = _rows(world, _JOB + "WHERE task_id = ?", plan.task_id)[0]
        self.mode = Mode(self.job["mode"])
        states = {row["batch_id"]: row["state"] for row in self.shards.values() if row["batch_id"]}
        self.adopted = [(batch, states[batch.batch_id]) for batch in self.batches if batch.batch_id in states]
        self.outcome_of = {event: row["outcome"] for event, row in zip(plan.events, self.items, strict=False)}

    @property
    def batches(self) -> list[Batch]:
        """Every batch that the provider has of this job."""
        return [batch for batch in self.world.server.batches if batch.job == self.plan.task_id]


def _rows(world: World, query: str, task_id: str) -> list[dict[str, Any]]:
    cursor = world.reader.execute(query, (task_id,))
    names = [column[0] for column in cursor.description]
    return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def check_step(world: World) -> None:
    """What holds at any moment, also right after a crash."""
    kept = _check_cache(world)
    for plan in world.jobs:
        books = Books(world, plan)
        _check_items(books)
        _check_counted(books, kept)
        _check_sent(books)
        if books.mode is Mode.BATCH:
            _check_merged(books, kept)
            _check_cost(books)
    _check_reopened(world)
    for batch in world.server.batches:
        if batch.left_alone and not world.server.keyless:
            raise Violation(Kind.DOUBLE_LEFT, f"{batch.batch_id}, a double, is still running")


def _check_cache(world: World) -> Mapping[bytes, str]:
    """What is kept is what was said to that very request, and an item's answer what was accepted; returns it."""
    kept = dict(world.cache_reader.execute("SELECT fingerprint, answer FROM answers").fetchall())
    given: dict[bytes, set[bytes]] = {}
    for asked, said in _all_results(world):
        for key, text in _texts(world, asked, said):
            given.setdefault(key, set()).add(_canonical(text))
    for key, text in kept.items():
        if _canonical(text) not in given.get(key, ()):
            whose = world.made.event_of.get(key, "another request")
            raise Violation(Kind.MIXED_ROWS, f"the cache answers {whose} with {text}")
    return kept


def _all_results(world: World) -> Iterator[tuple[Asked, Said]]:
    for batch in world.server.batches:
        yield from batch.results
    for call in world.server.calls:
        yield call.asked, call.said


def _texts(world: World, asked: Asked, said: Said) -> Iterator[tuple[bytes, str]]:
    """What a result gives, each with the key that it has to be kept under."""
    made = world.made
    if asked.kind is AskKind.JUDGE:
        if said.fate in VALID:
            yield asked.question, said.text
        if said.fate is Fate.ACCEPTED:
            yield made.answers[asked.event], asked.draft
        return
    for event in asked.events:
        text = said.gave(event)
        if text is None:
            continue
        if not world.rules.judged:
            yield made.answers[event], text
        else:
            yield made.parts[event] if asked.kind is AskKind.BUNDLE else asked.question, text


@lru_cache(maxsize=10_000)
def _canonical(text: str) -> bytes:
    return orjson.dumps(orjson.loads(text))


def _check_items(books: Books) -> None:
    """Every item is there, and is answered, failed or open."""
    if [row["item"] for row in books.items] != list(range(len(books.plan.events))):
        raise Violation(Kind.OUTCOME, "the ledger does not hold each item once")
    for row in books.items:
        if row["outcome"] is not None and row["outcome"] not in set(Outcome):
            raise Violation(Kind.OUTCOME, f"item {row['item']} is {row['outcome']}")


def _check_counted(books: Books, kept: Mapping[bytes, str]) -> None:
    """An answer, a draft, a verdict is in the cache before anybody counts it."""
    for key, what in _counted(books):
        if key not in kept:
            raise Violation(Kind.NOT_IN_CACHE, what)


def _counted(books: Books) -> Iterator[tuple[bytes, str]]:
    """The key of everything that is counted, and what it is."""
    for row in books.items:
        if row["outcome"] == Outcome.SUCCEEDED:
            yield row["fingerprint"], f"item {row['item']}"
    for event, draft in books.drafts.items():
        if draft["draft"] is not None:
            yield draft["draft"], f"the draft of {event}"
    results = {asked.custom_id: (asked, said) for batch, _ in books.adopted for asked, said in batch.results}
    for call in books.calls:
        for key, _ in _texts(books.world, *results[call["call_id"]]) if call["call_id"] in results else ():
            yield key, f"what call {call['call_id'].partition('-')[2]} gave"


def _check_sent(books: Books) -> None:
    """Nothing is at the provider that the ledger takes for never sent."""
    for batch in books.batches:
        shard = books.shards.get(batch.key)
        if not batch.too_late and not batch.refused and (shard is None or shard["state"] == ShardState.RENDERED):
            state = shard["state"] if shard else "not there"
            raise Violation(Kind.NOT_IN_LEDGER, f"{batch.batch_id} was accepted, and its shard is {state}")


def _check_merged(books: Books, kept: Mapping[bytes, str]) -> None:
    """What a merged batch handed out has become its items' outcome, or a draft that is kept."""
    for batch, state in books.adopted:
        if state == ShardState.MERGED and batch.fetched:
            for asked, said in batch.results:
                _check_outcome(books, kept, asked, said, batch.batch_id)


def _check_outcome(books: Books, kept: Mapping[bytes, str], asked: Asked, said: Said, place: str) -> None:
    """What one result has become."""
    world = books.world
    for key, text in _texts(world, asked, said):
        if key not in kept:
            raise Violation(Kind.LOST_ANSWER, f"{asked.name} was answered in {place}, and it is not kept: {text}")
    for event in asked.events:
        outcome = books.outcome_of[event]
        if is_final(world.rules, said, event) and outcome != Outcome.SUCCEEDED:
            raise Violation(Kind.LOST_ANSWER, f"{event} was answered in {place}: {outcome}")
        if _is_end(books, asked, said, event) and outcome != OUTCOMES[said.fate]:
            raise Violation(Kind.OUTCOME, f"{asked.name} was {said.fate} in {place}: {outcome}")


def _is_end(books: Books, asked: Asked, said: Said, event: str) -> bool:
    """Whether it was an event's end: after a bundle each goes alone, and what is forgiven is sent again."""
    forgiven = said.fate in MENDABLE and books.world.forgiven(books.plan.task_id, event)
    return asked.kind is not AskKind.BUNDLE and said.fate in ENDS and not forgiven


def _check_cost(books: Books) -> None:
    """What is counted is what the merged batches handed out, and of those being merged no more than all."""
    server = books.world.server
    low = server.handed_out(batch for batch, state in books.adopted if state == ShardState.MERGED and batch.fetched)
    high = server.handed_out(batch for batch, _ in books.adopted if batch.fetched)
    if not low - EXACT <= books.spent <= high + EXACT:
        raise Violation(Kind.COST, f"counted {books.spent:.9f} USD, billed {low:.9f} to {high:.9f}")


def _check_reopened(world: World) -> None:
    """Failed items are opened again only when many of them failed alike."""
    number = world.reader.execute("SELECT count(*) FROM reopened").fetchone()[0]
    if 0 < number - world.reopened < EQUAL_ERRORS_MIN:
        raise Violation(Kind.OUTCOME, f"{number - world.reopened} failed items were opened again")
    world.reopened = number


# --- at the end -----------------------------------------------------------------------------------------------


def check_end(world: World) -> None:
    """What holds when every job is done."""
    all_books = [Books(world, plan) for plan in world.jobs]
    answered, kept = _answered(all_books), _check_cache(world)
    for books in all_books:
        _check_outcomes(books, answered)
        if books.mode is Mode.BATCH:
            _check_batches(books)
        else:
            _check_calls(books, kept)
        _check_output(books, kept)
    report = check_store(world.template.root / "config.json", world.template.root)
    if not report.agrees or report.skipped:
        found = "; ".join(f"{f.kind} {f.place.rpartition('/')[2]}: {f.problem}" for f in report.findings)
        raise Violation(Kind.STORE, found or f"skipped {report.skipped}")


def _answered(all_books: list[Books]) -> set[str]:
    """Events that the provider gave a final answer to, in whatever way."""
    world = all_books[0].world
    batches = [batch for books in all_books for batch, _ in books.adopted if batch.fetched]
    results = [result for batch in batches for result in batch.results]
    results += [(call.asked, call.said) for call in world.server.calls]
    return {event for asked, said in results for event in asked.events if is_final(world.rules, said, event)}


def _check_outcomes(books: Books, answered: set[str]) -> None:
    for event, outcome in books.outcome_of.items():
        if outcome is None:
            raise Violation(Kind.OUTCOME, f"{event} has none, and the job is done")
        if outcome == Outcome.SUCCEEDED and event not in answered:
            raise Violation(Kind.OUTCOME, f"{event} is answered, and nobody gave a good answer")
        if outcome == Outcome.REJECTED:
            _check_rejected(books, event)


def _check_rejected(books: Books, event: str) -> None:
    """The judge did say so, and it was asked for again as often as the rules allow, and the rounds."""
    about = [(a, s) for a, s in _all_results(books.world) if event in a.events]
    rejected = [said for asked, said in about if said.fate is Fate.REJECTED]
    invalid = [s for a, s in about if s.fate is Fate.INVALID and a.kind is AskKind.ANSWER]
    if not rejected:
        raise Violation(Kind.OUTCOME, f"{event} ended as rejected, and no judge said so")
    if _is_over(books):
        return
    repairs, repeated = books.drafts[event]["repairs"], event in books.world.server.model.repeated
    if repairs < books.world.rules.repairs or (len(rejected) + len(invalid) <= repairs and not repeated):
        tried = f"{repairs} repairs, {len(rejected)} verdicts and {len(invalid)} faults"
        raise Violation(Kind.OUTCOME, f"{event} ended as rejected after {tried}")


def _is_over(books: Books) -> bool:
    """Whether nothing may be asked again: the job was cancelled, or it has no round or no time left."""
    rules, job = books.world.rules, books.job
    rounds = ROUNDS + (rules.rows > 1) + (1 + 2 * rules.repairs)
    cancelled, used = job["outcome"] == JobOutcome.CANCELLED, job["round"] - job["round_base"] + 1
    late = books.mode is Mode.BATCH and books.world.client_time() - job["began"] > HOURS * 3600
    return any((cancelled, used >= rounds, late))


def _check_batches(books: Books) -> None:
    """Everything that the provider handed out was fetched and merged."""
    for batch, state in books.adopted:
        if state != ShardState.MERGED:
            raise Violation(Kind.OUTCOME, f"{batch.batch_id} is {state}, and the job is done")
        if not batch.fetched and not batch.gone:
            raise Violation(Kind.LOST_ANSWER, f"the results of {batch.batch_id} were never fetched")


def _check_calls(books: Books, kept: Mapping[bytes, str]) -> None:
    """Every answer that reached us is kept and counted; with its cost, but for what a dying process had in flight."""
    calls = [call for call in books.world.server.calls if call.job == books.plan.task_id]
    for call in calls:
        if not call.lost:
            _check_outcome(books, kept, call.asked, call.said, "a call")
    billed = [(call, price_of(call.asked, Mode.CONCURRENT)) for call in calls if call.said.fate in BILLED]
    low = math.fsum(price for call, price in billed if call.counted)
    high = math.fsum(price for _, price in billed)
    if not low - EXACT <= books.spent <= high + EXACT:
        raise Violation(Kind.COST, f"counted {books.spent:.9f} USD, billed {low:.9f} to {high:.9f}")


def _check_output(books: Books, kept: Mapping[bytes, str]) -> None:
    """Each row once, in order, with its own answer or with a reason."""
    output = list(_output(books))
    if [row["what"] for row in output] != books.plan.uploaded:
        raise Violation(Kind.OUTPUT, f"its rows are {[row['what'] for row in output]}")
    items = books.plan.item_of_row
    outcomes = [None if item is None else Outcome(books.items[item]["outcome"]) for item in items]
    for row, outcome in zip(output, outcomes, strict=True):
        if outcome is Outcome.SUCCEEDED:
            _check_answer(books, kept, row)
        else:
            _check_reason(books, row, outcome)
    _check_view(books, outcomes.count(Outcome.SUCCEEDED))


def _check_answer(books: Books, kept: Mapping[bytes, str], row: dict[str, str]) -> None:
    event = row["what"]
    mine = orjson.loads(kept[books.world.made.answers[event]])["summary"]
    if (row["summary"], row["summarize_status"]) != (mine, "ok") or f"about {event}" not in mine:
        raise Violation(Kind.MIXED_ROWS, f"the row of {event} says {row['summary']}")


def _check_reason(books: Books, row: dict[str, str], outcome: Outcome | None) -> None:
    event = row["what"]
    words = ["the prompt could not be made" if outcome is None else WORDS[outcome]]
    if outcome in UNJUDGED and books.drafts.get(event, {}).get("draft"):
        words.append("answered, but not judged any more")
    if row["summary"] or not row["summarize_status"].startswith(tuple(f"failed: {said}" for said in words)):
        raise Violation(Kind.OUTPUT, f"{event} is {outcome}: {row['summary']}, {row['summarize_status']}")


def _check_view(books: Books, answered: int) -> None:
    """What the status says."""
    with books.world.user() as project:
        seen = view(project, books.plan.task_id)
    rows = len(books.plan.uploaded)
    if (seen.succeeded, seen.succeeded + seen.failed, seen.rows) != (answered, rows, rows):
        raise Violation(Kind.OUTPUT, f"the status counts {seen.succeeded} and {seen.failed} of {seen.rows} rows")


def _output(books: Books) -> Iterator[dict[str, str]]:
    path = books.world.template.workspace.result(books.plan.task_id, ".csv")
    with path.open(encoding="utf-8", newline="") as handle:
        yield from csv.DictReader(handle)
