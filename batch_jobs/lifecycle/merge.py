"""Merge: where both paths meet. A result is a result wherever it came from.

Per chunk: check each answer against the schema, make the answers durable in the cache, and only then count them
in the ledger, together with what they cost. Run again, it has the same effect.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

import orjson

from batch_jobs.config import Rounds, pick
from batch_jobs.errors import RequestRejected
from batch_jobs.lifecycle.filing import file_answers
from batch_jobs.lifecycle.policy import ONCE_MORE, Next, after_attempt, is_last_round, mass_error, mass_rule
from batch_jobs.lifecycle.run import Progress, Run
from batch_jobs.models import BatchState, EventName, ItemResult, Outcome, Phase, Price, ShardState
from batch_jobs.render.prompts import PromptModule, load_prompt, read_answer
from batch_jobs.storage import calls, events, items, shards
from batch_jobs.storage.call_cache import Answer
from batch_jobs.storage.calls import CallRecord, cost_of
from batch_jobs.storage.items import Ending, ItemRecord
from batch_jobs.storage.jobs import Job
from batch_jobs.storage.shards import Shard, item_of
from providers.connect import codec_for
from providers.contract import Codec, result_lines

CHUNK = 1_000
TRANSIENT_PROBLEMS = frozenset({"token_limit_exceeded", "too_many_tasks"})
"""Batch-level codes that mean "not now" (OpenAI Batch guide; field reports)."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One executed or failed attempt at an item, under the id that its cost is recorded by.

    `provisional`: it was paid for, but the item was interrupted before its next attempt and stays open.
    """

    item: int
    call_id: str
    result: ItemResult
    provisional: bool = False


@dataclass
class Tally:
    """What a merge did."""

    outcomes: Counter[str] = field(default_factory=Counter)
    errors: Counter[tuple[str, str]] = field(default_factory=Counter)
    paused_by: str | None = None

    def looks_like_mass_error(self, rounds: Rounds) -> bool:
        """Whether most of what was merged so far ended in one and the same error."""
        return mass_error(self.outcomes.total(), self.errors, mass_rule(rounds)) is not None


class Merger:
    """Merges attempts of one job. The prompt module that was kept with the job reads the answers."""

    def __init__(self, run: Run, job: Job, *, last_round: bool) -> None:
        self.run, self.job, self.last_round = run, job, last_round
        self.cancelling = job.phase is Phase.CANCELLING
        self.prompt = prompt_of(run, job)
        self.price: Price | None = run.project.price(job.provider, job.model, job.mode)
        self.tally = Tally()

    def merge(self, attempts: Iterable[Attempt], records: Mapping[int, ItemRecord], round_no: int) -> None:
        """Merge the attempts of a batch round. Items that were merged for this round already stay as they are."""
        source = iter(attempts)
        while chunk := list(islice(source, CHUNK)):
            self._merge_chunk(chunk, records, round_no, counted=True)

    def merge_now(self, attempts: Sequence[Attempt], records: Mapping[int, ItemRecord]) -> None:
        """Merge attempts of the concurrent path; several at one item end with the last of them."""
        self._merge_chunk(attempts, records, self.job.round, counted=False)

    def _merge_chunk(
        self, chunk: Sequence[Attempt], records: Mapping[int, ItemRecord], round_no: int, *, counted: bool
    ) -> None:
        checked = [replace(attempt, result=checked_result(self.prompt, attempt.result)) for attempt in chunk]
        fresh = [a for a in checked if not a.provisional and _is_open(records[a.item], round_no if counted else None)]
        self.run.project.cache.put([self._answer(attempt, records) for attempt in fresh if _ok(attempt)])
        endings = {attempt.item: self._ending(attempt, records[attempt.item]) for attempt in fresh}
        with self.run.write() as connection:
            calls.add_all(connection, [self._call(attempt) for attempt in checked if attempt.result.billed])
            items.end(
                connection, self.job.task_id, list(endings.values()), round_no=round_no, attempts=int(not counted)
            )
        self.tally.outcomes.update(ending.last_outcome for ending in endings.values())
        self.tally.errors.update(
            (ending.code, ending.detail) for ending in endings.values() if ending.outcome is Outcome.ERRORED
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
        usage = attempt.result.usage
        return Answer(
            fingerprint=records[attempt.item].fingerprint,
            answer=attempt.result.text,
            provider=self.job.provider,
            model=attempt.result.model or self.job.model,
            task=self.job.task,
            simulated=self.job.simulated,
            input_tokens=usage.input_tokens,
            cached_tokens=usage.cached_tokens,
            output_tokens=usage.output_tokens,
            cost_usd=cost_of(usage, self.price),
            task_id=self.job.task_id,
            at=self.run.project.clock(),
        )

    def _call(self, attempt: Attempt) -> CallRecord:
        usage = attempt.result.usage
        return CallRecord(
            call_id=attempt.call_id,
            task_id=self.job.task_id,
            item=attempt.item,
            mode=self.job.mode,
            model=self.job.model,
            outcome=attempt.result.outcome,
            input_tokens=usage.input_tokens,
            cached_tokens=usage.cached_tokens,
            output_tokens=usage.output_tokens,
            cost_usd=cost_of(usage, self.price),
            at=self.run.project.clock(),
        )


def prompt_of(run: Run, job: Job) -> PromptModule:
    """The prompt module as it was when the job was planned."""
    name = pick("task", job.task, run.project.settings.tasks).prompt
    return load_prompt(run.project.workspace.prompt(job.task_id, name).parent, name)


def checked_result(prompt: PromptModule, result: ItemResult) -> ItemResult:
    """A succeeded result with its text as canonical JSON, or an invalid one with the reason."""
    if result.outcome is not Outcome.SUCCEEDED:
        return result
    try:
        answer = read_answer(prompt.output_model, result.text)
    except ValueError as error:
        return replace(result, outcome=Outcome.INVALID, code="schema", detail=str(error))
    return replace(result, text=orjson.dumps(answer).decode())


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
        records = items.of_shard(connection, job.task_id, shard.round, shard.shard)
    merger = Merger(run, job, last_round=last_round(run, job, shard.round))
    codec = codec_for(project.entry(job.provider).dialect, job.endpoint)
    files = sorted(folder.glob("*.jsonl"))
    seen, doubled, problems = _ids(codec, files, shard, records)
    results = _attempts(codec, files, shard, records, doubled)
    merger.merge(_with_progress(run, job, shard, results), records, shard.round)
    left = (item for item in records if item not in seen or item in doubled)
    merger.merge((_unanswered(shard, item, doubled) for item in left), records, shard.round)
    with run.write() as connection:
        for name, data in problems:
            events.add(connection, job.task_id, name, {"shard_key": shard.shard_key, **data})
        shards.move(connection, shard, ShardState.MERGED, merged_at=project.clock())
        data = {"shard_key": shard.shard_key, **merger.tally.outcomes}
        events.add(connection, job.task_id, EventName.SHARD_MERGED, data)
    file_answers(project, job, sorted(records), notify=run.notify)
    return merger.tally


def reject_shard(run: Run, job: Job, shard: Shard, error: RequestRejected) -> None:
    """End the items of a shard that the provider will never accept, with the provider's words.

    In one commit: a shard that could still be sent, with items that have ended, would be paid for nothing.
    """
    code = error.code or "request_rejected"
    with run.write() as connection:
        inside = items.of_shard(connection, job.task_id, shard.round, shard.shard)
        endings = [Ending(item, Outcome.ERRORED, Outcome.ERRORED, code, error.message) for item in inside]
        items.end(connection, job.task_id, endings, round_no=shard.round)
        problems = [{"code": code, "message": error.message, "line": None}]
        shards.move(connection, shard, ShardState.MERGED, problems=problems, merged_at=run.project.clock())


def _with_progress(run: Run, job: Job, shard: Shard, attempts: Iterable[Attempt]) -> Iterator[Attempt]:
    for number, attempt in enumerate(attempts, 1):
        if number % CHUNK == 0:
            run.notify(Progress(job.task_id, "merging", number, shard.requests))
        yield attempt


Problem = tuple[EventName, dict[str, object]]


def _ids(
    codec: Codec, files: list[Path], shard: Shard, records: Mapping[int, ItemRecord]
) -> tuple[set[int], dict[int, ItemResult], list[Problem]]:
    """First pass over the raw lines, ids only: which items are answered, which more than once, what is nobody's."""
    seen: set[int] = set()
    doubled: dict[int, ItemResult] = {}
    problems: list[Problem] = []
    for number, line in enumerate(result_lines(files), 1):
        try:
            result = codec.parse_line(line)
        except ValueError as error:
            problems.append((EventName.RESULT_UNREADABLE, {"line": number, "why": str(error)}))
            continue
        item = item_of(result.custom_id, shard.shard_key)
        if item is None or item not in records:
            problems.append((EventName.RESULT_UNKNOWN_ID, {"line": number, "custom_id": result.custom_id[:100]}))
        elif item in seen:
            doubled[item] = result
        else:
            seen.add(item)
    problems.extend((EventName.RESULT_DOUBLED_ID, {"item": item}) for item in sorted(doubled))
    return seen, doubled, problems


def _attempts(
    codec: Codec, files: list[Path], shard: Shard, records: Mapping[int, ItemRecord], doubled: Mapping[int, ItemResult]
) -> Iterator[Attempt]:
    """Second pass: the results that are exactly one item's."""
    for line in result_lines(files):
        try:
            result = codec.parse_line(line)
        except ValueError:
            continue  # named by the first pass
        item = item_of(result.custom_id, shard.shard_key)
        if item is not None and item in records and item not in doubled:
            yield Attempt(item, result.custom_id, result)


def _unanswered(shard: Shard, item: int, doubled: Mapping[int, ItemResult]) -> Attempt:
    """What became of an item that the results do not answer, by how the batch as a whole ended."""
    custom_id = shards.custom_id(shard.shard_key, item)
    if item in doubled:
        detail = "the provider sent more than one result for this item; none was taken"
        result = replace(
            doubled[item], outcome=Outcome.ERRORED, text="", code="doubled_id", detail=detail, transient=True
        )
    else:
        outcome, code, detail, transient = _batch_wide(shard)
        result = ItemResult(custom_id, outcome, code=code, detail=detail, transient=transient)
    return Attempt(item, custom_id, result)


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
            return Outcome.ERRORED, code, str(problem["message"]), code in TRANSIENT_PROBLEMS
        case _:
            return Outcome.MISSING, "missing", "the provider's results do not hold this item", True


def _is_open(record: ItemRecord, round_no: int | None) -> bool:
    """Whether an attempt may still change the item; `round_no` None where every attempt is a new one."""
    if record.outcome is not None:
        return False
    return round_no is None or record.merged_round is None or record.merged_round < round_no


def _ok(attempt: Attempt) -> bool:
    return attempt.result.outcome is Outcome.SUCCEEDED
