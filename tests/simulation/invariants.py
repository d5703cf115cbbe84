"""The promises, checked after every step and at the end, by plain SQL and by the provider's own books."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator
from typing import Any

from batch_jobs.lifecycle.check import check_store
from batch_jobs.lifecycle.view import view
from batch_jobs.models import Mode, Outcome, ShardState
from tests.contract.lifecycle.kit import answer_text
from tests.simulation.lines import BILLED, LAST, MENDABLE, Fate, price_of
from tests.simulation.server import Batch
from tests.simulation.violations import Kind, Violation
from tests.simulation.world import EQUAL_ERRORS_MIN, JobPlan, World

OUTCOMES = {
    Fate.GOOD: Outcome.SUCCEEDED,
    Fate.REFUSED: Outcome.REFUSED,
    Fate.FAILED: Outcome.ERRORED,
    Fate.NOT_RUN: Outcome.ERRORED,
    Fate.MASS: Outcome.ERRORED,
}
EXACT = 1e-9
_ITEMS = "SELECT item, fingerprint, outcome FROM items WHERE task_id = ? ORDER BY item"
_SHARDS = "SELECT shard_key, state, batch_id FROM provider_batches WHERE task_id = ?"
_CALLS = "SELECT item, outcome, cost_usd FROM calls WHERE task_id = ?"


class Books:
    """Both sides' records of one job at one moment.

    Attributes:
        adopted: the provider's batches that the ledger goes by, each with its shard's state.
        outcome_of: event -> the outcome that the ledger has.
    """

    def __init__(self, world: World, plan: JobPlan) -> None:
        self.world, self.plan = world, plan
        self.items = _rows(world, _ITEMS, plan.task_id)
        self.shards = {row["shard_key"]: row for row in _rows(world, _SHARDS, plan.task_id)}
        self.calls = _rows(world, _CALLS, plan.task_id)
        self.spent = math.fsum(row["cost_usd"] for row in self.calls)
        job = _rows(world, "SELECT mode FROM jobs WHERE task_id = ?", plan.task_id)[0]
        self.mode = Mode(job["mode"])
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
    answers = _check_cache(world)
    for plan in world.jobs:
        books = Books(world, plan)
        _check_items(books)
        _check_counted(books, answers)
        _check_sent(books)
        if books.mode is Mode.BATCH:
            _check_merged(books)
            _check_cost(books)
    _check_reopened(world)
    for batch in world.server.batches:
        if batch.left_alone and not world.server.keyless:
            raise Violation(Kind.DOUBLE_LEFT, f"{batch.batch_id}, a double, is still running")


def _check_cache(world: World) -> set[bytes]:
    """Each answer is its own row's; returns what is answered."""
    answers = dict(world.cache_reader.execute("SELECT fingerprint, answer FROM answers").fetchall())
    for fingerprint, answer in answers.items():
        event = world.template.by_fingerprint.get(fingerprint)
        if event is None or json.loads(answer) != json.loads(answer_text(event)):
            raise Violation(Kind.MIXED_ROWS, f"the cache answers {event} with {answer}")
    return set(answers)


def _check_items(books: Books) -> None:
    """Every item is there, and is answered, failed or open."""
    if [row["item"] for row in books.items] != list(range(len(books.plan.events))):
        raise Violation(Kind.OUTCOME, "the ledger does not hold each item once")
    for row in books.items:
        if row["outcome"] is not None and row["outcome"] not in set(Outcome):
            raise Violation(Kind.OUTCOME, f"item {row['item']} is {row['outcome']}")


def _check_counted(books: Books, answers: set[bytes]) -> None:
    """An answer is in the cache before anybody counts it."""
    counted = {row["item"] for row in books.calls if row["outcome"] == Outcome.SUCCEEDED}
    for row in books.items:
        if (row["outcome"] == Outcome.SUCCEEDED or row["item"] in counted) and row["fingerprint"] not in answers:
            raise Violation(Kind.NOT_IN_CACHE, f"item {row['item']}")


def _check_sent(books: Books) -> None:
    """Nothing is at the provider that the ledger takes for never sent."""
    for batch in books.batches:
        shard = books.shards.get(batch.key)
        if not batch.too_late and not batch.refused and (shard is None or shard["state"] == ShardState.RENDERED):
            state = shard["state"] if shard else "not there"
            raise Violation(Kind.NOT_IN_LEDGER, f"{batch.batch_id} was accepted, and its shard is {state}")


def _check_merged(books: Books) -> None:
    """What a merged batch handed out has become its items' outcome."""
    for batch, state in books.adopted:
        if state != ShardState.MERGED or not batch.fetched:
            continue
        for event, fate in batch.fates.items():
            outcome = books.outcome_of[event]
            if fate is Fate.GOOD and outcome != Outcome.SUCCEEDED:
                raise Violation(Kind.LOST_ANSWER, f"{event} was answered in {batch.batch_id}: {outcome}")
            mended = fate in MENDABLE and books.world.forgiven(books.plan.task_id, event)
            if fate in OUTCOMES and outcome != OUTCOMES[fate] and not mended:
                raise Violation(Kind.OUTCOME, f"{event} was {fate} in {batch.batch_id}: {outcome}")


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
    answered = _answered(all_books)
    for books in all_books:
        _check_outcomes(books, answered)
        if books.mode is Mode.BATCH:
            _check_batches(books)
        else:
            _check_calls(books)
        _check_output(books)
    report = check_store(world.template.root / "config.json", world.template.root)
    if not report.agrees or report.skipped:
        found = "; ".join(f"{f.kind} {f.place.rpartition('/')[2]}: {f.problem}" for f in report.findings)
        raise Violation(Kind.STORE, found or f"skipped {report.skipped}")


def _answered(all_books: list[Books]) -> set[str]:
    """Events for which the provider handed out a good answer, in whatever way."""
    batches = [batch for books in all_books for batch, _ in books.adopted if batch.fetched]
    good = {event for batch in batches for event, fate in batch.fates.items() if fate is Fate.GOOD}
    return good | {call.event for call in all_books[0].world.server.calls if call.fate is Fate.GOOD}


def _check_outcomes(books: Books, answered: set[str]) -> None:
    for event, outcome in books.outcome_of.items():
        if outcome is None:
            raise Violation(Kind.OUTCOME, f"{event} has none, and the job is done")
        if outcome == Outcome.SUCCEEDED and event not in answered:
            raise Violation(Kind.OUTCOME, f"{event} is answered, and nobody gave a good answer")


def _check_batches(books: Books) -> None:
    """Everything that the provider handed out was fetched and merged."""
    for batch, state in books.adopted:
        if state != ShardState.MERGED:
            raise Violation(Kind.OUTCOME, f"{batch.batch_id} is {state}, and the job is done")
        if not batch.fetched and not batch.gone:
            raise Violation(Kind.LOST_ANSWER, f"the results of {batch.batch_id} were never fetched")


def _check_calls(books: Books) -> None:
    """Every answer that reached us is counted; with its cost, but for what a dying process had in flight."""
    calls = [call for call in books.world.server.calls if call.job == books.plan.task_id]
    for call in calls:
        mended = call.fate in MENDABLE and books.world.forgiven(books.plan.task_id, call.event)
        outcome = books.outcome_of[call.event]
        if call.fate in LAST and not call.lost and not mended and OUTCOMES[call.fate] != outcome:
            raise Violation(Kind.LOST_ANSWER, f"{call.event} was {call.fate}: {outcome}")
    billed = [(call, price_of(call.event, Mode.CONCURRENT)) for call in calls if call.fate in BILLED]
    low = math.fsum(price for call, price in billed if call.counted)
    high = math.fsum(price for _, price in billed)
    if not low - EXACT <= books.spent <= high + EXACT:
        raise Violation(Kind.COST, f"counted {books.spent:.9f} USD, billed {low:.9f} to {high:.9f}")


def _check_output(books: Books) -> None:
    """Each row once, in order, with its own answer or with a reason."""
    plan, answered = books.plan, 0
    output = list(_output(books))
    if [row["what"] for row in output] != plan.uploaded:
        raise Violation(Kind.OUTPUT, f"its rows are {[row['what'] for row in output]}")
    for event, item, row in zip(plan.uploaded, plan.item_of_row, output, strict=True):
        if item is not None and books.outcome_of[plan.events[item]] == Outcome.SUCCEEDED:
            answered += 1
            if (row["summary"], row["summarize_status"]) != (f"about {event}", "ok"):
                raise Violation(Kind.MIXED_ROWS, f"the row of {event} says {row['summary']}")
        elif row["summary"] or not row["summarize_status"].startswith("failed: "):
            raise Violation(Kind.OUTPUT, f"{event} is not answered: {row['summary']}, {row['summarize_status']}")
    with books.world.user() as project:
        seen = view(project, plan.task_id)
    rows = len(plan.uploaded)
    if (seen.succeeded, seen.succeeded + seen.failed, seen.rows) != (answered, rows, rows):
        raise Violation(Kind.OUTPUT, f"the status counts {seen.succeeded} and {seen.failed} of {seen.rows} rows")


def _output(books: Books) -> Iterator[dict[str, str]]:
    path = books.world.template.workspace.result(books.plan.task_id, ".csv")
    with path.open(encoding="utf-8", newline="") as handle:
        yield from csv.DictReader(handle)
