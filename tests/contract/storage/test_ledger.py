"""The ledger file: made, migrated, refused when it is too new, safe when it is full, broken or opened by many."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, event, inspect

from batch_jobs.errors import StoreError
from batch_jobs.models import EventName
from batch_jobs.storage import events, jobs, migrate, schema
from batch_jobs.storage.database import open_sqlite, reading, writing
from batch_jobs.storage.ledger import Ledger
from tests.contract.storage.kit import TASK_ID, full_job, together

OPEN = """
import sys
from pathlib import Path
from batch_jobs.storage.ledger import Ledger
print("ready", flush=True)
sys.stdin.readline()
Ledger.open(Path(sys.argv[1])).close()
print("opened")
"""


def test_a_fresh_one_is_made_with_its_folder(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "ledger.sqlite"
    ledger = Ledger.open(path)
    with ledger.read() as connection:
        assert set(inspect(connection).get_table_names()) == {*schema.ledger.tables, "alembic_version"}
    ledger.close()


def test_opened_again_it_holds_what_it_held(ledger_path: Path) -> None:
    first = Ledger.open(ledger_path)
    with first.write() as connection:
        jobs.add(connection, full_job())
    first.close()
    second = Ledger.open(ledger_path)
    with second.read() as connection:
        assert jobs.get(connection, TASK_ID) == full_job()
    second.close()


def test_of_a_newer_version_it_is_refused_and_left_alone(ledger: Ledger, ledger_path: Path) -> None:
    with ledger.write() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(StoreError, match="newer version of batch-jobs"):
        Ledger.open(ledger_path)
    with ledger.read() as connection:
        assert connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar() == "9999"


def test_the_newest_migration_is_the_head_in_code() -> None:
    config = Config()
    config.set_main_option("script_location", str(migrate.MIGRATIONS))
    assert ScriptDirectory.from_config(config).get_heads() == [migrate.HEAD]


def test_the_migrations_make_exactly_the_tables_in_code(tmp_path: Path) -> None:
    engine = open_sqlite(tmp_path / "migrated.sqlite")
    with writing(engine) as connection:
        migrate.upgrade(connection)
    with reading(engine) as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, schema.ledger) == []
    engine.dispose()


def test_a_fresh_one_is_what_the_migrations_make(ledger: Ledger, tmp_path: Path) -> None:
    engine = open_sqlite(tmp_path / "migrated.sqlite")
    with writing(engine) as migrated, ledger.read() as fresh:
        migrate.upgrade(migrated)
        assert _layout(fresh) == _layout(migrated)
        assert _version(fresh) == _version(migrated) == migrate.HEAD
    engine.dispose()


def _layout(connection: Connection) -> dict[str, object]:
    """Columns (in any order: a migration can only add them at the end), keys, defaults and indexes of each table."""
    layout: dict[str, object] = {}
    for name, sql in connection.exec_driver_sql("SELECT name, sql FROM sqlite_master WHERE type = 'table'").fetchall():
        columns = connection.exec_driver_sql(
            f"SELECT name, type, \"notnull\", dflt_value, pk FROM pragma_table_xinfo('{name}')"
        )
        indexes = [
            tuple(row)
            for row in connection.exec_driver_sql(f"SELECT name, \"unique\" FROM pragma_index_list('{name}')")
        ]
        parts = {
            index: connection.exec_driver_sql(f"SELECT name FROM pragma_index_info('{index}')").fetchall()
            for index, _ in indexes
        }
        layout[name] = sorted(map(tuple, columns)), sorted(indexes), parts, "WITHOUT ROWID" in sql.upper()
    return layout


def _version(connection: Connection) -> object:
    return connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()


def test_it_is_durable_and_lets_readers_go_on(ledger: Ledger) -> None:
    with ledger.read() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2
    with ledger.write() as writer:
        jobs.add(writer, full_job())
        with ledger.read() as reader:
            assert jobs.newest(reader, 10) == []


def test_a_write_that_raises_changes_nothing(ledger: Ledger) -> None:
    with pytest.raises(ValueError, match="half way"), ledger.write() as connection:
        jobs.add(connection, full_job())
        raise ValueError("half way")
    with ledger.read() as connection:
        assert jobs.newest(connection, 10) == []
        assert events.of_job(connection, TASK_ID) == []


@pytest.mark.parametrize("folder", ["Which events?", "100%", "a b#c", "größe", "a?mode=memory&x=1"])
def test_a_folder_may_have_any_name(tmp_path: Path, folder: str) -> None:
    path = tmp_path / folder / "ledger.sqlite"
    Ledger.open(path).close()
    assert [found.name for found in tmp_path.iterdir()] == [folder]
    assert path.read_bytes().startswith(b"SQLite format 3")


def test_a_file_that_is_no_database_is_the_stores_error(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    path.write_bytes(b"this is no database, though it is long enough for a header " * 4)
    with pytest.raises(StoreError, match="not a database"):
        Ledger.open(path)


def test_a_folder_in_its_place_is_the_stores_error(tmp_path: Path) -> None:
    (tmp_path / "ledger.sqlite").mkdir()
    with pytest.raises(StoreError, match="unable to open"):
        Ledger.open(tmp_path / "ledger.sqlite")


def test_a_full_disk_is_said_and_undone(ledger: Ledger) -> None:
    """SQLite's own limit stands in for the disk: the error is the same."""

    @event.listens_for(ledger.engine, "begin")
    def _full(connection: object) -> None:
        connection.exec_driver_sql("PRAGMA max_page_count = 1")  # type: ignore[attr-defined]

    with pytest.raises(StoreError, match="disk is full: free some space"), ledger.write() as connection:
        for _ in range(200):
            events.add(connection, TASK_ID, EventName.JOB_DONE, {"text": "x" * 1000})
    event.remove(ledger.engine, "begin", _full)
    with ledger.read() as connection:
        assert events.of_job(connection, TASK_ID) == []


def test_processes_may_open_a_new_one_at_once(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    assert together(OPEN, [[str(path)]] * 4) == ["opened"] * 4
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT version_num FROM alembic_version").fetchall() == [(migrate.HEAD,)]
    connection.close()
