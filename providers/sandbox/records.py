"""The sandbox's files and batches as frozen values, and what a batch was told at its creation.

A batch's plan holds all that decides its life, so that its state follows from the clock alone.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cache
from typing import TYPE_CHECKING, ClassVar, cast

import orjson

from batch_jobs.models import BatchProblem, Dialect

from .behaviour import Fault
from .question import ACCEPTING, Judging
from .wire import Body

if TYPE_CHECKING:
    from pydantic import ConfigDict, TypeAdapter


class End(StrEnum):
    """How a batch that nobody cancels will end."""

    COMPLETED = "completed"
    FAILED = "failed"  # nothing is executed
    EXPIRED = "expired"  # a share is executed
    CANCELLED = "cancelled"  # a share is executed, then someone else stops it


@dataclass(frozen=True, slots=True)
class BatchPlan:
    """What the behaviour said when the batch was created.

    Attributes:
        seconds: from creation to the end.
        shuffle: results come in another order.
        reverse: results come in the reverse order.
        end: how it ends.
        done_share: of the items that are executed before it expires or is stopped.
        problems: why it fails.
        unknown_until: shows an undocumented state until then (seconds from creation).
        counts_lie: shows wrong counts.
        total_lies: shows a wrong size too.
        no_files: ends without any result file.
        empty_ids: shows an absent result file as "".
        long_file_id: its output file has an id that is too long to be deleted.
        item_faults: for its items.
        tokens: what it weighs in its queue, where queues are limited.
        judging: how verdicts fall.
    """

    __pydantic_config__: ClassVar[ConfigDict] = {"extra": "forbid"}

    seconds: float
    shuffle: bool = True
    reverse: bool = False
    end: End = End.COMPLETED
    done_share: float = 1.0
    problems: tuple[BatchProblem, ...] = ()
    unknown_until: float = 0.0
    counts_lie: bool = False
    total_lies: bool = False
    no_files: bool = False
    empty_ids: bool = False
    long_file_id: bool = False
    item_faults: tuple[Fault, ...] = ()
    tokens: int = 0
    judging: Judging = ACCEPTING

    @classmethod
    def from_json(cls, text: bytes) -> BatchPlan:
        """Read what `to_json` wrote."""
        return _adapter().validate_json(text)

    def to_json(self) -> bytes:
        """Write it for the database."""
        return orjson.dumps(self)


@cache
def _adapter() -> TypeAdapter[BatchPlan]:
    from pydantic import TypeAdapter

    return TypeAdapter(BatchPlan)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a settled batch; zeros and empty before."""

    succeeded: int = 0
    errored: int = 0
    cancelled: int = 0
    expired: int = 0
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    output_file: str = ""
    error_file: str = ""
    ended_at: float = 0.0


@dataclass(frozen=True, slots=True)
class BatchRow:
    """One batch as it is stored; `spec` is what the client said about it."""

    batch_id: str
    dialect: Dialect
    owner: str
    created_at: float
    model: str
    total: int
    input_path: str
    plan: BatchPlan
    endpoint: str = ""
    listed_at: float = 0.0
    spec: Body = field(default_factory=dict)
    cancelled_at: float | None = None
    settled: bool = False
    outcome: Outcome = Outcome()
    seq: int = 0

    @classmethod
    def of(cls, row: sqlite3.Row) -> BatchRow:
        """Read a row of the table."""
        return cls(
            batch_id=row["batch_id"],
            dialect=Dialect(row["dialect"]),
            owner=row["owner"],
            created_at=row["created_at"],
            model=row["model"],
            total=row["total"],
            input_path=row["input_path"],
            plan=BatchPlan.from_json(row["plan"]),
            endpoint=row["endpoint"],
            listed_at=row["listed_at"],
            spec=cast(Body, orjson.loads(row["spec"])),
            cancelled_at=row["cancelled_at"],
            settled=bool(row["settled"]),
            outcome=Outcome(**orjson.loads(row["outcome"])),
            seq=row["seq"],
        )


@dataclass(frozen=True, slots=True)
class FileRow:
    """One file as it is stored; `path` is below the state folder."""

    file_id: str
    dialect: Dialect
    owner: str
    name: str
    purpose: str
    bytes: int
    created_at: float
    ready_at: float
    path: str
    seq: int = 0

    @classmethod
    def of(cls, row: sqlite3.Row) -> FileRow:
        """Read a row of the table."""
        names = ("file_id", "owner", "name", "purpose", "bytes", "created_at", "ready_at", "path", "seq")
        return cls(dialect=Dialect(row["dialect"]), **{name: row[name] for name in names})


@dataclass(frozen=True, slots=True)
class BillLine:
    """One executed call; the order is that of the table's columns."""

    dialect: str
    model: str
    custom_id: str
    kind: str
    input_tokens: int
    cached_tokens: int
    output_tokens: int
    at: float
    batch_id: str
    request_hash: str
    written_tokens: int = 0
    accepted: int = 0
    rejected: int = 0
