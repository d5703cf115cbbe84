"""Check: do ledger, call cache, folders, artefacts and manifests of a root agree? Looks, and changes nothing.

Each job is looked at through one consistent view of the ledger. A job that a process is working on is skipped, and
what was found about a job that moved meanwhile is looked at again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from sqlalchemy import select

from batch_jobs.config import load_settings
from batch_jobs.lifecycle import check_batches, check_plan, check_results
from batch_jobs.lifecycle.check_databases import cache_is_whole, ledger_is_whole, read_only_project
from batch_jobs.lifecycle.check_folders import check_folders
from batch_jobs.lifecycle.check_packed import check_packed
from batch_jobs.lifecycle.check_report import RESTORE_LEDGER, Finding, Findings, Kind, Look, Report, reason_of
from batch_jobs.lifecycle.project import Project, workspace_of
from batch_jobs.storage import jobs, leases, schema
from batch_jobs.storage.jobs import lease_name
from batch_jobs.storage.workspace import TASK_ID_PATTERN, Workspace

TRIES = 3
LEFTOVER_SECONDS = 3600.0
"""A younger folder without a job may belong to an upload that is being taken in right now."""

STEPS: tuple[tuple[Kind, Callable[[Look], None]], ...] = (
    (Kind.CONFIG, check_plan.check_names),
    (Kind.UPLOAD, check_plan.check_input),
    (Kind.PROMPT, check_plan.check_prompt),
    (Kind.PLAN, check_plan.check_plan),
    (Kind.PLAN, check_plan.check_groups),
    (Kind.BODY, check_plan.check_bodies),
    (Kind.ITEM, check_plan.check_paid),
    (Kind.ANSWER, check_plan.check_answers),
    (Kind.SHARD, check_batches.check_shards),
    (Kind.RESULTS, check_batches.check_calls),
    (Kind.OUTPUT, check_results.check_output),
    (Kind.MANIFEST, check_results.check_manifest),
    (Kind.FOLDER, check_folders),
    (Kind.SEGMENT, check_packed),
)


def check_store(config: Path, root: Path | None) -> Report:
    """Look at all that a root holds.

    Args:
        config: config.json.
        root: holds batch_input/, batch_output/ and store/; None for the folder of config.json.

    Raises:
        ConfigError: config.json is missing or wrong.
    """
    settings = load_settings(config)
    workspace = workspace_of(settings, config, root)
    if not workspace.ledger.exists() and not any(_folders(workspace)):
        return Report([], {"jobs": 0}, [])
    project = read_only_project(settings, config, workspace)
    try:
        return _check(project)
    finally:
        project.close()


def _check(project: Project) -> Report:
    whole = Findings()
    answers_there = cache_is_whole(project, whole)
    if not ledger_is_whole(project, whole):
        return Report(whole.all(), {"jobs": 0, **whole.checked}, [])
    found, checked = whole.all(), Counter(whole.checked)
    skipped: list[str] = []
    for task_id in _task_ids(project):
        of_job = _check_job(project, task_id, answers_there)
        if of_job is None:
            skipped.append(task_id)
        else:
            found += of_job.all()
            checked += of_job.checked
            checked["jobs"] += 1
    found += _leftovers(project)
    return Report(found, {"jobs": 0, **checked, "skipped": len(skipped)}, skipped)


def _task_ids(project: Project) -> list[str]:
    with project.ledger.read() as connection:
        table = schema.jobs
        return list(connection.execute(select(table.c.task_id).order_by(table.c.created_at)).scalars())


def _check_job(project: Project, task_id: str, answers_there: bool) -> Findings | None:
    """What was found about a job; None when a process is working on it."""
    for _ in range(TRIES):
        before = _mark(project, task_id)
        if _held(project, task_id):
            return None
        findings = _look(project, task_id, answers_there)
        if not findings or _mark(project, task_id) == before:
            return findings
    return None


def _held(project: Project, task_id: str) -> bool:
    return leases.current_holder(project.ledger.engine, lease_name(task_id), project.clock()) is not None


def _mark(project: Project, task_id: str) -> tuple[Any, ...]:
    """Changes whenever anybody works on the job or says something to it."""
    with project.ledger.read() as connection:
        token = select(schema.leases.c.token).where(schema.leases.c.name == lease_name(task_id))
        at = select(schema.jobs.c.updated_at).where(schema.jobs.c.task_id == task_id)
        return connection.execute(token).scalar(), connection.execute(at).scalar()


def _look(project: Project, task_id: str, answers_there: bool) -> Findings:
    findings = Findings()
    with project.ledger.read() as connection:
        try:
            look = Look(project, connection, jobs.get(connection, task_id), findings, answers_there)
        except Exception as error:  # a damaged record may make any part of reading it fail
            findings.add(_unreadable(project, Kind.JOB, task_id, error))
            return findings
        for kind, step in STEPS:
            try:
                step(look)
            except Exception as error:  # what a step can't get over is a finding, and the others still look
                findings.add(_unreadable(project, kind, task_id, error))
    return findings


def _unreadable(project: Project, kind: Kind, task_id: str, error: Exception) -> Finding:
    problem = f"the job's records can't be read: {type(error).__name__}: {reason_of(error)}"
    return Finding(kind, task_id, str(project.workspace.ledger), problem, RESTORE_LEDGER)


def _leftovers(project: Project) -> Iterable[Finding]:
    """Folders that belong to no job: a discarded plan, an upload that was cut off."""
    old = [path for path in _folders(project.workspace) if project.clock() - path.stat().st_mtime > LEFTOVER_SECONDS]
    known = set(_task_ids(project)) if old else set()
    for path in old:
        if path.name not in known:
            task_id = path.name if TASK_ID_PATTERN.match(path.name) else None
            yield Finding(Kind.LEFTOVER, task_id, str(path), "belongs to no job", "harmless: delete the folder")


def _folders(workspace: Workspace) -> Iterator[Path]:
    """Folders of jobs, and of uploads that were not taken in to their end."""
    for root in (workspace.batch_input, workspace.batch_output):
        for path in sorted(root.iterdir()) if root.is_dir() else ():
            if TASK_ID_PATTERN.match(path.name) or path.name.startswith(".incoming-"):
                yield path
