"""Every test here runs on all four wires unless it says otherwise."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from batch_jobs.models import Parameters, Request
from providers.connect import connect
from providers.contract import Provider, ShardFile
from tests.contract.providers.loopback import Loopback, serving
from tests.contract.providers.wires import KEY, MODEL, SHARD_KEY, WIRES, Wire

SDK_VARIABLES = (
    "OPENAI_BASE_URL",
    "OPENAI_ORG_ID",
    "OPENAI_PROJECT_ID",
    "ANTHROPIC_BASE_URL",
    "ANTHROPIC_CUSTOM_HEADERS",
    "GOOGLE_GEMINI_BASE_URL",
    "GOOGLE_GENAI_API_VERSION",
)


@pytest.fixture(autouse=True)
def _no_sdk_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SDK_VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(params=sorted(WIRES))
def wire(request: pytest.FixtureRequest) -> Wire:
    return WIRES[request.param]


@pytest.fixture(scope="session")
def _server() -> Iterator[Loopback]:
    with serving() as server:
        yield server


@pytest.fixture
def loopback(_server: Loopback) -> Iterator[Loopback]:
    yield _server
    _server.forget()


@pytest.fixture(scope="session")
def _clients() -> Iterator[dict[tuple[str, float], Provider]]:
    """A client takes 30 ms to make, and holds nothing of a test."""
    clients: dict[tuple[str, float], Provider] = {}
    yield clients
    for client in clients.values():
        client.close()


@pytest.fixture
def connected(loopback: Loopback, _clients: dict[tuple[str, float], Provider]) -> Callable[..., Provider]:
    """The client of a wire on the loopback server."""

    def client(wire: Wire, *, timeout_seconds: float = 10) -> Provider:
        known = (wire.name, timeout_seconds)
        if known not in _clients:
            _clients[known] = connect(
                wire.dialect,
                endpoint=wire.endpoint,
                model=MODEL,
                base_url=loopback.url + wire.prefix,
                api_key=KEY,
                timeout_seconds=timeout_seconds,
            )
        return _clients[known]

    return client


@pytest.fixture
def provider(connected: Callable[..., Provider], wire: Wire) -> Provider:
    return connected(wire)


def a_request(text: str = "row text", *, fixed: str = "You summarise.", **parameters: object) -> Request:
    schema = {
        "type": "object",
        "title": "Answer",
        "properties": {"summary": {"type": "string", "title": "Summary"}},
        "required": ["summary"],
    }
    return Request(fixed, text, schema, "answer", MODEL, Parameters(**parameters))  # type: ignore[arg-type]


def custom_id(item: int) -> str:
    return f"{SHARD_KEY}-i{item}"


@pytest.fixture
def shard(tmp_path: Path, provider: Provider) -> ShardFile:
    """Three requests on disk."""
    codec = provider.codec
    lines = [codec.encode_line(custom_id(item), codec.encode_body(a_request(f"row {item}"))) for item in range(3)]
    path = tmp_path / "shard.jsonl"
    path.write_bytes(b"".join(lines))
    return ShardFile(path, SHARD_KEY, len(lines), path.stat().st_size, MODEL)
