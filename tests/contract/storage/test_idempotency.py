"""Idempotency keys: one job a key and request, apart for each caller, freed with the job, added to old ledgers."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.config import Config

from batch_jobs.errors import KeyReused
from batch_jobs.storage import idempotency, jobs, migrate, schema
from batch_jobs.storage.database import open_sqlite, writing
from batch_jobs.storage.idempotency import KEEP_SECONDS, Claim, Held, claim_for
from batch_jobs.storage.ledger import Ledger
from tests.contract.storage.kit import OTHER_ID, TASK_ID, full_job, python, together

NOW = 1_000_000.0
LATER_TABLES = {"idempotency_keys", "learned_limits", "drafts"}
DAY_SECONDS = 24 * 3600.0
REQUEST = {"task": "summarize", "sheet": None, "file_name": "Größe \ud800.csv", "file_sha256": "a" * 64}
FILLING = {"TEXT": "größe", "INTEGER": 7, "FLOAT": 0.5, "BLOB": b"\x00\xff", "JSON": '{"a": [1, null]}'}
TAKE = """
import sys
from pathlib import Path
from batch_jobs.storage import idempotency
from batch_jobs.storage.ledger import Ledger
path, task_id, now = sys.argv[1:]
ledger = Ledger.open(Path(path))
print("ready", flush=True)
sys.stdin.readline()
with ledger.write() as connection:
    claim = idempotency.claim_for("", "key", {"task": "summarize"})
    held = idempotency.take(connection, claim, task_id, float(now))
    # before the commit
print(held.task_id if held else task_id)
"""
TAKE_AND_WAIT = TAKE.replace('print("ready", flush=True)\n', "").replace(
    "# before the commit", 'print("taken", flush=True)\n    sys.stdin.readline()'
)
OPEN = """
import sys
from pathlib import Path
from batch_jobs.storage.ledger import Ledger
print("ready", flush=True)
sys.stdin.readline()
Ledger.open(Path(sys.argv[1])).close()
print("opened")
"""


def claim(key: str = "key", owner: str = "", request: Mapping[str, object] = REQUEST) -> Claim:
    return claim_for(owner, key, request)


def taken(ledger: Ledger, wanted: Claim, task_id: str = TASK_ID, now: float = NOW) -> Held | None:
    """Take a key and, when it is free, record its job."""
    with ledger.write() as connection:
        held = idempotency.take(connection, wanted, task_id, now)
        if held is None:
            jobs.add(connection, full_job(task_id=task_id))
        return held


def found(ledger: Ledger, wanted: Claim, now: float = NOW) -> Held | None:
    with ledger.read() as connection:
        return idempotency.find(connection, wanted, now)


def test_a_new_key_is_the_jobs_and_is_found_again(ledger: Ledger) -> None:
    assert found(ledger, claim()) is None
    assert taken(ledger, claim()) is None
    held = Held(TASK_ID, claim().request_sha256)
    assert found(ledger, claim()) == held
    assert taken(ledger, claim(), OTHER_ID) == held
    idempotency.check_same(held, claim())


def test_another_request_under_the_key_is_refused_and_told_what_to_do(ledger: Ledger) -> None:
    taken(ledger, claim())
    other = claim(request={**REQUEST, "file_sha256": "b" * 64})
    held = taken(ledger, other, OTHER_ID)
    assert held is not None
    with pytest.raises(KeyReused, match=f"another request .* job {TASK_ID}.* a new key for a new job") as error:
        idempotency.check_same(held, other)
    assert error.value.http_status == 422
    assert found(ledger, claim()) == held


@pytest.mark.parametrize("name", REQUEST)
@pytest.mark.parametrize("value", ["", "other", 0, None, "drop"])
def test_every_part_of_a_request_counts(name: str, value: Any) -> None:
    changed: dict[str, object] = {**REQUEST, name: value}
    if value == "drop":
        del changed[name]
    same = changed == REQUEST
    assert (claim(request=changed).request_sha256 == claim().request_sha256) == same
    assert claim(request=changed).key_sha256 == claim().key_sha256


def test_the_order_of_names_does_not_count() -> None:
    assert claim(request=dict(reversed(REQUEST.items()))) == claim()


def test_callers_and_keys_are_apart(ledger: Ledger) -> None:
    names = [
        ("", "key"),
        ("k", "ey"),
        ("ke", "y"),
        ("key", ""),
        ("", "Key"),
        ("", "key "),
        ("", 'key","'),
        ("", "k\x00"),
    ]
    claims = [claim(key, owner) for owner, key in names]
    assert len({each.key_sha256 for each in claims}) == len(names)
    for number, each in enumerate(claims):
        assert taken(ledger, each, f"{number:032x}") is None
    assert [held.task_id for each in claims if (held := found(ledger, each))] == [
        f"{n:032x}" for n in range(len(names))
    ]


def test_neither_key_nor_owner_lies_in_the_file(ledger: Ledger, ledger_path: Path) -> None:
    taken(ledger, claim("canary-of-a-key", "canary-of-an-owner"))
    ledger.close()
    for path in ledger_path.parent.iterdir():
        assert b"canary" not in path.read_bytes(), path


def test_an_upload_that_fails_does_not_burn_its_key(ledger: Ledger) -> None:
    with pytest.raises(ValueError, match="half way"), ledger.write() as connection:
        idempotency.take(connection, claim(), TASK_ID, NOW)
        jobs.add(connection, full_job())
        raise ValueError("half way")
    assert found(ledger, claim()) is None
    assert taken(ledger, claim(), OTHER_ID) is None


def test_a_discarded_job_frees_its_key(ledger: Ledger) -> None:
    taken(ledger, claim())
    with ledger.write() as connection:
        jobs.remove(connection, TASK_ID)
    assert found(ledger, claim()) is None
    assert taken(ledger, claim(request={"another": "request"}), OTHER_ID) is None
    assert found(ledger, claim()) == Held(OTHER_ID, claim(request={"another": "request"}).request_sha256)


@pytest.mark.parametrize("age", [0.0, DAY_SECONDS, KEEP_SECONDS])
def test_a_key_is_kept_for_a_day_and_more(ledger: Ledger, age: float) -> None:
    taken(ledger, claim())
    assert taken(ledger, claim("other"), "e" * 32, NOW + age) is None
    assert found(ledger, claim(), NOW + age) is not None
    assert taken(ledger, claim(), OTHER_ID, NOW + age) is not None


def test_an_old_key_is_forgotten_whether_it_was_cleared_away_or_not(ledger: Ledger, ledger_path: Path) -> None:
    taken(ledger, claim())
    taken(ledger, claim("second"), OTHER_ID)
    later = NOW + KEEP_SECONDS + 1
    assert found(ledger, claim(), later) is None
    assert taken(ledger, claim(), "e" * 32, later) is None
    with closing(sqlite3.connect(ledger_path)) as connection:
        assert connection.execute("SELECT task_id FROM idempotency_keys").fetchall() == [("e" * 32,)]
    with ledger.read() as reader:
        assert jobs.get(reader, OTHER_ID), "the job itself is kept"


def test_of_processes_that_come_at_once_one_gets_the_key(ledger: Ledger, ledger_path: Path) -> None:
    ids = [f"{number:032x}" for number in range(5)]
    with ledger.write() as connection:
        for task_id in ids:
            jobs.add(connection, full_job(task_id=task_id))
    said = together(TAKE, [[str(ledger_path), task_id, str(NOW)] for task_id in ids])
    assert len(set(said)) == 1
    held = found(ledger, claim_for("", "key", {"task": "summarize"}))
    assert held is not None
    assert held.task_id == said[0]


def test_a_process_that_dies_before_its_commit_leaves_the_key_free(ledger: Ledger, ledger_path: Path) -> None:
    with ledger.write() as connection:
        jobs.add(connection, full_job())
    process = python(TAKE_AND_WAIT, str(ledger_path), TASK_ID, str(NOW))
    with process:
        assert process.stdin and process.stdout
        process.stdin.write("go\n")
        process.stdin.flush()
        assert process.stdout.readline() == "taken\n"
        process.kill()
    assert taken(ledger, claim_for("", "key", {"task": "summarize"}), OTHER_ID) is None


def _old_ledger(path: Path) -> dict[str, list[Any]]:
    """A ledger as the first version left it, with something in every table; returns all of it."""
    engine = open_sqlite(path)
    config = Config()
    config.set_main_option("script_location", str(migrate.MIGRATIONS))
    with writing(engine) as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
    engine.dispose()
    with closing(sqlite3.connect(path)) as connection:
        for name in _tables(connection):
            _fill(connection, name)
        connection.commit()
    return _dump(path)


def _fill(connection: sqlite3.Connection, table: str) -> None:
    """Add a row with a value in every column, whatever the columns are today."""
    kinds = [row[2] for row in connection.execute(f"PRAGMA table_info({table})")]
    values = [FILLING[kind] for kind in kinds]
    connection.execute(f"INSERT INTO {table} VALUES ({', '.join('?' * len(values))})", values)


def _tables(connection: sqlite3.Connection) -> list[str]:
    names = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    return sorted(name for name in names - {"alembic_version", *LATER_TABLES} if not name.startswith("sqlite_"))


def _dump(path: Path) -> dict[str, list[Any]]:
    with closing(sqlite3.connect(path)) as connection:
        return {name: connection.execute(f"SELECT * FROM {name}").fetchall() for name in _tables(connection)}


def _without_new_columns(after: dict[str, list[Any]], before: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """The rows with the columns they had; a column that came later must be empty."""
    kept = {}
    for name, rows in after.items():
        width = len(before[name][0])
        assert all(not value for row in rows for value in _later_values(name, row, width))
        kept[name] = [row[:width] for row in rows]
    return kept


def _later_values(table: str, row: tuple[Any, ...], width: int) -> list[Any]:
    """What the columns hold that came later; a shard's weight is estimated, and must be a quarter of its bytes."""
    later = dict(enumerate(row[width:], width))
    names = [column.name for column in schema.ledger.tables[table].columns]
    if "kind" in names:  # older versions asked for nothing else
        assert later.pop(names.index("kind")) == "answer"
    if table == "provider_batches":
        weight, size = names.index("tokens"), names.index("bytes")
        assert later.pop(weight) == -(-row[size] // 4)
    return list(later.values())


def _revision(path: Path) -> str:
    with closing(sqlite3.connect(path)) as connection:
        return str(connection.execute("SELECT version_num FROM alembic_version").fetchone()[0])


def test_a_ledger_of_the_first_version_is_taken_along_with_all_it_holds(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    before = _old_ledger(path)
    assert _revision(path) == "0001"
    assert set(before) == {"jobs", "items", "provider_batches", "calls", "events", "leases"}
    assert all(rows for rows in before.values())
    opened = Ledger.open(path)
    try:
        assert _revision(path) == migrate.HEAD
        assert _without_new_columns(_dump(path), before) == before
        assert taken(opened, claim(), OTHER_ID) is None
    finally:
        opened.close()


def test_processes_may_take_an_old_ledger_along_at_once(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    before = _old_ledger(path)
    assert together(OPEN, [[str(path)]] * 3) == ["opened"] * 3
    assert (_revision(path), _without_new_columns(_dump(path), before)) == (migrate.HEAD, before)
