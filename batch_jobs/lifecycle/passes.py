"""One pass over a round's shards: each is taken as far as it goes now, several at once; merging stays one at a time.

Shards that are under way come first: what has ended makes room in the provider's queue for those that wait.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from batch_jobs.errors import ProviderError, RequestRejected
from batch_jobs.lifecycle.admission import NotNow, room_for_round
from batch_jobs.lifecycle.collect import fetch_shard, poll_shard, still_fetched
from batch_jobs.lifecycle.control import pause, pause_on_mass_error
from batch_jobs.lifecycle.eta import round_eta
from batch_jobs.lifecycle.merge import merge_shard, reject_shard
from batch_jobs.lifecycle.policy import Pace, poll_seconds
from batch_jobs.lifecycle.run import Progress, Run
from batch_jobs.lifecycle.sides import side_of
from batch_jobs.lifecycle.submit import mark_unknown, reconcile, submit_shard
from batch_jobs.lifecycle.transfers import side_by_side
from batch_jobs.models import EventName, Phase, ShardState
from batch_jobs.storage import events, jobs, shards
from batch_jobs.storage.jobs import Job
from batch_jobs.storage.shards import Shard


@dataclass(frozen=True, slots=True)
class Reached:
    """How far a shard came beside the others.

    Attributes:
        seconds: it has to wait so long; None when it can go on, is merged, or its results are there to be merged.
        error: why it came no further.
        for_room: it waits until another batch ends.
    """

    shard: Shard
    seconds: float | None = None
    error: ProviderError | None = None
    for_room: bool = False

    @property
    def held_up(self) -> bool:
        """Whether it has to wait, or came no further."""
        return self.seconds is not None or self.error is not None


def pass_over(run: Run, job: Job) -> float | None:
    """Take every shard of the round as far as it goes now; one shard's failure does not stop the others.

    Returns:
        Seconds until the next look; None when every shard is merged.
    """
    under_way, todo = _to_carry(run, job)
    waits: dict[str, float | None] = {}
    came = _side_by_side(run, job, under_way, waits)
    todo += [reached.shard for reached in came if reached.for_room]
    while todo:
        came = _side_by_side(run, job, sorted(todo, key=lambda shard: shard.shard), waits)
        made_room = any(not reached.held_up for reached in came)
        todo = [reached.shard for reached in came if reached.for_room and made_room]
    return min((seconds for seconds in waits.values() if seconds is not None), default=None)


def _to_carry(run: Run, job: Job) -> tuple[list[Shard], list[Shard]]:
    """The round's shards that are not merged: those that are under way, and those that are to be sent."""
    with run.project.ledger.read() as connection:
        of_round = [s for s in shards.of_job(connection, job.task_id, job.round) if s.state is not ShardState.MERGED]
    under_way = [shard for shard in of_round if shard.state is not ShardState.RENDERED]
    return under_way, [shard for shard in of_round if shard.state is ShardState.RENDERED]


def _side_by_side(run: Run, job: Job, todo: list[Shard], waits: dict[str, float | None]) -> list[Reached]:
    came: list[Reached] = []

    def follow_up(reached: Reached) -> None:
        waits[reached.shard.shard_key] = _settled(run, job, reached)
        came.append(reached)
        show_waiting(run, job)

    side_by_side(todo, partial(_carry, run, job), follow_up, run.project.settings.submission.parallel_transfers)
    return came


def _carry(run: Run, job: Job, shard: Shard, halt: threading.Event) -> Reached:
    """Take one shard along until its results are there, it is merged, or it has to wait."""
    if run.stop.is_set() or not goes_on(run, job):
        return Reached(shard, 0.0)
    reached = Reached(still_fetched(run, job, shard) if shard.state is ShardState.FETCHED else shard)
    while not reached.held_up and reached.shard.state not in {ShardState.FETCHED, ShardState.MERGED}:
        reached = Reached(reached.shard, 0.0) if halt.is_set() else _step(run, job, reached.shard)
    return reached


def _step(run: Run, job: Job, shard: Shard) -> Reached:
    """Take one shard a step further."""
    try:
        moved = _SHARD_STEPS[shard.state](run, side_of(job, shard.kind), shard)
    except NotNow as wait:
        for_room = wait.seconds is None
        return Reached(shard, _pace(run, shard) if for_room else wait.seconds, for_room=for_room)
    except ProviderError as error:
        return Reached(_as_it_is(run, shard), error=error)
    stays = moved.state in {shard.state, ShardState.UNKNOWN}
    return Reached(moved, _pace(run, moved) if stays else None)


def _as_it_is(run: Run, shard: Shard) -> Shard:
    with run.project.ledger.read() as connection:
        return shards.get(connection, shard)


def _settled(run: Run, job: Job, reached: Reached) -> float | None:
    """What is done for one shard at a time: merging, and what a provider's failure asks for; how long it waits then."""
    if reached.error is not None:
        return _provider_failed(run, job, reached.shard, reached.error)
    if reached.seconds is not None or reached.shard.state is ShardState.MERGED:
        return reached.seconds
    _SHARD_STEPS[ShardState.FETCHED](run, job, reached.shard)
    return None


def _provider_failed(run: Run, job: Job, shard: Shard, error: ProviderError) -> float | None:
    """A provider that did not do what was asked: come again later, pause, or (a rejected shard) end its items."""
    if error.operator:
        raise error
    if isinstance(error, RequestRejected):
        gone = job.phase is Phase.CANCELLING and shard.state in {ShardState.SUBMITTED, ShardState.ENDED}
        if shard.state is ShardState.RENDERED or gone:
            reject_shard(run, job, shard, error)
            return None
        pause(run, job, f"{error.message} (batch {shard.batch_id})")
        return _pace(run, shard)
    run.notify(Progress(job.task_id, "trouble", 0, 0, error.message))
    data = {"shard_key": shard.shard_key, "why": error.message, "code": error.code}
    with run.write() as connection:
        events.add(connection, job.task_id, EventName.PROVIDER_FAILED, data)
    return max(_pace(run, shard), error.retry_after_seconds or 0.0)


def goes_on(run: Run, job: Job) -> bool:
    """Whether the job is still in the phase it was seen in: nobody paused or cancelled it meanwhile."""
    with run.project.ledger.read() as connection:
        return jobs.get(connection, job.task_id).phase is job.phase


def _render_to_submit(run: Run, job: Job, shard: Shard) -> Shard:
    if job.phase is Phase.CANCELLING:
        return _drop(run, shard)
    return submit_shard(run, job, shard)


def _drop(run: Run, shard: Shard) -> Shard:
    """A shard of a cancelled job that was never sent: nothing to fetch."""
    with run.write() as connection:
        return shards.move(connection, shard, ShardState.MERGED, merged_at=run.project.clock())


def _found_submitting(run: Run, job: Job, shard: Shard) -> Shard:
    """A holder before us died between its intent and the provider's answer."""
    return mark_unknown(run, job, shard, "a process died while it was submitting")


def _merge(run: Run, job: Job, shard: Shard) -> Shard:
    tally = merge_shard(run, job, shard)
    if tally.paused_by:
        pause(run, job, tally.paused_by)
    elif job.phase is Phase.RUNNING:
        pause_on_mass_error(run, job)
    return _as_it_is(run, shard)


def _pace(run: Run, shard: Shard) -> float:
    since = shard.submitted_at or shard.unknown_at or shard.rendered_at
    age = max(run.project.clock() - since, 0.0)
    wait = poll_seconds(age, poll_pace(run), random.random())
    if shard.state is ShardState.UNKNOWN and shard.unknown_at is not None:
        ends = shard.unknown_at + run.project.settings.submission.quarantine_seconds - run.project.clock()
        return max(min(wait, ends), 0.05) if ends > 0 else wait
    return wait


def poll_pace(run: Run) -> Pace:
    """The bounds of the poll interval."""
    polling = run.project.settings.polling
    return Pace(polling.min_seconds, polling.max_seconds)


def show_waiting(run: Run, job: Job) -> None:
    """Tell whoever watches how the round's batches stand, by the provider's counts, and which wait for room."""
    with run.project.ledger.read() as connection:
        of_round = [shard for shard in shards.of_job(connection, job.task_id, job.round) if not shard.split]
        typical = shards.typical_seconds(connection, job.provider, job.model, simulated=job.simulated)
        room = room_for_round(run.project, connection, job, of_round)
    total = sum(shard.requests for shard in of_round)
    done = sum(shard.requests if shard.ended_at else shard.finished for shard in of_round)
    states = [shard.provider_state or shard.state.value for shard in of_round if shard.state is not ShardState.MERGED]
    detail = (states[0] if states else "merged") + (f"; {room.words()}" if room is not None else "")
    eta = round_eta(of_round, typical, run.project.clock())
    run.notify(Progress(job.task_id, "waiting", done, total, detail, eta))


_SHARD_STEPS: dict[ShardState, Callable[[Run, Job, Shard], Shard]] = {
    ShardState.RENDERED: _render_to_submit,
    ShardState.SUBMITTING: _found_submitting,
    ShardState.UNKNOWN: reconcile,
    ShardState.SUBMITTED: poll_shard,
    ShardState.ENDED: fetch_shard,
    ShardState.FETCHED: _merge,
}
