"""A ledger and a cache on real SQLite files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from batch_jobs.storage.call_cache import CallCache
from batch_jobs.storage.ledger import Ledger


@pytest.fixture(scope="session")
def _migrated(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A fresh ledger's bytes: Alembic runs once."""
    path = tmp_path_factory.mktemp("migrated") / "ledger.sqlite"
    Ledger.open(path).close()
    return path.read_bytes()


@pytest.fixture
def ledger_path(_migrated: bytes, tmp_path: Path) -> Path:
    path = tmp_path / "ledger.sqlite"
    path.write_bytes(_migrated)
    return path


@pytest.fixture
def ledger(ledger_path: Path) -> Iterator[Ledger]:
    opened = Ledger.open(ledger_path)
    yield opened
    opened.close()


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[CallCache]:
    opened = CallCache.open(tmp_path / "cache.sqlite")
    yield opened
    opened.close()
