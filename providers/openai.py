"""OpenAI's files and batches through the openai SDK, whose own retries are off.

Replies are read from the raw response, because the SDK takes any JSON for a batch (an empty object becomes one
without an id). Sources: OpenAI Batch guide, OpenAI error codes guide, the openai SDK.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any, cast

import httpx2
import openai

from batch_jobs.errors import (
    AuthRefused,
    ConnectionFailed,
    ProviderError,
    RequestRejected,
    TimedOut,
    UnreadableReply,
)
from batch_jobs.models import BatchProblem, BatchState, BatchView, Counts, ItemResult
from providers._allowance import openai_allowance
from providers._reading import as_count, as_dict, as_dicts, as_text
from providers._transport import (
    answered_error,
    check_size,
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
    wait_until,
    write_response,
)
from providers.contract import Codec, Limits, ShardFile
from providers.openai_codec import OpenAICodec, item_error, read_body

STATES = {
    "validating": BatchState.IN_PROGRESS,
    "in_progress": BatchState.IN_PROGRESS,
    "finalizing": BatchState.FINALIZING,
    "completed": BatchState.COMPLETED,
    "failed": BatchState.FAILED,
    "expired": BatchState.EXPIRED,
    "cancelling": BatchState.CANCELLING,
    "cancelled": BatchState.CANCELLED,
}
_ITEM_STATUSES = frozenset({400, 413, 422})
_PAGE = 100

ERRORS: tuple[tuple[type[Exception], type[ProviderError]], ...] = (
    (openai.APITimeoutError, TimedOut),
    (openai.APIConnectionError, ConnectionFailed),
    (openai.APIResponseValidationError, UnreadableReply),
    (openai.LengthFinishReasonError, UnreadableReply),
    (openai.ContentFilterFinishReasonError, UnreadableReply),
    (openai.InvalidWebhookSignatureError, UnreadableReply),
    (openai.WebSocketConnectionClosedError, ConnectionFailed),
    (openai.WebSocketQueueFullError, ConnectionFailed),
    (openai._exceptions.SubjectTokenProviderError, AuthRefused),
)
"""The SDK's exceptions that carry no status; the others are told apart by code and status."""


def translate(error: Exception, secret: str) -> ProviderError | None:
    """An exception of the SDK or of its transport as one of ours; None for any other."""
    if isinstance(error, openai.APIStatusError):
        code = error.code or error.type or ""
        words = as_text(as_dict(error.body).get("message")) or error.message
        headers = error.response.headers
        ours = answered_error(words, status=error.status_code, code=code, secret=secret, headers=headers)
        ours.allowance = openai_allowance(headers)
        return ours
    below = transport_error(error.__cause__, secret) if isinstance(error, openai.APIConnectionError) else None
    known = below or table_error(error, ERRORS, secret) or transport_error(error, secret)
    if known is None and isinstance(error, openai.OpenAIError):
        return provider_error(UnreadableReply, str(error), secret=secret)
    return known


class OpenAIProvider:
    """OpenAI, or any server that speaks its dialect."""

    def __init__(
        self,
        codec: OpenAICodec,
        limits: Limits,
        *,
        base_url: str | None,
        api_key: str,
        timeout_seconds: float,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.codec: Codec = codec
        self.limits = limits
        self._endpoint, self._secret, self._sleep = codec.endpoint, api_key, sleep
        with self._translated():
            self._client = openai.OpenAI(api_key=api_key, base_url=base_url, timeout=timeout_seconds, max_retries=0)

    def _translated(self) -> AbstractContextManager[None]:
        return translated(lambda error: translate(error, self._secret))

    def upload(self, shard: ShardFile) -> str:
        """Upload the shard's file and wait until it can be retrieved with all its bytes."""
        with opened(shard) as handle, self._translated():
            raw = self._client.files.with_raw_response.create(
                file=(f"{shard.key}.jsonl", handle, "application/jsonl"), purpose="batch"
            )
        file_id = required_text(reply_object(raw.http_response.content), "id")
        wait_until(lambda: self._visible(file_id, shard.bytes), self._sleep)
        return file_id

    def _visible(self, file_id: str, size: int) -> bool:
        try:
            with self._translated():
                raw = self._client.files.with_raw_response.retrieve(file_id)
        except RequestRejected as error:
            if error.status == 404:
                return False
            raise
        reply = reply_object(raw.http_response.content)
        if reply.get("status") == "error":
            raise RequestRejected(f"OpenAI refuses the uploaded file {file_id}: {as_text(reply.get('status_details'))}")
        check_size(reply.get("bytes"), size)
        return True

    def create_batch(self, shard: ShardFile, file_id: str | None) -> BatchView:
        """Create the batch by one POST; the shard key travels in its metadata."""
        with self._translated():
            raw = self._client.batches.with_raw_response.create(
                completion_window="24h",
                endpoint=cast(Any, self._endpoint),
                input_file_id=file_id or "",
                metadata={"shard_key": shard.key},
            )
        return _view(reply_object(raw.http_response.content))

    def now(self) -> datetime | None:
        """The clock of the reply to a listing of one batch."""
        with self._translated():
            raw = self._client.batches.with_raw_response.list(limit=1)
        return date_of(raw.http_response.headers)

    def find_batches(self, shard: ShardFile, since: datetime, now: datetime | None = None) -> list[BatchView]:
        """List the batches whose metadata holds the shard key, newest first."""
        found = [view for view in self._listed(since, now) if view.shard_key == shard.key]
        return sorted(found, key=lambda view: view.created_at or since, reverse=True)

    def _listed(self, since: datetime, now: datetime | None) -> Iterator[BatchView]:
        """Every batch down to the first page with one that is older than `since`."""
        after = ""
        while True:
            with self._translated():
                raw = self._client.batches.with_raw_response.list(limit=_PAGE, after=after or openai.omit)
            page, oldest = reply_object(raw.http_response.content), oldest_of(since, now, raw.http_response.headers)
            views = [_view(batch) for batch in as_dicts(page.get("data"))]
            yield from views
            passed = any(view.created_at is not None and view.created_at < oldest for view in views)
            if passed or not views or not page.get("has_more") or views[-1].batch_id == after:
                return
            after = views[-1].batch_id

    def owns(self, view: BatchView, shard: ShardFile) -> bool:
        """The key in the metadata proves it."""
        return view.shard_key == shard.key

    def check(self, batch_id: str) -> BatchView:
        """Ask for one batch."""
        return _view(self._batch(batch_id))

    def _batch(self, batch_id: str) -> dict[str, Any]:
        with self._translated():
            raw = self._client.batches.with_raw_response.retrieve(batch_id)
        return reply_object(raw.http_response.content)

    def fetch(self, batch_id: str, folder: Path) -> list[Path]:
        """Download the output and the error file, whichever there are; an empty id is no file."""
        batch = self._batch(batch_id)
        files = ((batch.get("output_file_id"), "output.jsonl"), (batch.get("error_file_id"), "errors.jsonl"))
        return [self._download(file_id, folder, name) for file_id, name in files if file_id]

    def _download(self, file_id: str, folder: Path, name: str) -> Path:
        with (
            self._translated(),
            self._client.files.with_streaming_response.content(file_id) as response,
        ):
            return save(folder, name, lambda handle: write_response(response.http_response, handle))

    def cancel(self, batch_id: str) -> None:
        """Ask OpenAI to stop; it takes up to ten minutes."""
        with self._translated():
            self._client.batches.with_raw_response.cancel(batch_id)

    def discard(self, batch_id: str, file_id: str | None) -> None:
        """Delete the input, output and error file."""
        batch = self._batch(batch_id)
        named = (file_id or batch.get("input_file_id"), batch.get("output_file_id"), batch.get("error_file_id"))
        delete_each((as_text(name) for name in named), self._delete)

    def _delete(self, file_id: str) -> None:
        with self._translated():
            self._client.files.with_raw_response.delete(file_id)

    def complete(self, body: bytes) -> ItemResult:
        """Make one call now, with exactly these bytes."""
        try:
            with self._translated():
                response = self._client.post(self._endpoint.removeprefix("/v1"), cast_to=httpx2.Response, content=body)
        except RequestRejected as error:
            cause = error.__cause__
            if error.status in _ITEM_STATUSES and isinstance(cause, openai.APIStatusError):
                return item_error("", cause.status_code, as_dict(cause.body))
            raise
        return replace(read_body("", reply_object(response.content)), allowance=openai_allowance(response.headers))

    def close(self) -> None:
        """Release connections."""
        self._client.close()


def _view(batch: dict[str, Any]) -> BatchView:
    """A batch object in our words; a state that we don't know is never terminal."""
    status, counts = as_text(batch.get("status")), as_dict(batch.get("request_counts"))
    problems = as_dicts(as_dict(batch.get("errors")).get("data"))
    return BatchView(
        batch_id=required_text(batch, "id"),
        state=STATES.get(status, BatchState.IN_PROGRESS),
        provider_state=status,
        counts=Counts(*(as_count(counts.get(name)) for name in ("total", "completed", "failed"))),
        created_at=parse_time(batch.get("created_at")),
        shard_key=as_text(as_dict(batch.get("metadata")).get("shard_key")) or None,
        problems=tuple(_problem(problem) for problem in problems),
    )


def _problem(problem: dict[str, Any]) -> BatchProblem:
    line = problem.get("line")
    code, message = as_text(problem.get("code")), as_text(problem.get("message"))
    return BatchProblem(code, message, line if isinstance(line, int) else None)
