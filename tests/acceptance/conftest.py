"""Fixtures of the acceptance tests: one sandbox a test process, a CLI pointed at it under a key of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.frames_kit import FAULTS
from tests.acceptance.kit import QUICK, Cli, Sandbox, sandbox_server


@pytest.fixture(scope="session")
def shared_sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    """A well-behaved sandbox with quick batches, for all tests of this process that ask for no fault."""
    with sandbox_server(tmp_path_factory.mktemp("sandbox"), {"batch_seconds": 0.3}) as server:
        yield server


@pytest.fixture
def cli(project_folder: Path, shared_sandbox: Sandbox) -> Cli:
    """The real CLI in a fresh project, its providers' base URLs at the shared sandbox."""
    return Cli(project_folder, shared_sandbox.environ())


@pytest.fixture(scope="session")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    """A sandbox that does wrong where a row asks for it."""
    behaviour = {"batch_seconds": 0.3, "call_ms": 15, "faults": FAULTS}
    with sandbox_server(tmp_path_factory.mktemp("faulty"), behaviour) as server:
        yield server


@pytest.fixture(scope="session")
def changing_sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    """One sandbox a test process for all tests that give it a behaviour of their own."""
    with sandbox_server(tmp_path_factory.mktemp("changing")) as server:
        yield server


@pytest.fixture
def changing(changing_sandbox: Sandbox) -> Sandbox:
    """A well-behaved sandbox with quick batches, until the test puts another behaviour; its bill goes on."""
    changing_sandbox.put_behaviour({"batch_seconds": 0.1})
    return changing_sandbox


@pytest.fixture
def home(tmp_path: Path, shared_sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store of its own, and an environment that leads to the shared sandbox."""
    for name, value in {**QUICK, **shared_sandbox.environ(), "XDG_CACHE_HOME": str(tmp_path / "cache")}.items():
        monkeypatch.setenv(name, value)
    return tmp_path / "store"


@pytest.fixture
def at_faulty(home: Path, faulty: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Sandbox:
    """The environment leads to the faulty sandbox."""
    for name, value in faulty.environ().items():
        monkeypatch.setenv(name, value)
    return faulty
