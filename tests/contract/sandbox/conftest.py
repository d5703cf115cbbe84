"""One server for a whole run; each test gets its own key, so its own batches, and begins without faults."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contract.sandbox.kit import FAST, Server
from tests.contract.sandbox.way import Way, started

_KEYS = itertools.count(1)


@pytest.fixture(scope="session")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("sandbox"))
    server.start()
    yield server
    server.end()
    server.http.close()


@pytest.fixture
def server(running: Server) -> Server:
    running.key = f"key-{next(_KEYS)}"
    running.behave(FAST)
    return running


@pytest.fixture
def way(server: Server, wire: str, tmp_path: Path) -> Iterator[Way]:
    """The product's client of a wire; the test says which ones by `on`."""
    with started(server, wire, tmp_path) as made:
        yield made
