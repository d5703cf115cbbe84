"""What the kill tests of one test process share."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults import sweep
from tests.faults.killed_job import Bench

MEMORY = Path("/dev/shm")
"""A killed process leaves what it wrote to the system, so a disk adds only time here; what a disk can do is tested
by the storage faults."""


@pytest.fixture(scope="session")
def bench() -> Iterator[Bench]:
    """A warmed process and a sandbox, in a folder in memory that is kept when a job in it went wrong."""
    folder = Path(tempfile.mkdtemp(prefix="kills-", dir=MEMORY if MEMORY.is_dir() else None))
    with sweep.bench(folder) as made:
        yield made
    if not any(folder.glob("job-*/")):
        shutil.rmtree(folder)
