"""All that a report says of a job, from ledger, plan, snapshot and cache: sums by the database, columns by ranges."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection

from batch_jobs.config import ModelEntry
from batch_jobs.errors import WrongMoment
from batch_jobs.lifecycle.pool.figures import read_figures
from batch_jobs.lifecycle.project import Project
from batch_jobs.lifecycle.report.latency import latency_of
from batch_jobs.lifecycle.report.rows import UNRENDERED, Rows, rows_of
from batch_jobs.lifecycle.report.samples import samples_of
from batch_jobs.lifecycle.report.settings import settings_of
from batch_jobs.models import AskKind, JobOutcome, Mode, Outcome, Phase, Usage
from batch_jobs.output.report_facts import (
    SHOWN_BATCHES,
    Costs,
    Cuts,
    Judged,
    Known,
    Pace,
    PriceLine,
    Report,
    RoundLine,
    ShardLine,
    Spend,
    Way,
)
from batch_jobs.storage import calls, jobs, shards, statistics
from batch_jobs.storage.jobs import Job
from batch_jobs.storage.shards import Shard

PROBLEMS = 10
SPANS = 60
"""Of time, in which answers are counted."""
_POOL = {
    "average_seconds": "seconds of a call, on average",
    "p95_seconds": "seconds of a call, 19 of 20 are quicker",
    "attempts": "calls begun",
    "refused_429": "refused for their pace (429)",
    "failed_calls": "failed calls",
    "max_concurrency": "at once, at most",
}
_POOL_TIMES = {"average_seconds", "p95_seconds"}


def gather(project: Project, task_id: str) -> Report:
    """Everything that the report of a job says.

    Raises:
        JobNotFound: there is no such job.
        WrongMoment: it is not planned yet, or was cancelled before that.
        StoreError: an answer that was counted is not in the call cache any more.
    """
    with project.ledger.read() as connection:
        job = jobs.get(connection, task_id)
        if job.plan is None or "items" not in job.plan:
            raise _too_early(job)
        of_job = shards.of_job(connection, task_id)
        spends = tuple(_spend(*line) for line in statistics.spends(connection, task_id))
        begun = job.started_at or job.created_at
        pace = pace_of(array("d", statistics.answer_times(connection, task_id)), begun, _counted(job))
        judged = _judged(connection, task_id)
        latency = latency_of(project, task_id, sum(spend.calls for spend in spends))
        way = _way(connection, job, of_job, begun, _pool(project, job, known=latency is not None))
    items = int(job.plan["items"])
    rows = rows_of(project, job, items)
    return Report(
        task_id=task_id,
        task=job.task,
        data_case=job.data_case,
        description=_description(project, job),
        file_name=job.file_name,
        simulated=job.simulated,
        phase=job.phase,
        outcome=JobOutcome(job.outcome) if job.outcome and job.phase is Phase.DONE else None,
        message=job.message,
        rows=job.rows,
        items=items,
        created_at=job.created_at,
        started_at=job.started_at,
        done_at=job.done_at,
        seconds=(job.done_at or project.clock()) - begun,
        ended=rows.ended(),
        known=_known(job, rows, items),
        costs=costs_of(project, job, spends),
        pace=pace,
        latency=latency,
        way=way,
        cuts=_cuts(rows, spends),
        judged=judged,
        problems=rows.problems(PROBLEMS),
        samples=samples_of(project, job, rows),
        settings=settings_of(job),
    )


def _too_early(job: Job) -> WrongMoment:
    if job.phase is Phase.DONE:
        return WrongMoment(f"job {job.task_id} was cancelled before it was planned: there is nothing to report")
    return WrongMoment(f"job {job.task_id} is not planned yet: nothing to report. Look again with: batch-jobs status")


def _description(project: Project, job: Job) -> str:
    task = project.settings.tasks.get(job.task)
    return task.description if task is not None else ""


def _known(job: Job, rows: Rows, items: int) -> Known:
    """What was answered before, as the plan or another job's answers had it; and what equal rows share."""
    known = next((ended.rows for ended in rows.ended() if ended.outcome == "known"), 0)
    shared = max(job.rows - rows.totals.get(UNRENDERED, 0) - items, 0)
    return Known(rows.known_items, known, shared)


def costs_of(project: Project, job: Job, spends: Sequence[Spend]) -> Costs:
    """What the calls cost, and what their tokens cost by batch and at once, at the prices of config.json."""
    models = dict.fromkeys([*(spend.model for spend in spends), job.model])
    entries = {model: entry for model in models if (entry := _entry(project, job, model)) is not None}
    priced = len(entries) == len(models)
    return Costs(
        mode=job.mode,
        paid_usd=sum(spend.cost_usd for spend in spends) if priced else None,
        batch_usd=_usd(spends, entries, Mode.BATCH) if priced else None,
        concurrent_usd=_usd(spends, entries, Mode.CONCURRENT) if priced else None,
        spends=tuple(spends),
        prices=tuple(
            PriceLine(model, entry.price(Mode.BATCH), entry.price(Mode.CONCURRENT), entry.source, entry.date)
            for model, entry in entries.items()
        ),
    )


def _usd(spends: Sequence[Spend], entries: Mapping[str, ModelEntry], mode: Mode) -> float:
    """What the tokens of the calls cost in one mode."""
    return sum(
        calls.cost_of(
            Usage(spend.input_tokens, spend.cached_tokens, spend.output_tokens), entries[spend.model].price(mode)
        )
        for spend in spends
    )


def _entry(project: Project, job: Job, model: str) -> ModelEntry | None:
    """A model's entry in config.json: the job's own provider's, else that of any other (a judge may have its own)."""
    providers = project.settings.providers
    own = [providers[job.provider]] if job.provider in providers else []
    return next((entry.models[model] for entry in (*own, *providers.values()) if model in entry.models), None)


def _counted(job: Job) -> str:
    """What the times of a job's calls are the times of."""
    return "answer" if job.rules.judge is None and job.rules.rows_per_request == 1 else "call"


def pace_of(times: array[float], begun: float, of: str = "answer") -> Pace | None:
    """When the answers came; None without any.

    Args:
        times: unix seconds, in any order.
        begun: unix seconds.
        of: what they are the times of.
    """
    if not times:
        return None
    import numpy as np

    seconds = np.sort(np.frombuffer(times, dtype=np.float64)) - begun
    np.maximum(seconds, 0.0, out=seconds)
    last = max(float(seconds[-1]), 1.0)
    counts, edges = np.histogram(seconds, bins=SPANS, range=(0.0, last))
    half, most = (float(seconds[int((len(seconds) - 1) * part)]) for part in (0.5, 0.9))
    return Pace(tuple(edges.tolist()), tuple(counts.tolist()), half, most, float(seconds[-1]), of)


def _pool(project: Project, job: Job, *, known: bool) -> tuple[tuple[str, str], ...]:
    """The pool's figures of a job of single calls.

    Args:
        project: the project.
        job: the job.
        known: how long all its calls took is told elsewhere; the pool only knows it of the last ones.
    """
    figures = (read_figures(project, job.task_id) if job.mode is Mode.CONCURRENT else None) or {}
    told = {name: words for name, words in _POOL.items() if not (known and name in _POOL_TIMES)}
    return tuple((words, f"{figures[name]:,}") for name, words in told.items() if figures.get(name))


def _way(connection: Connection, job: Job, of_job: list[Shard], begun: float, pool: tuple[tuple[str, str], ...]) -> Way:
    assert job.plan is not None
    sent = [shard for shard in of_job if not shard.split]
    return Way(
        rounds=tuple(_rounds(sent, statistics.ended_in_rounds(connection, job.task_id))),
        batches=tuple(_line(shard, begun) for shard in sent[:SHOWN_BATCHES]),
        batches_in_all=len(sent),
        waves=int(job.plan.get("waves", 1)),
        attempts=tuple(statistics.attempts(connection, job.task_id)),
        pool=pool,
    )


def _rounds(sent: Sequence[Shard], ended: Mapping[int, tuple[int, int]]) -> Iterator[RoundLine]:
    """Each round in which something was sent or ended; `ended` as answered and failed items by round."""
    for number in sorted({*(shard.round for shard in sent), *ended}):
        requests = [shard.requests for shard in sent if shard.round == number]
        yield RoundLine(number, len(requests), sum(requests), *ended.get(number, (0, 0)))


def _spend(model: str, kind: str, *figures: Any) -> Spend:
    return Spend(model, _ASKS[AskKind(kind)], *figures)


_ASKS = {AskKind.ANSWER: "answers", AskKind.BUNDLE: "answers together", AskKind.JUDGE: "verdicts"}


def _line(shard: Shard, begun: float) -> ShardLine:
    return ShardLine(
        round=shard.round,
        shard=shard.shard,
        asks=_ASKS[shard.kind],
        requests=shard.requests,
        tokens=shard.tokens,
        state=(shard.provider_state or shard.state.value).replace("_", " "),
        batch_id=shard.batch_id,
        sent=None if shard.submitted_at is None else max(shard.submitted_at - begun, 0.0),
        ended=None if shard.ended_at is None else max(shard.ended_at - begun, 0.0),
    )


def _cuts(rows: Rows, spends: Sequence[Spend]) -> Cuts:
    cut_off = Outcome.TRUNCATED.value
    ended = sum(ended.rows for ended in rows.ended() if ended.outcome == cut_off)
    paid = sum(spend.calls for spend in spends if spend.outcome == cut_off)
    return Cuts(rows.cut_rows, rows.cut_chars, rows.cut_most, paid, ended)


def _judged(connection: Connection, task_id: str) -> Judged | None:
    if not statistics.has_drafts(connection, task_id):
        return None
    scores, mean = statistics.scores(connection, task_id)
    verdicts = tuple(statistics.verdicts(connection, task_id))
    return Judged(verdicts, tuple(scores), mean, tuple(statistics.repairs(connection, task_id)))
