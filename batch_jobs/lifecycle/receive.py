"""Intake: a file becomes a job, whole or not at all.

Everything that could refuse it is looked at first; then the job's folder appears in one rename and the ledger
row in one commit.
"""

from __future__ import annotations

import difflib
import os
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from batch_jobs import system
from batch_jobs.config import ProviderEntry, nearest, pick
from batch_jobs.config_tasks import DataCase, Task
from batch_jobs.errors import FileRefused
from batch_jobs.intake.recognise import open_table
from batch_jobs.intake.snapshot import write_snapshot
from batch_jobs.lifecycle.documents import Original, as_table
from batch_jobs.lifecycle.grouping import grouping_of, placeholder_columns
from batch_jobs.lifecycle.project import Project
from batch_jobs.lifecycle.rules import check_parameters, rules_of
from batch_jobs.lifecycle.schema_fit import asked_schema, check_schema, task_prompt
from batch_jobs.models import AnswerRules, JobOutcome, Mode, Parameters, Phase
from batch_jobs.render.answers import check_output_columns
from batch_jobs.render.judge_prompt import JudgePrompt
from batch_jobs.render.prompt import Prompt
from batch_jobs.storage import idempotency, jobs
from batch_jobs.storage.files import adopt, copy_file, remove_tree, sha256_of, store_errors
from batch_jobs.storage.idempotency import Claim
from batch_jobs.storage.jobs import Job
from batch_jobs.table import FileKind, IntakeLimits, Table, free_names

WARM_FROM_BYTES = 8_000_000
STATUS_FIELD = ""
"""The key of the status column among a job's output columns; no model field can have this name."""


@dataclass(frozen=True, slots=True)
class Order:
    """What the user asks for. None means the config's default.

    Attributes:
        file: where the upload lies now.
        file_name: the name the user knows it by.
        source_path: where the user's own copy lies, so that the output can go beside it (CLI only).
        autostart: send without asking once planned.
        original: the document that the file was made of (`batch_jobs.lifecycle.documents`).
    """

    file: Path
    file_name: str
    task: str
    data_case: str
    mode: Mode | None = None
    provider: str | None = None
    model: str | None = None
    sheet: str | None = None
    source_path: Path | None = None
    autostart: bool = False
    original: Original | None = None


@dataclass(frozen=True, slots=True)
class _Resolved:
    """An order with every name looked up."""

    task: Task
    data_case: DataCase
    prompt: Prompt
    provider: str
    entry: ProviderEntry
    model: str
    account: str
    mode: Mode
    rules: AnswerRules
    judge: JudgePrompt | None


class Way(NamedTuple):
    """Who answers, by config.json: the provider's name and entry, its model, and the account that pays."""

    provider: str
    entry: ProviderEntry
    model: str
    account: str


def receive(project: Project, order: Order, claim: Claim | None = None) -> Job:
    """Take a file in: check it all, keep it, make the job durable.

    Args:
        project: opened.
        order: what is asked for.
        claim: the client's idempotency key; a request that was taken in under it before gives that job again.

    Raises:
        KeyReused: the claim's key was used for another request.
        UnknownName: no such task, data case, provider or sheet.
        ConfigError: no key, a bad prompt module, parameters that the provider refuses.
        FileRefused: the table can't be taken as it is; nothing was written.
    """
    earlier = _received_before(project, claim) if claim else None
    if earlier is not None:
        return earlier
    with as_table(project, order) as table:
        return _record(project, _keep(project, table), claim)


def _received_before(project: Project, claim: Claim) -> Job | None:
    with project.ledger.read() as connection:
        held = idempotency.find(connection, claim, project.clock())
        if held is None:
            return None
        idempotency.check_same(held, claim)
        return jobs.get(connection, held.task_id)


def _record(project: Project, job: Job, claim: Claim | None) -> Job:
    """Commit the job and its key at once; where another upload with that key was faster, its job is the one."""
    with project.ledger.write() as connection:
        held = idempotency.take(connection, claim, job.task_id, job.created_at) if claim else None
        if claim is None or held is None:
            jobs.add(connection, job)
            return job
        first = jobs.get(connection, held.task_id)
    remove_tree(project.workspace.input(job.task_id))
    remove_tree(project.workspace.output(job.task_id))
    idempotency.check_same(held, claim)
    return first


def _keep(project: Project, order: Order) -> Job:
    """Check the file and put it, with its rows, into the folder of a new job that is not in the ledger yet."""
    resolved = _resolve(project, order)
    table = open_table(order.file, filename=order.file_name, sheet=order.sheet, limits=intake_limits(project))
    check_columns(table, resolved.data_case, order)
    _check_grouping(table, resolved.data_case, order)
    for prompt in (resolved.prompt, resolved.judge):
        if prompt is not None:
            _check_placeholders(table, prompt, resolved.data_case, order)
    if order.file.stat().st_size > WARM_FROM_BYTES:
        project.workers.warm()  # they will render it, and begin while the file is read
    task_id = uuid.uuid4().hex
    workspace = project.workspace
    staging = workspace.batch_input / f".incoming-{task_id}"
    suffix = Path(order.file_name).suffix.lower()
    with store_errors(staging):
        try:
            staging.mkdir(parents=True)
            rows = write_snapshot(table, staging / "rows.tmp", order.file_name)
            adopt(staging / "rows.tmp", staging / "rows.parquet")
            system.give_memory_back()
            digest = copy_file(order.file, staging / f"upload{suffix}")
            if order.original is not None:
                copy_file(order.original.file, staging / f"original{Path(order.original.file_name).suffix.lower()}")
            job = _job(project, order, resolved, table, task_id=task_id, suffix=suffix, rows=rows, digest=digest)
            workspace.output(task_id).mkdir(parents=True)
            os.rename(staging, workspace.input(task_id))
            system.sync_folder(workspace.batch_input)
        except BaseException:
            remove_tree(staging)
            remove_tree(workspace.output(task_id))
            raise
    return job


def find_open(project: Project, order: Order) -> Job | None:
    """The newest job for the same file, sheet, task, data case, provider and model that is not at its end, or None.

    One that is done is at its end when its file was handed over; a process that died just before left that to us.
    """
    resolved = _resolve(project, order)
    if not order.file.is_file():
        raise FileRefused("there is no such file", file=str(order.file), fix="Check the path")
    with project.ledger.read() as connection:
        found = jobs.alike(
            connection,
            file_sha256=sha256_of(order.file),
            task=order.task,
            data_case=order.data_case,
            provider=resolved.provider,
            model=resolved.model,
            simulated=int(project.simulated),
        )
    candidates = [job for job in found if order.sheet in (None, job.format.sheet)]
    unfinished = next((job for job in candidates if job.phase is not Phase.DONE), None)
    return unfinished or next((job for job in candidates[:1] if _awaits_delivery(job, order)), None)


def _awaits_delivery(job: Job, order: Order) -> bool:
    """Whether a done job's file was never put where its user wants it."""
    wanted = job.outcome is not JobOutcome.CANCELLED and job.source_path == str(order.source_path)
    return wanted and not job.delivered


def _resolve(project: Project, order: Order) -> _Resolved:
    settings = project.settings
    task = pick("task", order.task, settings.tasks)
    data_case = pick("data case", order.data_case, task.data_cases, f'task "{order.task}"')
    way = way_to_model(project, order.provider, order.model)
    prompt = task_prompt(project, order.task, order.data_case, order.file_name)
    check_output_columns(order.task, task.output_columns, prompt.output)
    rules, judge = rules_of(project, order.task, prompt, way.provider, way.model)
    check_schema(way.provider, way.entry.dialect, asked_schema(prompt.output.schema, rules.rows_per_request))
    return _Resolved(task, data_case, prompt, *way, order.mode or settings.defaults.mode, rules, judge)


def way_to_model(project: Project, provider: str | None, model: str | None) -> Way:
    """Look up a provider and a model of it; None for the config's default.

    Raises:
        UnknownName: there is no such provider or model.
        ConfigError: no key, or parameters that the model refuses.
    """
    name = provider or project.settings.defaults.provider
    entry = project.entry(name)
    models = {known: known for known in (entry.model, *entry.models)}
    chosen = pick("model", model, models, f'provider "{name}"') if model else entry.model
    account = project.account(name, simulated=project.simulated)
    check_parameters(name, entry, chosen, project.endpoint(name))
    return Way(name, entry, chosen, account)


def intake_limits(project: Project) -> IntakeLimits:
    """What a table may hold at most."""
    intake = project.settings.intake.model_dump()
    return IntakeLimits(**{name: intake[name] for name in IntakeLimits.__slots__})


def check_columns(table: Table, data_case: DataCase, order: Order) -> None:
    """Check that a table has the columns that its data case needs.

    Raises:
        FileRefused: it lacks some; names them, and near ones.
    """
    named = data_case.mandatory_columns, data_case.identity_columns, data_case.context.include
    wanted = dict.fromkeys(chain.from_iterable(named))
    missing = [name for name in wanted if name not in table.columns]
    if not missing:
        return
    listed = "; ".join(f'"{name}"{_near(name, table.columns)}' for name in missing)
    raise FileRefused(
        f"mandatory column{'s are' if len(missing) > 1 else ' is'} missing: {listed}",
        file=order.file_name,
        rows=_header_rows(table),
        fix=f'Data case "{order.data_case}" needs {", ".join(wanted)}; the file has {", ".join(table.columns[:20])}',
    )


def _check_grouping(table: Table, data_case: DataCase, order: Order) -> None:
    missing = [name for name in data_case.grouping.columns if name not in table.columns]
    if missing and grouping_of(data_case.grouping) is not None:
        listed = "; ".join(f'"{name}"{_near(name, table.columns)}' for name in missing)
        key = f"tasks.{order.task}.data_cases.{order.data_case}.grouping.columns"
        raise FileRefused(
            f"the rows are to be grouped by what is no column: {listed}",
            file=order.file_name,
            rows=(1,),
            fix=f"Correct {key}, or add the column; the file has {', '.join(table.columns[:20])}",
        )


def _check_placeholders(table: Table, prompt: Prompt | JudgePrompt, data_case: DataCase, order: Order) -> None:
    missing = [name for name in placeholder_columns(prompt, data_case.grouping) if name not in table.columns]
    if missing:
        listed = "; ".join(f"{{{name}}}{_near(name, table.columns)}" for name in missing)
        raise FileRefused(
            f"the prompt names what is no column: {listed}",
            file=order.file_name,
            rows=_header_rows(table),
            fix=f"Correct {prompt.path.name}, or add the column; the file has {', '.join(table.columns[:20])}",
        )


def _header_rows(table: Table) -> tuple[int, ...]:
    return (1,) if table.format.kind in {FileKind.TEXT, FileKind.XLSX} else ()


def _near(name: str, columns: Iterable[str]) -> str:
    """`; did you mean "x"?`, also for other case and spacing."""
    plain = {"".join(filter(str.isalnum, column)).lower(): column for column in columns}
    close = difflib.get_close_matches("".join(filter(str.isalnum, name)).lower(), plain, n=1, cutoff=0.7)
    return f' (did you mean "{plain[close[0]]}"?)' if close else nearest(name, columns)


def _job(
    project: Project,
    order: Order,
    resolved: _Resolved,
    table: Table,
    *,
    task_id: str,
    suffix: str,
    rows: int,
    digest: str,
) -> Job:
    now = project.clock()
    return Job(
        task_id=task_id,
        task=order.task,
        data_case=order.data_case,
        provider=resolved.provider,
        dialect=resolved.entry.dialect,
        endpoint=project.endpoint(resolved.provider),
        model=resolved.model,
        parameters=Parameters(**resolved.entry.parameters.model_dump()),
        mode=resolved.mode,
        account=resolved.account,
        simulated=project.simulated,
        file_name=order.file_name,
        file_sha256=digest,
        suffix=suffix,
        format=table.format,
        columns=table.columns,
        output_columns=_output_columns(resolved.task, table.columns, order.task),
        rows=rows,
        source_path=str(order.source_path) if order.source_path else None,
        autostart=order.autostart,
        created_at=now,
        updated_at=now,
        rules=resolved.rules,
    )


def _output_columns(task: Task, columns: tuple[str, ...], task_name: str) -> dict[str, str]:
    """Field -> column name, plus the status column under the empty field; never a name that the file has already."""
    wanted = {**task.output_columns, STATUS_FIELD: f"{task_name}_status"}
    return dict(zip(wanted, free_names(wanted.values(), columns), strict=True))
