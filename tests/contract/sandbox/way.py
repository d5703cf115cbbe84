"""A shard's whole way through the product's own clients: real SDKs, the sandbox behind them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from batch_jobs.models import BatchView, ItemResult, Outcome, Request
from providers.connect import connect
from providers.contract import Provider, ShardFile
from providers.sandbox import base_url
from tests.contract.providers.conftest import a_request
from tests.contract.providers.wires import MODEL, WIRES, Wire
from tests.contract.results import result_lines
from tests.contract.sandbox.kit import Server, row_text, wait_for

EVERY = ("openai-chat", "anthropic", "gemini")
"""One wire of each dialect; OpenAI's second endpoint differs in what an answer looks like only."""

IMPATIENT = 1.0
"""Seconds after which a client gives up: too many for a busy machine to be taken for a fault."""


def on(*wires: str) -> pytest.MarkDecorator:
    """Run a test on these wires; without any on one of each dialect."""
    return pytest.mark.parametrize("wire", wires or EVERY)


@dataclass(frozen=True)
class Fetched:
    """What a batch handed out: results by the short ids of their items (i0, i1, ...), and lines that are none."""

    files: list[str]
    results: list[tuple[str, ItemResult]]
    unreadable: int

    @property
    def ids(self) -> list[str]:
        return sorted(name for name, _ in self.results)

    @property
    def order(self) -> list[str]:
        return [name for name, _ in self.results]

    def __getitem__(self, name: str) -> ItemResult:
        (found,) = [result for each, result in self.results if each == name]
        return found

    @property
    def outcomes(self) -> dict[str, Outcome]:
        return {name: result.outcome for name, result in self.results}


@dataclass
class Way:
    """One wire's client with its own key."""

    server: Server
    wire: Wire
    folder: Path
    provider: Provider
    since: datetime = field(default_factory=lambda: datetime.now(UTC) - timedelta(seconds=5))

    def shard(self, items: int = 3, task: str = "") -> ShardFile:
        key = f"{task or self.server.key}-r0-s0"
        codec = self.provider.codec
        lines = [codec.encode_line(f"{key}-i{item}", codec.encode_body(question(item))) for item in range(items)]
        path = self.folder / f"{key}.jsonl"
        path.write_bytes(b"".join(lines))
        return ShardFile(path, key, items, path.stat().st_size, MODEL)

    def create(self, items: int = 3, task: str = "") -> BatchView:
        shard = self.shard(items, task)
        return self.provider.create_batch(shard, self.provider.upload(shard))

    def found(self, items: int = 3, task: str = "") -> list[BatchView]:
        return self.provider.find_batches(self.shard(items, task), self.since)

    def ended(self, batch_id: str) -> BatchView:
        def look() -> BatchView | None:
            view = self.provider.check(batch_id)
            return view if view.state.terminal else None

        return wait_for(look, "the batch's end")

    def fetched(self, batch_id: str) -> Fetched:
        files = self.provider.fetch(batch_id, self.folder)
        results: list[tuple[str, ItemResult]] = []
        unreadable = 0
        for line in result_lines(files):
            try:
                result = self.provider.codec.parse_line(line)
            except ValueError:
                unreadable += 1
            else:
                results.append((result.custom_id.rpartition("-")[2], result))
        return Fetched([path.name for path in files], results, unreadable)

    def run(self, items: int = 3, task: str = "") -> Fetched:
        """Create a batch, wait for its end, fetch its results."""
        return self.fetched(self.ended(self.create(items, task).batch_id).batch_id)

    def call(self, item: int = 0) -> ItemResult:
        return self.provider.complete(self.provider.codec.encode_body(question(item)))

    def billed(self, task: str = "") -> list[str]:
        """The short ids of the executed items."""
        prefix = f"{task or self.server.key}-r0-s0-"
        return [custom_id.removeprefix(prefix) for custom_id in self.server.billed(prefix)]

    def kept(self) -> list[str]:
        """The ids of the files that this key has left."""
        found = self.server.get(f"files?key={self.server.key}")["files"]
        return [file["file_id"] for file in found if file["dialect"] == self.wire.dialect]

    def raw(self, batch_id: str) -> Any:
        """A batch in the provider's own words."""
        path = {"openai": "/batches/", "anthropic": "/v1/messages/batches/", "gemini": "/v1/"}[self.wire.dialect]
        headers = {"authorization": f"Bearer {self.server.key}", "x-goog-api-key": self.server.key}
        url = base_url(self.wire.dialect, self.server.url) + path + batch_id
        return self.server.http.get(url, headers=headers).raise_for_status().json()

    @contextmanager
    def hurried(self, seconds: float) -> Iterator[Way]:
        """The same with a client that waits only so long."""
        with connected(self.server, self.wire, seconds) as provider:
            yield Way(self.server, self.wire, self.folder, provider, self.since)


def question(item: int) -> Request:
    return a_request(row_text(item))


@contextmanager
def connected(server: Server, wire: Wire, timeout_seconds: float = 20) -> Iterator[Provider]:
    """The product's client, with the server's present key."""
    provider = connect(
        wire.dialect,
        endpoint=wire.endpoint,
        model=MODEL,
        base_url=base_url(wire.dialect, server.url),
        api_key=server.key,
        timeout_seconds=timeout_seconds,
    )
    try:
        yield provider
    finally:
        provider.close()


@contextmanager
def started(server: Server, wire: str, folder: Path) -> Iterator[Way]:
    """The way of one test."""
    with connected(server, WIRES[wire]) as provider:
        yield Way(server, WIRES[wire], folder, provider)
