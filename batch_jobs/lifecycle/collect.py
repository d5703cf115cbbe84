"""Poll and fetch: ask how a provider's batch stands, and once it has ended bring its raw results onto our disk."""

from __future__ import annotations

from batch_jobs.lifecycle.admission import back_to_rendered
from batch_jobs.lifecycle.run import Run
from batch_jobs.lifecycle.submit import cancel_doubles
from batch_jobs.models import BatchProblem, BatchState, BatchView, EventName, ShardState
from batch_jobs.storage import events, shards
from batch_jobs.storage.jobs import Job
from batch_jobs.storage.shards import Shard
from batch_jobs.storage.workspace import Workspace
from batch_jobs.system import require_durable
from providers.codes import QUEUE_CODES


def poll_shard(run: Run, job: Job, shard: Shard) -> Shard:
    """Ask for a submitted shard's batch; ended in any way, it moves to `ended`; without room, back to `rendered`.

    Raises:
        ProviderError: no answer; the shard stays as it is.
    """
    assert shard.batch_id is not None
    if shard.was_unknown:
        cancel_doubles(run, job, shard)
    view = run.project.provider(job).check(shard.batch_id)
    full = _queue_problem(view)
    if full is not None:
        return back_to_rendered(run, job, shard, full.code, full.message)
    values = {
        "batch_state": view.state,
        "provider_state": view.provider_state,
        "finished": min(view.counts.finished, shard.requests),
        "problems": [{"code": p.code, "message": p.message, "line": p.line} for p in view.problems] or None,
    }
    with run.write() as connection:
        if not view.state.terminal:
            return shards.change(connection, shard, **values)
        shard = shards.move(connection, shard, ShardState.ENDED, ended_at=run.project.clock(), **values)
        events.add(connection, job.task_id, EventName.SHARD_ENDED, _seen(shard, view))
    return shard


def _queue_problem(view: BatchView) -> BatchProblem | None:
    """Why a batch failed that found no room in the queue and executed nothing (OpenAI says so only after the create).

    Gemini has one word for all that is used up.
    """
    if view.state is not BatchState.FAILED or view.counts.succeeded:
        return None
    return next((problem for problem in view.problems if problem.code in QUEUE_CODES | {"RESOURCE_EXHAUSTED"}), None)


def fetch_shard(run: Run, job: Job, shard: Shard) -> Shard:
    """Download every raw result file of an ended batch; files that are there already are fetched anew, whole.

    Raises:
        ProviderError: the download failed or was cut short; the shard stays as it is.
    """
    assert shard.batch_id is not None
    require_durable()  # another shard's download may have failed to sync meanwhile
    folder = run.project.workspace.raw_results(job.task_id, shard.round, shard.shard)
    folder.mkdir(parents=True, exist_ok=True)
    files = run.project.provider(job).fetch(shard.batch_id, folder)
    with run.write() as connection:
        sizes = {path.name: path.stat().st_size for path in files}
        shard = shards.move(connection, shard, ShardState.FETCHED, results=sizes)
        data = {"shard_key": shard.shard_key, "files": [path.name for path in files]}
        events.add(connection, job.task_id, EventName.SHARD_FETCHED, data)
    return shard


def still_fetched(run: Run, job: Job, shard: Shard) -> Shard:
    """A fetched shard, ready to be merged; back to `ended`, to be fetched again, where files of it are gone or cut off.

    Merged without them, their paid answers would count as missing, and be asked for again.
    """
    gone = _gone(run.project.workspace, shard)
    if not gone:
        return shard
    with run.write() as connection:
        shard = shards.move(connection, shard, ShardState.ENDED, results=None)
        events.add(connection, job.task_id, EventName.RESULTS_GONE, {"shard_key": shard.shard_key, "files": gone})
    return shard


def _gone(workspace: Workspace, shard: Shard) -> list[str]:
    """Names of a shard's raw result files that are not there as they were fetched."""
    folder = workspace.raw_results(shard.task_id, shard.round, shard.shard)
    sizes = (shard.results or {}).items()
    return [name for name, size in sizes if not (folder / name).is_file() or (folder / name).stat().st_size != size]


def _seen(shard: Shard, view: BatchView) -> dict[str, object]:
    counts = {"total": view.counts.total, "succeeded": view.counts.succeeded, "failed": view.counts.failed}
    problems = [problem.code for problem in view.problems]
    return {"shard_key": shard.shard_key, "state": view.provider_state, "counts": counts, "problems": problems}
