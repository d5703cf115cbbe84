"""What the kill tests of one test process share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.faults import sweep
from tests.faults.killed_job import Bench


@pytest.fixture(scope="session")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """A warmed process and a sandbox."""
    with sweep.bench(tmp_path_factory.mktemp("kills")) as made:
        yield made
