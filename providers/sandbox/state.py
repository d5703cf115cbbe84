"""The sandbox's durable memory: behaviour, files, batches, the bill, and what was counted.

Rows of the bill count once their batch is settled, so a batch whose execution was killed half-way is billed once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, fields
from operator import attrgetter
from pathlib import Path

import orjson

from batch_jobs.models import Dialect

from .behaviour import Behaviour, Fault
from .database import Database
from .records import BatchRow, BillLine, FileRow, Outcome

_COLUMNS = attrgetter(*(field.name for field in fields(BillLine)))
"""A line of the bill as a row: `dataclasses.astuple` would copy every value, and take a fifth of a batch's time."""
_COUNTED = "(batch_id = '' OR batch_id IN (SELECT batch_id FROM batches WHERE settled))"


class State:
    """Everything that outlives the process, below one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.database = Database(folder)
        for name in ("files", "results", "spool"):
            (folder / name).mkdir(exist_ok=True)

    # -- behaviour, clock and counters -------------------------------------------------------------------------------

    def save_behaviour(self, behaviour: Behaviour) -> None:
        """Keep the behaviour and begin counting its faults' hits anew."""
        with self.database.transaction():
            self.database.run("INSERT OR REPLACE INTO meta VALUES ('behaviour', ?)", behaviour.to_json())
            self.database.run("DELETE FROM hits")

    def ahead_seconds(self) -> float:
        """Give how far the sandbox's clock is ahead."""
        row = self.database.row("SELECT value FROM meta WHERE name = 'ahead'")
        return float(row["value"]) if row else 0.0

    def put_ahead(self, seconds: float) -> None:
        """Set how far the sandbox's clock is ahead."""
        self.database.run("INSERT OR REPLACE INTO meta VALUES ('ahead', ?)", seconds)

    def count_call(self, route: str) -> None:
        """Count one request."""
        self.database.run(
            "INSERT INTO calls VALUES (?, 1) ON CONFLICT (route) DO UPDATE SET count = count + 1",
            route,
        )

    def calls(self) -> dict[str, int]:
        """Give the number of requests by route."""
        return {row["route"]: row["count"] for row in self.database.rows("SELECT * FROM calls ORDER BY route")}

    def take_hit(self, fault: Fault, subject: str) -> bool:
        """Use one of a fault's `times` for a subject; the same subject may come again at no cost."""
        if fault.times is None:
            return True
        with self.database.transaction():
            if self.database.row("SELECT 1 FROM hits WHERE fault = ? AND subject = ?", fault.key, subject):
                return True
            used = self.database.row("SELECT count(*) AS n FROM hits WHERE fault = ?", fault.key)
            if used is not None and used["n"] >= fault.times:
                return False
            self.database.run("INSERT INTO hits VALUES (?, ?)", fault.key, subject)
            return True

    def forget(self) -> None:
        """Clear the request counters and the hits of faults; bill, files and batches stay."""
        with self.database.transaction():
            self.database.run("DELETE FROM calls")
            self.database.run("DELETE FROM hits")

    # -- files ------------------------------------------------------------------------------------------------

    def add_file(self, file: FileRow) -> bool:
        """Keep a file; False when its id is taken."""
        added = self.database.run(
            "INSERT OR IGNORE INTO files (file_id, dialect, owner, name, purpose, bytes, created_at, ready_at, path) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            *(file.file_id, file.dialect, file.owner, file.name, file.purpose),
            *(file.bytes, file.created_at, file.ready_at, file.path),
        )
        return added == 1

    def file(self, dialect: Dialect, owner: str, file_id: str) -> FileRow | None:
        """Find an owner's file."""
        row = self.database.row(
            "SELECT * FROM files WHERE dialect = ? AND owner = ? AND file_id = ? AND NOT deleted",
            dialect,
            owner,
            file_id,
        )
        return FileRow.of(row) if row else None

    def files(
        self, dialect: Dialect, owner: str, *, before_seq: int, limit: int, purpose_like: str = "%"
    ) -> list[FileRow]:
        """List an owner's files, newest first."""
        rows = self.database.rows(
            "SELECT * FROM files WHERE dialect = ? AND owner = ? AND NOT deleted AND seq < ? AND purpose LIKE ? "
            "ORDER BY seq DESC LIMIT ?",
            *(dialect, owner, before_seq, purpose_like, limit),
        )
        return [FileRow.of(row) for row in rows]

    def kept_files(self) -> list[FileRow]:
        """Give every file that nobody has deleted, oldest first."""
        return [FileRow.of(row) for row in self.database.rows("SELECT * FROM files WHERE NOT deleted ORDER BY seq")]

    def drop_file(self, file: FileRow) -> None:
        """Delete a file for its owner; a batch that uses it goes on."""
        self.database.run("UPDATE files SET deleted = 1, file_id = file_id || '~' || seq WHERE seq = ?", file.seq)

    # -- batches ----------------------------------------------------------------------------------------------

    def add_batch(self, batch: BatchRow) -> None:
        """Accept a batch."""
        self.database.run(
            "INSERT INTO batches (batch_id, dialect, owner, created_at, listed_at, endpoint, model, total, "
            "input_path, spec, plan) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            *(batch.batch_id, batch.dialect, batch.owner, batch.created_at, batch.listed_at, batch.endpoint),
            *(batch.model, batch.total, batch.input_path, orjson.dumps(batch.spec), batch.plan.to_json()),
        )

    def batch(self, dialect: Dialect, owner: str, batch_id: str, now: float) -> BatchRow | None:
        """Find an owner's batch; one that is accepted later is not there yet."""
        row = self.database.row(
            "SELECT * FROM batches WHERE dialect = ? AND owner = ? AND batch_id = ? AND NOT deleted "
            "AND created_at <= ?",
            *(dialect, owner, batch_id, now),
        )
        return BatchRow.of(row) if row else None

    def batches(self, dialect: Dialect, owner: str, now: float) -> list[tuple[float, str]]:
        """List an owner's visible batches as (creation time, id), newest first."""
        rows = self.database.rows(
            "SELECT created_at, batch_id FROM batches WHERE dialect = ? AND owner = ? AND NOT deleted "
            "AND created_at <= ? AND listed_at <= ? ORDER BY created_at DESC, seq DESC",
            *(dialect, owner, now, now),
        )
        return [(row["created_at"], row["batch_id"]) for row in rows]

    def unsettled(self) -> list[BatchRow]:
        """Give every batch that is not settled yet."""
        return [BatchRow.of(row) for row in self.database.rows("SELECT * FROM batches WHERE NOT settled ORDER BY seq")]

    def creates(self, now: float) -> list[BatchRow]:
        """Give every batch that was accepted until now, oldest first, deleted ones too."""
        rows = self.database.rows("SELECT * FROM batches WHERE created_at <= ? ORDER BY created_at, seq", now)
        return [BatchRow.of(row) for row in rows]

    def cancel(self, batch: BatchRow, now: float) -> None:
        """Note the first wish to stop a batch."""
        self.database.run(
            "UPDATE batches SET cancelled_at = ? WHERE batch_id = ? AND cancelled_at IS NULL AND NOT settled",
            now,
            batch.batch_id,
        )

    def drop_batch(self, batch: BatchRow) -> None:
        """Delete a batch for its owner, with the results that go by its name; what it executed stays on the bill."""
        with self.database.transaction():
            self.database.run("UPDATE batches SET deleted = 1 WHERE batch_id = ?", batch.batch_id)
            results = self.file(batch.dialect, batch.owner, batch.batch_id)
            if results is not None:
                self.drop_file(results)

    def settle(self, batch: BatchRow, outcome: Outcome, files: Sequence[FileRow]) -> None:
        """Record a batch's outcome with its result files; its bill counts from here on."""
        with self.database.transaction():
            for file in files:
                self.add_file(file)
            self.database.run(
                "UPDATE batches SET settled = 1, outcome = ? WHERE batch_id = ?",
                orjson.dumps(asdict(outcome)),
                batch.batch_id,
            )

    # -- the bill ---------------------------------------------------------------------------------------------

    def begin_bill(self, batch_id: str) -> None:
        """Drop what an execution that was killed has left."""
        self.database.run("DELETE FROM bill WHERE batch_id = ?", batch_id)

    def add_bill(self, lines: Sequence[BillLine]) -> None:
        """Append executed calls."""
        self.database.run_many(
            "INSERT INTO bill (dialect, model, custom_id, kind, input_tokens, cached_tokens, output_tokens, at, "
            "batch_id, request_hash, written_tokens, accepted, rejected) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (_COLUMNS(line) for line in lines),
        )

    def bill_totals(self) -> list[dict[str, object]]:
        """Sum the bill by dialect, model and kind."""
        rows = self.database.rows(
            "SELECT dialect, model, kind, count(*) AS calls, sum(input_tokens) AS input_tokens, "
            "sum(cached_tokens) AS cached_tokens, sum(output_tokens) AS output_tokens FROM bill "
            f"WHERE {_COUNTED} GROUP BY dialect, model, kind ORDER BY dialect, model, kind"
        )
        return [dict(row) for row in rows]

    def verdicts(self) -> list[dict[str, object]]:
        """Sum the verdicts by dialect and model, where there are any."""
        rows = self.database.rows(
            "SELECT dialect, model, sum(accepted) AS accept, sum(rejected) AS reject FROM bill "
            f"WHERE accepted + rejected > 0 AND {_COUNTED} GROUP BY dialect, model ORDER BY dialect, model"
        )
        return [dict(row) for row in rows]

    def bill_lines(self, page: int = 5000) -> Iterator[dict[str, object]]:
        """Stream the executed calls in the order they were billed."""
        last = 0
        while True:
            rows = self.database.rows(
                f"SELECT * FROM bill WHERE seq > ? AND {_COUNTED} ORDER BY seq LIMIT ?",
                last,
                page,
            )
            yield from (dict(row) for row in rows)
            if len(rows) < page:
                return
            last = rows[-1]["seq"]
