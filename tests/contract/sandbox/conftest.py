"""One server for a whole test file; each test gets its own key, so its own batches."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from tests.contract.sandbox.kit import FAST, Server

_KEYS = itertools.count(1)


@pytest.fixture(scope="module")
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
