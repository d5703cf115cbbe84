"""What a provider is: a codec (pure) and a client (the wire), in our words.

No retry, sleep, logging, loop over jobs or file layout lives behind these two Protocols. Adding a provider is
one module with both, a line in `providers.connect`, and its dialect in the contract tests.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol

from batch_jobs.models import BatchView, Dialect, ItemResult, Parameters, Request

CUSTOM_ID_PATTERN = r"^[A-Za-z0-9_-]{1,64}$"
"""Anthropic's rule, the strictest of the three; every custom_id we make fits it."""


@dataclass(frozen=True, slots=True)
class Rate:
    """So many requests within so many seconds."""

    number: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Limits:
    """What one provider batch may hold, and an account's queue; None stands for no known limit.

    Attributes:
        max_requests: items of one batch.
        max_bytes: bytes of its input file or body.
        max_in_flight_batches: batches of an account that may be open at once.
        max_enqueued_tokens: input tokens of all open batches of a model.
        max_enqueued_requests: items of all open batches of a model.
        max_output_bytes: results of one batch, above which it is known to be hard to fetch.
        creates: how fast batches may be created.
        uploads: how fast files may be uploaded.
    """

    max_requests: int
    max_bytes: int
    max_in_flight_batches: int | None = None
    max_enqueued_tokens: int | None = None
    max_enqueued_requests: int | None = None
    max_output_bytes: int | None = None
    creates: Rate | None = None
    uploads: Rate | None = None


@dataclass(frozen=True, slots=True)
class ShardFile:
    """One shard, complete and synced on disk: JSON lines as `Codec.encode_line` wrote them.

    Attributes:
        path: the file.
        key: the shard key, `<task_id>-r<round>-s<shard>`.
        requests: lines in the file.
        bytes: its size.
        model: the one model of all its requests.
    """

    path: Path
    key: str
    requests: int
    bytes: int
    model: str


class Codec(Protocol):
    """The pure half: requests to bytes, result lines to outcomes. Safe in any process, imports no SDK."""

    dialect: Dialect

    def refused_parameters(self, parameters: Parameters) -> tuple[str, ...]:
        """Name the parameters that are set and that the provider would refuse."""
        ...

    def encode_body(self, request: Request) -> bytes:
        """Encode one request's parameters as compact JSON, without any id: equal requests, equal bytes."""
        ...

    def encode_line(self, custom_id: str, body: bytes) -> bytes:
        r"""Wrap a body as one line of a shard file, ending in `\n`."""
        ...

    def read_id(self, line: bytes) -> str:
        """Read only the id of a raw result line: a third of the work of reading it whole.

        Raises:
            ValueError: bad JSON, or no id. A line that has one may still be no result.
        """
        ...

    def parse_line(self, line: bytes) -> ItemResult:
        """Read one raw result line.

        Raises:
            ValueError: the line is no result of this dialect (bad JSON, no id).
        """
        ...

    def widen(self, body: bytes, max_output_tokens: int) -> bytes:
        """The same request with another output limit."""
        ...

    def revise(self, body: bytes, answer: str, feedback: str) -> bytes:
        """The same request, continued: what the model answered, and what was wrong with it."""
        ...

    def texts(self, body: bytes) -> tuple[str, str]:
        """The fixed part and the row's part of a request that `encode_body` made."""
        ...


class Provider(Protocol):
    """The wire half: few verbs, one request each (plus the paging that a listing needs).

    Every method raises only `batch_jobs.errors.ProviderError` subclasses, and StoreError where our own disk fails.
    """

    codec: Codec
    limits: Limits

    def upload(self, shard: ShardFile) -> str | None:
        """Upload the shard's file and wait until the provider can use it; None where the dialect has no upload.

        Costs nothing: it may be repeated.
        """
        ...

    def create_batch(self, shard: ShardFile, file_id: str | None) -> BatchView:
        """Create the batch by exactly one POST. The only verb that spends money without an answer."""
        ...

    def now(self) -> datetime | None:
        """The provider's own clock, by the `Date` of a small reply; None where nothing is looked up by time, or unsaid.

        Asked before a create: what it makes can't be older, whatever becomes of our own clock.
        """
        ...

    def find_batches(self, shard: ShardFile, since: datetime, now: datetime | None = None) -> list[BatchView]:
        """List the batches that were or may have been made for this shard since then, newest first.

        Where the dialect carries the key (`shard_key` set), only exact matches. Where it does not (Anthropic),
        candidates by time window and request count; `owns` proves or disproves one.

        `now` is the clock that `since` was read from, None for the provider's own. Where the provider's clock, as its
        reply shows it, is behind that one, the window reaches back as much further.
        """
        ...

    def owns(self, view: BatchView, shard: ShardFile) -> bool | None:
        """Whether this candidate holds the shard's custom_ids; None while it can't be known yet."""
        ...

    def check(self, batch_id: str) -> BatchView:
        """Ask for one batch."""
        ...

    def fetch(self, batch_id: str, folder: Path) -> list[Path]:
        """Download every raw result file of a terminal batch (success and error) into `folder`.

        Returns the files written, possibly none. Streams; never holds a file in memory. Each file is checked
        for completeness (declared length, last newline) before it is returned.
        """
        ...

    def cancel(self, batch_id: str) -> None:
        """Ask the provider to stop; what was finished stays fetchable."""
        ...

    def discard(self, batch_id: str, file_id: str | None) -> None:
        """Delete what the provider keeps of a batch that has ended: its input, its results.

        What is gone already is fine.
        """
        ...

    def complete(self, body: bytes) -> ItemResult:
        """Make one call now, with a body from `Codec.encode_body`; `custom_id` of the result is empty.

        Refusals, truncations and item-level rejections (400) are results; what concerns the account or the
        way to the provider is raised. What the reply's headers say of the account's limits travels with either, as
        `allowance`.
        """
        ...

    def close(self) -> None:
        """Release connections."""
        ...
