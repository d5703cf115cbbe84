"""One sandbox process a test session, one begun job a dialect; each test has a copy of it and a key of its own."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import certifi
import pytest

from batch_jobs.models import Dialect, Mode
from providers.sandbox.behaviour import Fault
from tests.contract.failures.between import Between, passing_on
from tests.contract.failures.kit import ROWS, Job, Template, make_template, start_job
from tests.contract.sandbox.kit import Server

_KEYS = itertools.count(1)

Start = Callable[..., Job]


@pytest.fixture(scope="session", autouse=True)
def _one_certificate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Nothing here speaks TLS, and each new client would read all certificates there are: a tenth of the time."""
    end = "-----END CERTIFICATE-----\n"
    one = tmp_path_factory.mktemp("tls") / "one.pem"
    one.write_text(Path(certifi.where()).read_text(encoding="utf-8").partition(end)[0] + end)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSL_CERT_FILE", str(one))
        yield


@pytest.fixture(scope="session")
def _sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("sandbox"))
    server.start()
    yield server
    server.end()
    server.http.close()


@pytest.fixture
def sandbox(_sandbox: Server) -> Server:
    """The provider, with a key that nobody has used before."""
    _sandbox.key = f"key-of-test-{next(_KEYS):04}"
    return _sandbox


@pytest.fixture
def dialect() -> Dialect:
    """Tests say which dialects they are for; those for a failure of our own need just one."""
    return Dialect.OPENAI


@pytest.fixture
def mode() -> Mode:
    return Mode.BATCH


Templates = Callable[[Dialect, tuple[int, ...]], Template]


@pytest.fixture(scope="session")
def templates(tmp_path_factory: pytest.TempPathFactory) -> Templates:
    made: dict[tuple[Dialect, tuple[int, ...]], Template] = {}

    def template(dialect: Dialect, told: tuple[int, ...]) -> Template:
        if (dialect, told) not in made:
            folder = tmp_path_factory.mktemp("template")
            made[dialect, told] = Template(folder, make_template(folder, dialect, list(told)))
        return made[dialect, told]

    return template


@pytest.fixture
def start(templates: Templates, sandbox: Server, dialect: Dialect, mode: Mode, tmp_path: Path) -> Iterator[Start]:
    """Start a job of four rows at a provider with these faults; batches end at once unless the test says otherwise."""
    started: list[Job] = []

    def make(
        *faults: Fault,
        told: tuple[int, ...] = tuple(range(ROWS)),
        behaviour: dict[str, Any] | None = None,
        **sections: Any,
    ) -> Job:
        folder = tmp_path / f"project-{len(started)}"
        started.append(start_job(templates(dialect, told), folder, dialect, mode, sandbox, **sections))
        started[-1].behave(*faults, **(behaviour or {}))
        return started[-1]

    yield make
    for job in started:
        job.project.close()


@pytest.fixture
def between(sandbox: Server) -> Iterator[Between]:
    """A server that passes all on to the sandbox: `start(address=between.url)`."""
    with passing_on(sandbox.url) as server:
        yield server
