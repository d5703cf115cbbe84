"""Merger: where both paths meet. A result is a result wherever it came from.

Per group: the answers are durable in the cache, and only then counted in the ledger, together with what they cost. A
draft that a judge accepts becomes the item's answer in the same way. Run again, it has the same effect.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import repeat
from typing import Any

from batch_jobs.config import Rounds, pick
from batch_jobs.errors import StoreError
from batch_jobs.lifecycle.checking import Checked, answer_of
from batch_jobs.lifecycle.policy import mass_error, mass_rule
from batch_jobs.lifecycle.run import Run
from batch_jobs.lifecycle.settle import Bounds, Step, drafted, failed, judged
from batch_jobs.lifecycle.sides import side_of
from batch_jobs.models import AskKind, ItemResult, Outcome, Phase, Price
from batch_jobs.render.answers import OutputSchema
from batch_jobs.render.judge_prompt import judgement_of, kept_judge
from batch_jobs.render.prompt import Prompt
from batch_jobs.render.prompts import kept_prompt
from batch_jobs.storage import calls, drafts, items, shards
from batch_jobs.storage.call_cache import Answer
from batch_jobs.storage.calls import CallRecord, cost_of
from batch_jobs.storage.drafts import Draft
from batch_jobs.storage.items import Ending, ItemRecord
from batch_jobs.storage.jobs import Job
from batch_jobs.storage.shards import Shard


@dataclass(frozen=True, slots=True)
class Attempt:
    """One executed or failed attempt at an item, under the id that its cost is recorded by.

    Attributes:
        provisional: it was paid for, and says nothing of the item: interrupted, or one row's share is told apart.
        kind: what was asked for.
        call: under which its answer is kept where it is not the item's own yet.
    """

    item: int
    call_id: str
    result: ItemResult
    provisional: bool = False
    kind: AskKind = AskKind.ANSWER
    call: bytes | None = None

    @property
    def answered(self) -> bool:
        """Whether it gave what was asked for."""
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


class Merger:
    """Merges attempts of one job. The prompt that was kept with the job reads the answers."""

    def __init__(self, run: Run, job: Job, *, last_try: bool, last_ask: bool) -> None:
        self.run, self.job = run, job
        self.bounds = Bounds(last_try, last_ask, job.phase is Phase.CANCELLING)
        self.prompt = prompt_of(run, job)
        self.tally = Tally()
        self._sides = {kind: side_of(job, kind) for kind in AskKind}
        self._prices: dict[AskKind, Price | None] = {
            kind: run.project.price(side.provider, side.model, job.mode) for kind, side in self._sides.items()
        }

    @cached_property
    def judges(self) -> bool:
        """Whether a judge has the last word."""
        return self.job.rules.judge is not None

    # -- the concurrent path -------------------------------------------------------------------------------------

    def merge_now(self, attempts: Sequence[Attempt], records: Mapping[int, ItemRecord]) -> list[Step]:
        """Merge attempts whose results are checked; several at one item end with the last.

        Returns:
            How each item stands now.
        """
        fresh = {a.item: a for a in attempts if not a.provisional and records[a.item].outcome is None}
        answered = [attempt for attempt in fresh.values() if attempt.answered]
        self.run.project.cache.put([self._answer(attempt, records) for attempt in answered])
        steps = self._steps(list(fresh.values()), records)
        with self.run.write() as connection:
            calls.add_all(connection, [self._call(a) for a in attempts if a.result.billed])
            endings = [step.ending for step in steps]
            items.end(connection, self.job.task_id, endings, round_no=self.job.round, attempts=1, goes_on=True)
            drafts.put(connection, self.job.task_id, [step.draft for step in steps if step.draft])
        self._tally(steps)
        return steps

    def _steps(self, fresh: Sequence[Attempt], records: Mapping[int, ItemRecord]) -> list[Step]:
        """What attempts make of their items; the answers among them are in the cache already."""
        final = {attempt.item for attempt in fresh if attempt.answered and attempt.call is None}
        known = self._drafts([attempt.item for attempt in fresh if attempt.item not in final])
        steps = [Step(Ending(item, Outcome.SUCCEEDED, Outcome.SUCCEEDED)) for item in final]
        to_judge = defaultdict[AskKind, dict[int, bytes]](dict)
        for attempt in fresh:
            if not attempt.answered:
                steps.append(self._failed(attempt, records[attempt.item], known[attempt.item]))
            elif attempt.call is not None:
                to_judge[attempt.kind][attempt.item] = attempt.call
        for kind, by_item in to_judge.items():
            steps += self._advanced(kind, by_item, known, records)
        return steps

    # -- the batch path ------------------------------------------------------------------------------------------

    def count(self, checked: Checked, shard: Shard) -> None:
        """Count a checked range of a shard's results in one commit; its answers are in the cache already."""
        succeeded = [*checked.counted.items, *checked.unbilled]
        waits = succeeded if shard.kind is AskKind.JUDGE or self.judges else []
        several = [*(item for item, _ in checked.others), *waits]
        known, records = self._drafts(several), self._records(several)
        attempts = (Attempt(item, result.custom_id, result, kind=shard.kind) for item, result in checked.others)
        steps = [self._failed(attempt, records[attempt.item], known[attempt.item]) for attempt in attempts]
        steps += self._advanced(shard.kind, {item: _call_of(known[item]) for item in waits}, known, records)
        with self.run.write() as connection:
            calls.add_all(connection, self._counted(checked, shard))
            calls.add_all(connection, self._billed(checked, shard))
            if not waits:
                items.end_succeeded(connection, self.job.task_id, succeeded, round_no=shard.round)
                self.tally.outcomes[Outcome.SUCCEEDED] += len(succeeded)
            items.end(connection, self.job.task_id, [step.ending for step in steps], round_no=shard.round)
            drafts.put(connection, self.job.task_id, [step.draft for step in steps if step.draft])
        self._tally(steps)

    def take_known(self, kind: AskKind, by_item: Mapping[int, bytes]) -> list[Step]:
        """Go on with items whose next call was answered before: by item, under which call its answer is kept.

        Returns:
            How each item stands now.
        """
        chosen = list(by_item)
        steps = self._advanced(kind, by_item, self._drafts(chosen), self._records(chosen))
        with self.run.write() as connection:
            for step in steps:
                if step.ending.outcome is not None:
                    items.end(connection, self.job.task_id, [step.ending], round_no=self.job.round)
            drafts.put(connection, self.job.task_id, [step.draft for step in steps if step.draft])
        self._tally([step for step in steps if step.ending.outcome is not None])
        return steps

    # -- both ----------------------------------------------------------------------------------------------------

    def _records(self, chosen: Sequence[int]) -> dict[int, ItemRecord]:
        if not chosen:
            return {}
        with self.run.project.ledger.read() as connection:
            return items.some(connection, self.job.task_id, chosen)

    def _drafts(self, chosen: Sequence[int]) -> dict[int, Draft]:
        if not chosen:
            return {}
        with self.run.project.ledger.read() as connection:
            found = drafts.some(connection, self.job.task_id, chosen)
        return {item: found.get(item, Draft(item)) for item in chosen}

    def _failed(self, attempt: Attempt, record: ItemRecord, draft: Draft) -> Step:
        step = failed(attempt.kind, attempt.result, record, draft, self.job.rules, self.bounds)
        if step.paused_by:
            self.tally.paused_by = step.paused_by
        return step

    def _advanced(
        self,
        kind: AskKind,
        by_item: Mapping[int, bytes],
        known: Mapping[int, Draft],
        records: Mapping[int, ItemRecord],
    ) -> list[Step]:
        """Settle drafts and verdicts that are in the cache, under these calls."""
        if kind is not AskKind.JUDGE:
            return [drafted(known[item], call, self.bounds) for item, call in by_item.items()]
        texts = self.run.project.cache.texts(list(by_item.values()))
        said = {item: judgement_of(texts[call]) for item, call in by_item.items()}
        steps = [judged(known[item], judgement, self.job.rules, self.bounds) for item, judgement in said.items()]
        accepted = [step.ending.item for step in steps if step.ending.outcome is Outcome.SUCCEEDED]
        self._accept([known[item] for item in accepted], records)
        return steps

    def _accept(self, chosen: Sequence[Draft], records: Mapping[int, ItemRecord]) -> None:
        """Make drafts their items' answers, durably; they were paid for as drafts."""
        found = self.run.project.cache.get([draft.draft for draft in chosen if draft.draft is not None])
        lost = [draft.item for draft in chosen if draft.draft not in found]
        if lost:
            raise StoreError(
                f"{self.run.project.workspace.call_cache}: the draft of item {lost[0]} is not in the call cache any "
                "more. Put the file back from your backup, then run the same command again"
            )
        self.run.project.cache.put(
            [
                found[draft.draft]._replace(fingerprint=records[draft.item].fingerprint)
                for draft in chosen
                if draft.draft
            ]
        )

    def _tally(self, steps: Sequence[Step]) -> None:
        self.tally.outcomes.update(step.ending.last_outcome for step in steps if step.ending.last_outcome)
        self.tally.errors.update(
            (step.ending.code, step.ending.detail) for step in steps if step.ending.outcome is Outcome.ERRORED
        )

    def _answer(self, attempt: Attempt, records: Mapping[int, ItemRecord]) -> Answer:
        key = attempt.call or records[attempt.item].fingerprint
        at = self.run.project.clock()
        return answer_of(self._sides[attempt.kind], self._prices[attempt.kind], key, attempt.result, at)

    def _call(self, attempt: Attempt) -> CallRecord:
        job, used = self._sides[attempt.kind], attempt.result.usage
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
            cost_usd=cost_of(used, self._prices[attempt.kind]),
            at=self.run.project.clock(),
            kind=attempt.kind.value,
        )

    def _counted(self, checked: Checked, shard: Shard) -> Iterable[tuple[Any, ...]]:
        """The call records of valid answers, made column by column."""
        job, counted = self._sides[shard.kind], checked.counted
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
            repeat(shard.kind.value),
            strict=False,
        )

    def _billed(self, checked: Checked, shard: Shard) -> list[CallRecord]:
        return [
            self._call(Attempt(item, shards.custom_id(shard.shard_key, item), result, kind=shard.kind))
            for item, result in (*checked.others, *checked.past)
            if result.billed
        ]


def _call_of(draft: Draft) -> bytes:
    assert draft.call is not None
    return draft.call


def prompt_of(run: Run, job: Job) -> Prompt:
    """The prompt module as it was when the job was planned."""
    name = pick("task", job.task, run.project.settings.tasks).prompt
    return kept_prompt(run.project.workspace.prompt(job.task_id, name).parent, name)


def output_of(run: Run, job: Job, kind: AskKind) -> OutputSchema:
    """What has to be answered where this is asked for."""
    prompt, judge = prompt_of(run, job), job.rules.judge
    if kind is not AskKind.JUDGE or judge is None:
        return prompt.output
    return kept_judge(prompt.path.parent, judge.prompt, prompt.path.name).output
