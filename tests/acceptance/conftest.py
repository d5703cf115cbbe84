"""Fixtures of the acceptance tests: one sandbox a test process, a CLI pointed at it under a key of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.kit import Cli, Sandbox, sandbox_server


@pytest.fixture(scope="session")
def shared_sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    """A well-behaved sandbox with quick batches, for all tests of this process that ask for no fault."""
    with sandbox_server(tmp_path_factory.mktemp("sandbox"), {"batch_seconds": 0.3}) as server:
        yield server


@pytest.fixture
def cli(project_folder: Path, shared_sandbox: Sandbox) -> Cli:
    """The real CLI in a fresh project, its providers' base URLs at the shared sandbox."""
    return Cli(project_folder, shared_sandbox.environ())
