"""Bring a ledger to today's schema. Alembic is only loaded when there is something to upgrade.

A new ledger is made from `storage.schema` as it is; a test holds the result against what all migrations make.
"""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Connection, Engine, inspect, text

from batch_jobs.errors import StoreError
from batch_jobs.storage import schema
from batch_jobs.storage.database import reading, writing

HEAD = "0008"
MIGRATIONS = Path(__file__).parent / "migrations"
_VERSION_TABLE = """
    CREATE TABLE alembic_version (
        version_num VARCHAR(32) NOT NULL, CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
    )
"""


def migrate(engine: Engine) -> None:
    """Make or upgrade the ledger's tables, in one transaction.

    Raises:
        StoreError: the ledger was written by a newer version of the product.
    """
    with reading(engine) as connection:
        if _revision(connection) == HEAD:
            return
    with writing(engine) as connection:
        if not inspect(connection).get_table_names():
            make(connection)
        elif _revision(connection) != HEAD:  # another process may have been faster
            upgrade(connection)


def make(connection: Connection) -> None:
    """Make all tables in an empty database."""
    schema.ledger.create_all(connection)
    connection.execute(text(_VERSION_TABLE))
    connection.execute(text("INSERT INTO alembic_version (version_num) VALUES (:head)"), {"head": HEAD})


def upgrade(connection: Connection) -> None:
    """Run the migrations that a database has not seen yet.

    Raises:
        StoreError: it was written by a newer version of the product.
    """
    from alembic import command
    from alembic.config import Config
    from alembic.util.exc import CommandError

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, HEAD)
    except CommandError as error:
        raise StoreError(
            f"{connection.engine.url.database}: was written by a newer version of batch-jobs; upgrade this installation"
        ) from error


def _revision(connection: Connection) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
