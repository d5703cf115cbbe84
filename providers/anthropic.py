"""Anthropic's message batches through the anthropic SDK, whose own retries are off.

A batch carries no key of ours and its create has no idempotency, so a lost create is found again by its time and
size, and proved by the custom_ids in its results. Sources: Anthropic Message Batches guide, the anthropic SDK.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import IO, Any

import anthropic
import httpx2

from batch_jobs.errors import (
    AuthRefused,
    ConnectionFailed,
    ProviderError,
    RequestRejected,
    ServerFailed,
    TimedOut,
    UnreadableReply,
)
from batch_jobs.models import BatchState, BatchView, Counts, ItemResult
from providers._allowance import anthropic_allowance
from providers._reading import as_count, as_dict, as_dicts, as_text, load_object
from providers._transport import (
    BLOCK_BYTES,
    answered_error,
    date_of,
    delete_each,
    oldest_of,
    opened,
    parse_time,
    provider_error,
    reply_object,
    required_text,
    save,
    table_error,
    translated,
    transport_error,
    write_response,
)
from providers.anthropic_codec import AnthropicCodec, error_code, read_error, read_message
from providers.contract import Codec, Limits, ShardFile

STATES = {
    "in_progress": BatchState.IN_PROGRESS,
    "canceling": BatchState.CANCELLING,
    "ended": BatchState.COMPLETED,
}
COUNTS = ("processing", "succeeded", "errored", "canceled", "expired")
_ITEM_STATUSES = frozenset({400, 413, 422})
_PAGE = 100
_PROOFS = 50
_BEFORE, _AFTER = b'{"requests":[', b"]}"

ERRORS: tuple[tuple[type[Exception], type[ProviderError]], ...] = (
    (anthropic.APITimeoutError, TimedOut),
    (anthropic.APIConnectionError, ConnectionFailed),
    (anthropic.APIResponseValidationError, UnreadableReply),
    (anthropic.APIWebhookValidationError, UnreadableReply),
    (anthropic.RetryableError, ServerFailed),
    (anthropic.CredentialsError, AuthRefused),
    (anthropic.WorkloadIdentityError, AuthRefused),
)
"""The SDK's exceptions that carry no status; the others are told apart by code and status."""


def translate(error: Exception, secret: str) -> ProviderError | None:
    """An exception of the SDK or of its transport as one of ours; None for any other."""
    if isinstance(error, anthropic.APIStatusError):
        inner = as_dict(as_dict(error.body).get("error"))
        words = as_text(inner.get("message")) or error.message
        code = error_code(inner) if inner else ""
        headers = error.response.headers
        ours = answered_error(words, status=error.status_code, code=code, secret=secret, headers=headers)
        ours.allowance = anthropic_allowance(headers, datetime.now(UTC))
        return ours
    below = transport_error(error.__cause__, secret) if isinstance(error, anthropic.APIConnectionError) else None
    known = below or table_error(error, ERRORS, secret) or transport_error(error, secret)
    if known is None and isinstance(error, anthropic.AnthropicError):
        return provider_error(UnreadableReply, str(error), secret=secret)
    return known


class AnthropicProvider:
    """Anthropic, or any server that speaks its dialect."""

    def __init__(
        self, codec: AnthropicCodec, limits: Limits, *, base_url: str | None, api_key: str, timeout_seconds: float
    ) -> None:
        self.codec: Codec = codec
        self.limits = limits
        self._secret = api_key
        with self._translated():
            self._client = anthropic.Anthropic(
                api_key=api_key, base_url=base_url, timeout=timeout_seconds, max_retries=0
            )

    def _translated(self) -> AbstractContextManager[None]:
        return translated(lambda error: translate(error, self._secret))

    def upload(self, shard: ShardFile) -> None:
        """Nothing to do: the requests travel in the create itself."""

    def create_batch(self, shard: ShardFile, file_id: str | None) -> BatchView:  # noqa: ARG002
        """Create the batch by one POST that streams the shard's lines as they stand on disk.

        The SDK's own `batches.create` takes dicts only; its public `post` takes bytes, so that 256 MB of requests
        never become Python objects.
        """
        size = len(_BEFORE) + max(shard.bytes - 1, 0) + len(_AFTER)
        with opened(shard) as handle, self._translated():
            response = self._client.post(
                "/v1/messages/batches",
                cast_to=httpx2.Response,
                content=_create_body(handle, shard.bytes),
                options={"headers": {"Content-Length": str(size)}},
            )
        return _view(reply_object(response.content))

    def now(self) -> datetime | None:
        """The clock of the reply to a listing of one batch."""
        with self._translated():
            raw = self._client.messages.batches.with_raw_response.list(limit=1)
        return date_of(raw.http_response.headers)

    def find_batches(self, shard: ShardFile, since: datetime, now: datetime | None = None) -> list[BatchView]:
        """List the batches that may hold the shard: of its size, created at or after `since`, newest first."""
        return [view for view in self._listed(since, now) if view.counts.total == shard.requests]

    def _listed(self, since: datetime, now: datetime | None) -> Iterator[BatchView]:
        """Every batch that is not too old, newest first as Anthropic lists them, down to the first page with one."""
        after = ""
        while True:
            with self._translated():
                raw = self._client.messages.batches.with_raw_response.list(
                    limit=_PAGE, after_id=after or anthropic.omit
                )
            page, oldest = reply_object(raw.http_response.content), oldest_of(since, now, raw.http_response.headers)
            views = [_view(batch) for batch in as_dicts(page.get("data"))]
            young = [view for view in views if view.created_at is None or view.created_at >= oldest]
            yield from young
            if len(young) < len(views) or not views or not page.get("has_more") or views[-1].batch_id == after:
                return
            after = views[-1].batch_id

    def owns(self, view: BatchView, shard: ShardFile) -> bool | None:
        """Look for the shard's key in the first custom_ids of the results; None while there is none to look at.

        One id proves it: lines under unknown ids, and unreadable ones, may stand among the shard's own.
        """
        if not view.state.terminal or not self._batch(view.batch_id).get("results_url"):
            return None
        with (
            self._translated(),
            self._client.messages.batches.with_streaming_response.results(view.batch_id) as response,
        ):
            lines = islice(response.http_response.iter_lines(), _PROOFS)
            ids = [custom_id for line in lines if (custom_id := _custom_id(line))]
        return any(custom_id.startswith(f"{shard.key}-i") for custom_id in ids) if ids else None

    def check(self, batch_id: str) -> BatchView:
        """Ask for one batch."""
        return _view(self._batch(batch_id))

    def _batch(self, batch_id: str) -> dict[str, Any]:
        with self._translated():
            raw = self._client.messages.batches.with_raw_response.retrieve(batch_id)
        return reply_object(raw.http_response.content)

    def fetch(self, batch_id: str, folder: Path) -> list[Path]:
        """Download the results of an ended batch.

        Raises:
            RequestRejected: Anthropic has archived them (29 days after the create).
        """
        batch = self._batch(batch_id)
        if batch.get("archived_at"):
            raise RequestRejected(f"Anthropic has archived the results of {batch_id}; they can't be fetched any more.")
        if not batch.get("results_url"):
            return []
        with (
            self._translated(),
            self._client.messages.batches.with_streaming_response.results(batch_id) as response,
        ):
            return [save(folder, "results.jsonl", lambda handle: write_response(response.http_response, handle))]

    def cancel(self, batch_id: str) -> None:
        """Ask Anthropic to stop; requests under way may still finish."""
        with self._translated():
            self._client.messages.batches.with_raw_response.cancel(batch_id)

    def discard(self, batch_id: str, file_id: str | None) -> None:  # noqa: ARG002
        """Delete the batch with its results; Anthropic keeps no other file of it."""
        delete_each((batch_id,), self._delete)

    def _delete(self, batch_id: str) -> None:
        with self._translated():
            self._client.messages.batches.with_raw_response.delete(batch_id)

    def complete(self, body: bytes) -> ItemResult:
        """Make one call now, with exactly these bytes."""
        try:
            with self._translated():
                response = self._client.post("/v1/messages", cast_to=httpx2.Response, content=body)
        except RequestRejected as error:
            cause = error.__cause__
            if error.status in _ITEM_STATUSES and isinstance(cause, anthropic.APIStatusError):
                return read_error("", as_dict(cause.body))
            raise
        allowance = anthropic_allowance(response.headers, datetime.now(UTC))
        return replace(read_message("", reply_object(response.content)), allowance=allowance)

    def close(self) -> None:
        """Release connections."""
        self._client.close()


def _create_body(handle: IO[bytes], size: int) -> Iterator[bytes]:
    r"""The create's JSON in blocks: the lines with `,` for `\n`, which encoded JSON holds nowhere else."""
    yield _BEFORE
    left = max(size - 1, 0)
    while left > 0 and (block := handle.read(min(BLOCK_BYTES, left))):
        left -= len(block)
        yield block.replace(b"\n", b",")
    yield _AFTER


def _custom_id(line: str) -> str:
    """The id of a result line; empty when it is none."""
    try:
        return as_text(load_object(line.encode()).get("custom_id"))
    except ValueError:
        return ""


def _view(batch: dict[str, Any]) -> BatchView:
    """A message batch in our words; all counts but `processing` stay 0 until it has ended."""
    status = as_text(batch.get("processing_status"))
    counts = {name: as_count(as_dict(batch.get("request_counts")).get(name)) for name in COUNTS}
    return BatchView(
        batch_id=required_text(batch, "id"),
        state=STATES.get(status, BatchState.IN_PROGRESS),
        provider_state=status,
        counts=Counts(
            total=sum(counts.values()),
            succeeded=counts["succeeded"],
            failed=counts["errored"] + counts["canceled"] + counts["expired"],
        ),
        created_at=parse_time(batch.get("created_at")),
    )
