"""What `check-store` found: findings with place and remedy, bounded in number, and what was looked at."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path

from sqlalchemy import Connection

from batch_jobs.errors import StoreError
from batch_jobs.lifecycle.project import Project
from batch_jobs.models import Phase
from batch_jobs.storage.jobs import Job

NAMED_AT_MOST = 10
REASON_CHARS = 200

RESTORE = "restore it from your backup (docs/backup.md)"
RESTORE_LEDGER = "restore store/ledger.sqlite from your backup (docs/backup.md)"
REBUILD = "make the folders anew: batch-jobs rebuild-store"


class Kind(StrEnum):
    """What does not agree."""

    DATABASE = "database"  # a SQLite file is missing, damaged or of another schema
    CONFIG = "config"  # config.json does not know a name that a job uses
    JOB = "job"  # the job's own record contradicts itself
    UPLOAD = "upload"
    SNAPSHOT = "snapshot"
    PROMPT = "prompt"  # the prompt module that was kept with the job
    PLAN = "plan"  # rows.parquet, items.parquet, groups.parquet
    BODY = "body"  # rendered requests that are still to be sent
    ITEM = "item"  # an item's record in the ledger
    ANSWER = "answer"  # an answer that was counted is not in the call cache
    SHARD = "shard"  # a shard's file or its record
    RESULTS = "results"  # what came back from the provider
    OUTPUT = "output"
    MANIFEST = "manifest"
    FOLDER = "folder"  # a file of the folder store
    SEGMENT = "segment"  # the packed results of a job
    LEFTOVER = "leftover"  # harmless: belongs to no job


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that does not agree, where, and what to do.

    Attributes:
        task_id: the job, None where it concerns the whole root.
        place: a path, with the item where there is one.
        fix: the command or deed that mends it.
    """

    kind: Kind
    task_id: str | None
    place: str
    problem: str
    fix: str


class Findings:
    """Collects findings; of each kind and job the first ten are named and the others counted."""

    def __init__(self) -> None:
        self._named: list[Finding] = []
        self._found: Counter[tuple[Kind, str | None]] = Counter()
        self.checked: Counter[str] = Counter()

    def __bool__(self) -> bool:
        return bool(self._named)

    def add(self, finding: Finding) -> None:
        """Note a finding."""
        self._found[finding.kind, finding.task_id] += 1
        if self._found[finding.kind, finding.task_id] <= NAMED_AT_MOST:
            self._named.append(finding)

    def all(self) -> list[Finding]:
        """The named findings, and one more for each kind and job of which there are others."""
        rest: list[Finding] = []
        for (kind, task_id), count in self._found.items():
            if count > NAMED_AT_MOST:
                last = next(f for f in reversed(self._named) if (f.kind, f.task_id) == (kind, task_id))
                problem = f"and {count - NAMED_AT_MOST:,} more of this kind"
                rest.append(Finding(kind, task_id, "further places", problem, last.fix))
        return [*self._named, *rest]


@dataclass(frozen=True, slots=True)
class Report:
    """How a root stands.

    Attributes:
        checked: how many of what was looked at.
        skipped: jobs that a process was working on.
    """

    findings: list[Finding]
    checked: dict[str, int]
    skipped: list[str]

    @property
    def agrees(self) -> bool:
        """Nothing to mend; leftovers are harmless."""
        return all(finding.kind is Kind.LEFTOVER for finding in self.findings)

    def as_json(self) -> dict[str, object]:
        """The object of `--json`."""
        return {"findings": [asdict(finding) for finding in self.findings], "checked": self.checked}


@dataclass(frozen=True, slots=True)
class Look:
    """One job, looked at through one consistent view of the ledger.

    Attributes:
        connection: the view.
        answers_there: the call cache can be read.
    """

    project: Project
    connection: Connection
    job: Job
    findings: Findings
    answers_there: bool

    @property
    def planned(self) -> bool:
        """Whether the job's items are known; a job that was cancelled before has a result but no plan."""
        return "items" in (self.job.plan or {})

    @property
    def done(self) -> bool:
        """Whether the job has ended."""
        return self.job.phase is Phase.DONE

    def add(self, kind: Kind, place: Path | str, problem: str, fix: str = RESTORE) -> None:
        """Note a finding of this job."""
        self.findings.add(Finding(kind, self.job.task_id, str(place), problem, fix))

    def ledger(self, item: int | None = None) -> str:
        """The ledger as a place, with an item."""
        path = str(self.project.workspace.ledger)
        return path if item is None else f"{path}, item {item}"

    @contextlib.contextmanager
    def reading(self, kind: Kind, path: Path, fix: str = RESTORE) -> Iterator[None]:
        """Whatever a damaged file makes its reader raise is a finding; what concerns a database is raised."""
        try:
            yield
        except StoreError:
            raise
        except Exception as error:  # pyarrow, duckdb, zip and XML readers each have their own
            self.add(kind, path, f"can't be read: {reason_of(error)}", fix)

    def there(self, kind: Kind, path: Path, fix: str = RESTORE) -> bool:
        """Whether a file or folder is there; if not, that is a finding."""
        self.findings.checked["files"] += 1
        if not path.exists():
            self.add(kind, path, "is not there", fix)
            return False
        return True


def reason_of(error: Exception) -> str:
    """The first line of an error."""
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:REASON_CHARS]
