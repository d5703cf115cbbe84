"""Jobs in the ledger: one row a BatchJob, changed only by legal moves of its phase."""

from __future__ import annotations

import re
import time
from dataclasses import asdict, dataclass, field
from typing import Any

from sqlalchemy import Connection, delete, func, insert, select, update

from batch_jobs.errors import JobNotFound, WrongMoment
from batch_jobs.models import PHASE_MOVES, AnswerRules, EventName, JobOutcome, Judge, Mode, Parameters, Phase, Status
from batch_jobs.storage import events, schema
from batch_jobs.storage.workspace import checked_id
from batch_jobs.table import TableFormat

TASK_ID_PREFIX = re.compile(r"[a-f0-9]{6,32}")


@dataclass(frozen=True, slots=True)
class Job:
    """One upload of one file for one task and data case. Times are unix seconds.

    Attributes:
        mode: batch or concurrent; auto only until the plan has decided.
        account: which account pays: dialect, base URL and a hash of the key; `sandbox` for a rehearsal.
        output_columns: field of the answer -> name of the column in the output file.
        source_path: where a CLI user's file lies, so that the output can go beside it.
        round_base: the round the job was last resumed in; `rounds.max` counts from there.
        resumed_at: when it was last resumed; `rounds.max_hours` counts from there.
        plan: the figures of the plan, once made.
        autostart: goes on to sending without being asked (the API; `--yes`).
        delivered: where the output file was put, each with its sha256.
        rules: how its items come to their answers.
    """

    task_id: str
    task: str
    data_case: str
    provider: str
    dialect: str
    endpoint: str | None
    model: str
    parameters: Parameters
    mode: Mode
    account: str
    simulated: bool
    file_name: str
    file_sha256: str
    suffix: str
    format: TableFormat
    columns: tuple[str, ...]
    output_columns: dict[str, str]
    rows: int
    created_at: float
    source_path: str | None = None
    phase: Phase = Phase.RECEIVED
    outcome: JobOutcome | None = None
    message: str | None = None
    round: int = 0
    round_base: int = 0
    plan: dict[str, Any] | None = None
    autostart: bool = False
    prompt_sha256: str | None = None
    schema_sha256: str | None = None
    delivered: dict[str, str] = field(default_factory=dict)
    started_at: float | None = None
    updated_at: float = 0.0
    done_at: float | None = None
    resumed_at: float | None = None
    rules: AnswerRules = field(default_factory=AnswerRules)

    @property
    def status(self) -> Status:
        """All that a user has to know."""
        if self.phase is Phase.DONE:
            return Status.DONE
        return Status.PENDING if self.phase in {Phase.RECEIVED, Phase.PLANNED} else Status.PROCESSING


def lease_name(task_id: str) -> str:
    """The name of the job's lease."""
    return f"job:{task_id}"


def add(connection: Connection, job: Job) -> None:
    """Record a new job."""
    connection.execute(insert(schema.jobs).values(**_to_row(job)))
    events.add(connection, job.task_id, EventName.JOB_RECEIVED, {"rows": job.rows, "file_sha256": job.file_sha256})


def get(connection: Connection, task_id: str) -> Job:
    """One job.

    Raises:
        JobNotFound: there is none with this id.
    """
    row = connection.execute(select(schema.jobs).where(schema.jobs.c.task_id == checked_id(task_id))).one_or_none()
    if row is None:
        raise JobNotFound(f"there is no job {task_id} in this store. See what there is with: batch-jobs jobs")
    return _from_row(row)


def with_prefix(connection: Connection, prefix: str, limit: int = 3) -> list[str]:
    """The task_ids that begin with some hexadecimal characters."""
    if not TASK_ID_PREFIX.fullmatch(prefix):
        return []
    query = select(schema.jobs.c.task_id).where(schema.jobs.c.task_id.startswith(prefix)).limit(limit)
    return list(connection.execute(query).scalars())


def newest(connection: Connection, limit: int, unfinished_only: bool = False) -> list[Job]:
    """The newest jobs, newest first."""
    query = select(schema.jobs).order_by(schema.jobs.c.created_at.desc(), schema.jobs.c.task_id).limit(limit)
    if unfinished_only:
        query = query.where(schema.jobs.c.phase != Phase.DONE)
    return [_from_row(row) for row in connection.execute(query)]


def count_open(connection: Connection) -> int:
    """How many jobs are not done."""
    return int(connection.execute(select(func.count()).where(schema.jobs.c.phase != Phase.DONE)).scalar() or 0)


def alike(connection: Connection, **same: Any) -> list[Job]:
    """The jobs whose columns are `same`, newest first."""
    table = schema.jobs
    query = select(table).where(*(table.c[name] == value for name, value in same.items()))
    return [_from_row(row) for row in connection.execute(query.order_by(table.c.created_at.desc()))]


def delivered_to(connection: Connection) -> set[str]:
    """Where any job's output was put, as far as is written down."""
    return {path for paths in connection.execute(select(schema.jobs.c.delivered)).scalars() for path in paths}


def change(connection: Connection, task_id: str, **values: Any) -> None:
    """Set columns of a job, except its phase."""
    assert "phase" not in values
    plain = {name: dict(value) if isinstance(value, dict) else value for name, value in values.items()}
    query = update(schema.jobs).where(schema.jobs.c.task_id == task_id)
    connection.execute(query.values(**plain, updated_at=time.time()))


def move(connection: Connection, job: Job, phase: Phase, **values: Any) -> None:
    """Move a job on, by compare-and-set on the phase it was seen in.

    Raises:
        WrongMoment: the move is not legal, or somebody else moved the job meanwhile.
    """
    if phase not in PHASE_MOVES[job.phase]:
        raise WrongMoment(f"a job that is {job.phase} can't become {phase}")
    table = schema.jobs
    query = update(table).where(table.c.task_id == job.task_id, table.c.phase == job.phase)
    if connection.execute(query.values(phase=phase, updated_at=time.time(), **values)).rowcount != 1:
        raise WrongMoment(f"job {job.task_id} is not {job.phase} any more; look again with: batch-jobs status")


def remove(connection: Connection, task_id: str) -> None:
    """Forget a job that never sent anything, with all its records but its lease."""
    for table in (schema.items, schema.drafts, schema.events, schema.provider_batches, schema.calls, schema.jobs):
        connection.execute(delete(table).where(table.c.task_id == task_id))


def _to_row(job: Job) -> dict[str, Any]:
    values: dict[str, Any] = {name: getattr(job, name) for name in Job.__slots__ if name != "suffix"}
    values["parameters"] = {name: getattr(job.parameters, name) for name in Parameters.__slots__}
    values["format"] = {**job.format.to_json(), "suffix": job.suffix}
    values["columns"] = list(job.columns)
    values["rules"] = asdict(job.rules)
    return values


def _from_row(row: Any) -> Job:
    values = dict(row._mapping)
    written = dict(values["format"])
    values["suffix"] = written.pop("suffix")
    values["format"] = TableFormat.from_json(written)
    values["parameters"] = Parameters(**values["parameters"])
    values["columns"] = tuple(values["columns"])
    values["mode"], values["phase"] = Mode(values["mode"]), Phase(values["phase"])
    values["outcome"] = JobOutcome(values["outcome"]) if values["outcome"] else None
    values["simulated"], values["autostart"] = bool(values["simulated"]), bool(values["autostart"])
    values["rules"] = _rules(values["rules"])
    return Job(**values)


def _rules(written: dict[str, Any] | None) -> AnswerRules:
    """The rules of a job; one of an older version has none."""
    values = dict(written or {})
    if values.get("judge"):
        judge = {**values["judge"], "parameters": Parameters(**values["judge"]["parameters"])}
        values["judge"] = Judge(**judge)
    return AnswerRules(**values)
