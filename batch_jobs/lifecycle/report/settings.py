"""What a job ran with, and where what it left lies: never a key, only the account as the ledger has it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from batch_jobs.lifecycle.project import Project
from batch_jobs.models import Mode, Parameters
from batch_jobs.output.report_facts import Artefact
from batch_jobs.output.words import when
from batch_jobs.storage.jobs import Job


def settings_of(job: Job) -> tuple[tuple[str, str], ...]:
    """The run's settings as (name, value); what is not known is left out."""
    plan = job.plan or {}
    config = plan.get("config_sha256") or {}
    found = [
        ("task_id", job.task_id),
        ("task", job.task),
        ("data case", job.data_case),
        ("mode", f"{job.mode}: {plan['why']}" if plan.get("why") else job.mode.value),
        ("provider", job.provider),
        ("model", job.model),
        *((name.replace("_", " "), str(value)) for name, value in _parameters(job.parameters)),
        ("endpoint", job.endpoint or ""),
        ("account", job.account),
        ("file", job.file_name),
        ("format", job.format.describe()),
        ("file sha256", job.file_sha256),
        ("prompt sha256", job.prompt_sha256 or ""),
        ("schema sha256", job.schema_sha256 or ""),
        *((f"config sha256, {part}", str(digest)) for part, digest in config.items()),
        ("new columns", ", ".join(job.output_columns.values())),
        ("results in the store", str(plan.get("layout", ""))),
        *_workers(job),
        ("taken in", when(job.created_at)),
        ("started", when(job.started_at)),
        ("done", when(job.done_at)),
    ]
    return tuple((name, value) for name, value in found if value)


def _parameters(parameters: Parameters) -> Iterator[tuple[str, object]]:
    for name in Parameters.__slots__:
        if (value := getattr(parameters, name)) is not None:
            yield name, value


def _workers(job: Job) -> Iterator[tuple[str, str]]:
    """How much was done at once, as it was set when the job was planned."""
    workers = (job.plan or {}).get("workers") or {}
    if "processes" in workers:
        yield "worker processes", f"up to {workers['processes']}"
    if "calls" in workers and job.mode is Mode.CONCURRENT:
        yield "calls at once", f"up to {workers['calls']}"
    if "transfers" in workers and job.mode is Mode.BATCH:
        yield "batches moved at once", f"up to {workers['transfers']}"


def artefacts_of(project: Project, job: Job, folder: Path) -> tuple[Artefact, ...]:
    """The job's files that are there, by their way from a folder."""
    workspace, task_id = project.workspace, job.task_id
    candidates = [
        ("output file", workspace.result(task_id, job.suffix)),
        ("upload, byte for byte", workspace.upload(task_id, job.suffix)),
        ("its rows (Parquet)", workspace.snapshot(task_id)),
        ("prompt as it was", workspace.prompt(task_id, "any").parent),
        ("config as it was", workspace.config(task_id)),
        *_numbered("requests sent, round", workspace.input(task_id)),
        *_numbered("raw results, round", workspace.output(task_id)),
        ("calls sent", workspace.calls_sent(task_id)),
        ("calls received", workspace.calls_received(task_id)),
        ("manifest", workspace.manifest(task_id)),
        ("log", workspace.log(task_id)),
    ]
    start = folder.resolve()
    return tuple(
        Artefact(name, Path(os.path.relpath(path, start)).as_posix() + ("/" if path.is_dir() else ""))
        for name, path in candidates
        if path.exists()
    )


def _numbered(name: str, folder: Path) -> Iterator[tuple[str, Path]]:
    """The folders of the rounds."""
    rounds = sorted(folder.glob("round-*"), key=lambda path: int(path.name.partition("-")[2]))
    return ((f"{name} {number}", path) for number, path in enumerate(rounds, 1))
