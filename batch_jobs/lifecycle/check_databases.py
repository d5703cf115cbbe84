"""Open a root's databases without changing anything, and ask SQLite whether they are whole."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, select, text

from batch_jobs.config import Settings
from batch_jobs.errors import StoreError
from batch_jobs.lifecycle.check_report import RESTORE, Finding, Findings, Kind
from batch_jobs.lifecycle.project import Project
from batch_jobs.storage.call_cache import CallCache
from batch_jobs.storage.database import BUSY_SECONDS, reading
from batch_jobs.storage.ledger import Ledger
from batch_jobs.storage.migrate import HEAD
from batch_jobs.storage.schema import answers
from batch_jobs.storage.workspace import Workspace

REPORTED_LINES = 3


def open_read_only(path: Path) -> Engine:
    """An engine that can't write, and does not make the file; every transaction is one consistent view."""
    address = f"{path.absolute().as_uri()}?mode=ro"
    engine = create_engine(
        URL.create("sqlite", database=str(path)),
        creator=lambda: sqlite3.connect(address, uri=True, timeout=BUSY_SECONDS, check_same_thread=False),
    )

    @event.listens_for(engine, "connect")
    def _prepare(connection: sqlite3.Connection, _record: Any) -> None:
        connection.isolation_level = None  # we say BEGIN ourselves

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN")

    return engine


def read_only_project(settings: Settings, config: Path, workspace: Workspace) -> Project:
    """A project whose ledger and cache can only be read."""
    return Project(
        settings=settings,
        prompt_lib=config.resolve().parent / "prompt_lib",
        workspace=workspace,
        ledger=Ledger(open_read_only(workspace.ledger)),
        cache=CallCache(open_read_only(workspace.call_cache)),
    )


def ledger_is_whole(project: Project, findings: Findings) -> bool:
    """Whether the ledger can be read and has today's schema; if not, why is a finding."""
    path = project.workspace.ledger
    return _is_whole(project.ledger.engine, path, findings) and _has_revision(project.ledger.engine, path, findings)


def cache_is_whole(project: Project, findings: Findings) -> bool:
    """Whether the call cache can be read; if not, why is a finding."""
    path = project.workspace.call_cache
    if not _is_whole(project.cache.engine, path, findings):
        return False
    try:
        with reading(project.cache.engine) as connection:
            connection.execute(select(answers).limit(1)).all()
    except StoreError as error:
        _add(findings, path, f"is no call cache: {error.message}", RESTORE)
        return False
    return True


def _is_whole(engine: Engine, path: Path, findings: Findings) -> bool:
    findings.checked["databases"] += 1
    if not path.exists():
        _add(findings, path, "is not there", RESTORE)
        return False
    try:
        with reading(engine) as connection:
            said = connection.exec_driver_sql("PRAGMA integrity_check").scalars().fetchmany(REPORTED_LINES)
    except StoreError as error:
        said = [error.message]
    if said == ["ok"]:
        return True
    _add(findings, path, f"is damaged: {'; '.join(said)}", RESTORE)
    return False


def _has_revision(engine: Engine, path: Path, findings: Findings) -> bool:
    try:
        with reading(engine) as connection:
            found = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    except StoreError:
        found = None
    if found == HEAD:
        return True
    fix = "an older one is brought up to date by any other command; for a newer one upgrade this installation"
    _add(findings, path, f"has schema revision {found or 'none'}, and this version of batch-jobs needs {HEAD}", fix)
    return False


def _add(findings: Findings, path: Path, problem: str, fix: str) -> None:
    findings.add(Finding(Kind.DATABASE, None, str(path), problem, fix))
