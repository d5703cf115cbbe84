"""The Gemini Developer API's files and batches through the google-genai SDK, which does not retry unless told to.

The SDK drops a batch's counts, its error and its unknown states, so batches are read as raw JSON over the very
HTTP client that the SDK is given. Sources: Gemini Batch API guide, the google-genai SDK.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx2
import orjson
from google import genai
from google.genai import errors as genai_errors
from google.genai import types

from batch_jobs.errors import ProviderError, RequestRejected, UnreadableReply
from batch_jobs.models import BatchProblem, BatchState, BatchView, Counts, ItemResult
from providers._reading import as_count, as_dict, as_dicts, as_text
from providers._transport import (
    answered_error,
    check_size,
    delete_each,
    opened,
    parse_time,
    reply_object,
    required_text,
    save,
    table_error,
    translated,
    transport_error,
    wait_until,
)
from providers.contract import Codec, Limits, ShardFile
from providers.gemini_codec import GeminiCodec, error_name, read_error, read_response

DEFAULT_BASE_URL = "https://generativelanguage.googleapis.com/"
DEFAULT_VERSION = "v1"
"""Both as in google-genai 3.4 (`_api_client.py`); its environment variables override them here as there."""

STATES = {
    "QUEUED": BatchState.IN_PROGRESS,
    "PENDING": BatchState.IN_PROGRESS,
    "RUNNING": BatchState.IN_PROGRESS,
    "PAUSED": BatchState.IN_PROGRESS,
    "UPDATING": BatchState.IN_PROGRESS,
    "CANCELLING": BatchState.CANCELLING,
    "SUCCEEDED": BatchState.COMPLETED,
    "PARTIALLY_SUCCEEDED": BatchState.COMPLETED,
    "FAILED": BatchState.FAILED,
    "CANCELLED": BatchState.CANCELLED,
    "EXPIRED": BatchState.EXPIRED,
}
"""Without their prefix: the wire says BATCH_STATE_, the SDK and the guide's examples say JOB_STATE_."""

_PAGE = 100

ERRORS: tuple[tuple[type[Exception], type[ProviderError]], ...] = (
    (genai_errors.UnknownApiResponseError, UnreadableReply),
    (genai_errors.UnknownFunctionCallArgumentError, RequestRejected),
    (genai_errors.UnsupportedFunctionError, RequestRejected),
    (genai_errors.FunctionInvocationError, RequestRejected),
    (genai_errors.ContinuationInterruptedError, UnreadableReply),
    (ValueError, UnreadableReply),  # a reply that is no JSON, an upload without its final status
    (KeyError, UnreadableReply),  # an upload without its URL
    (TypeError, UnreadableReply),
    (AttributeError, UnreadableReply),  # a reply that is no JSON object
)
"""What the SDK raises without a status; it lets Python's own errors out where a reply is not what it expects."""


def translate(error: Exception, secret: str) -> ProviderError | None:
    """An exception of the SDK or of its transport as one of ours; None for any other."""
    if not isinstance(error, genai_errors.APIError):
        return transport_error(error, secret) or table_error(error, ERRORS, secret)
    inner = _inner_error(error)
    reasons = [as_text(detail.get("reason")) for detail in as_dicts(inner.get("details"))]
    code = "API_KEY_INVALID" if "API_KEY_INVALID" in reasons else as_text(inner.get("status"))
    if _quota_used_up(inner):
        code = "quota_exhausted"
    headers = getattr(error.response, "headers", None)
    words = as_text(inner.get("message")) or as_text(error.message)
    ours = answered_error(words, status=as_count(error.code), code=code, secret=secret, headers=headers)
    if ours.retry_after_seconds is None:
        ours.retry_after_seconds = _retry_delay(inner)
    return ours


def _inner_error(error: genai_errors.APIError) -> dict[str, Any]:
    """The error object of an answer, with or without its outer shell."""
    details = as_dict(error.details)
    return as_dict(details.get("error")) or details


def _quota_used_up(inner: dict[str, Any]) -> bool:
    """Whether waiting does not help: a `google.rpc.QuotaFailure` that names no time after which to come back."""
    kinds = {as_text(detail.get("@type")).rpartition(".")[2] for detail in as_dicts(inner.get("details"))}
    return "QuotaFailure" in kinds and "RetryInfo" not in kinds


def _retry_delay(inner: dict[str, Any]) -> float | None:
    """`google.rpc.RetryInfo.retryDelay`, a duration such as `17s`."""
    for detail in as_dicts(inner.get("details")):
        delay = as_text(detail.get("retryDelay"))
        if delay.endswith("s") and delay[:-1].replace(".", "", 1).isdecimal():
            return float(delay[:-1])
    return None


class GeminiProvider:
    """The Gemini Developer API, or any server that speaks its dialect."""

    def __init__(
        self,
        codec: GeminiCodec,
        limits: Limits,
        *,
        model: str | None,
        base_url: str | None,
        api_key: str,
        timeout_seconds: float,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.codec: Codec = codec
        self.limits = limits
        self._model, self._secret, self._sleep = model, api_key, sleep
        base = base_url or os.environ.get("GOOGLE_GEMINI_BASE_URL") or DEFAULT_BASE_URL
        version = os.environ.get("GOOGLE_GENAI_API_VERSION") or DEFAULT_VERSION
        version = "v1beta" if version == "beta" else version
        self._root = f"{base.rstrip('/')}/{version}"
        with self._translated():
            self._http = httpx2.Client(
                timeout=timeout_seconds,
                follow_redirects=True,
                limits=httpx2.Limits(max_connections=1000, max_keepalive_connections=100),
            )
            self._client = genai.Client(
                api_key=api_key,
                vertexai=False,
                http_options=types.HttpOptions(
                    base_url=base,
                    api_version=version,
                    timeout=int(timeout_seconds * 1000),
                    httpx_client=self._http,
                ),
            )

    def _translated(self) -> AbstractContextManager[None]:
        return translated(lambda error: translate(error, self._secret))

    def upload(self, shard: ShardFile) -> str:
        """Upload the shard's file in resumable blocks and wait until it is ACTIVE."""
        config = types.UploadFileConfig(mime_type="application/jsonl", display_name=shard.key)
        with opened(shard) as handle, self._translated():
            name = self._client.files.upload(file=handle, config=config).name
        if not name:
            raise UnreadableReply("The reply to the upload names no file. The file can be uploaded again.")
        wait_until(lambda: self._active(name, shard.bytes), self._sleep)
        return name

    def _active(self, name: str, size: int) -> bool:
        try:
            file = self._get(name)
        except RequestRejected as error:
            if error.status == 404:
                return False
            raise
        if file.get("state") == "FAILED":
            reason = as_text(as_dict(file.get("error")).get("message"))
            raise RequestRejected(f"Gemini refuses the uploaded file {name}: {reason}")
        if file.get("state") != "ACTIVE":
            return False
        check_size(as_count(file.get("sizeBytes")) or None, size)
        return True

    def _get(self, path: str, **query: str | int) -> dict[str, Any]:
        """Read one resource as raw JSON, with the SDK's transport, base URL, version, key and error classes."""
        with self._translated():
            response = self._http.get(
                f"{self._root}/{quote(path)}", params=query, headers={"x-goog-api-key": self._secret.strip()}
            )
            genai_errors.APIError.raise_for_response(response)
        return reply_object(response.content)

    def create_batch(self, shard: ShardFile, file_id: str | None) -> BatchView:
        """Create the batch by one POST; the shard key travels as its display name."""
        with self._translated():
            job = self._client.batches.create(
                model=shard.model,
                src=types.BatchJobSource(file_name=file_id),
                config=types.CreateBatchJobConfig(display_name=shard.key),
            )
        state = job.state.value if job.state else ""
        reply = {"displayName": job.display_name, "state": state, "createTime": job.create_time}
        return _view({"name": job.name, "metadata": reply})

    def now(self) -> None:
        """Not asked: batches are found by their name, whenever they were made."""

    def find_batches(self, shard: ShardFile, since: datetime, now: datetime | None = None) -> list[BatchView]:  # noqa: ARG002
        """List the batches whose display name is the shard key, newest first."""
        found = [view for view in self._listed() if view.shard_key == shard.key]
        return sorted(found, key=lambda view: view.created_at or since, reverse=True)

    def _listed(self) -> Iterator[BatchView]:
        """Every batch: no order of the list is documented, so no page can be left out."""
        token = ""
        while True:
            page = self._get("batches", pageSize=_PAGE, **({"pageToken": token} if token else {}))
            yield from (_view(operation) for operation in as_dicts(page.get("operations")))
            last, token = token, as_text(page.get("nextPageToken"))
            if not token or token == last:
                return

    def owns(self, view: BatchView, shard: ShardFile) -> bool:
        """The key as the display name proves it."""
        return view.shard_key == shard.key

    def check(self, batch_id: str) -> BatchView:
        """Ask for one batch."""
        return _view(self._get(batch_id))

    def fetch(self, batch_id: str, folder: Path) -> list[Path]:
        """Download the result file, or write the inlined responses as the same lines."""
        operation = self._get(batch_id)
        output = _output(operation)
        name = as_text(output.get("responsesFile"))
        if name:
            return [self._download(name, folder)]
        inlined = as_dicts(as_dict(output.get("inlinedResponses")).get("inlinedResponses"))
        if not inlined:
            return []
        lines = b"".join(orjson.dumps(response) + b"\n" for response in inlined)
        return [save(folder, "results.jsonl", lambda handle: handle.write(lines))]

    def _download(self, name: str, folder: Path) -> Path:
        with self._translated():
            return save(
                folder,
                "results.jsonl",
                lambda handle: self._client.files.download(file=name, destination=handle),
            )

    def cancel(self, batch_id: str) -> None:
        """Ask Gemini to stop."""
        with self._translated():
            self._client.batches.cancel(name=batch_id)

    def discard(self, batch_id: str, file_id: str | None) -> None:
        """Delete the input file, and the result file where the API lets it be deleted.

        A result file's id is longer than the 40 characters that the delete route takes (python-genai#1759).
        A file that is gone is answered with 403, "or it may not exist".
        """
        results = as_text(_output(self._get(batch_id)).get("responsesFile"))
        delete_each((file_id or "", results), self._delete, gone=(403, 404))

    def _delete(self, name: str) -> None:
        with self._translated():
            self._client.files.delete(name=name)

    def complete(self, body: bytes) -> ItemResult:
        """Make one call now; continuation by further calls is off.

        The body travels as the SDK's `extra_body`, since its own config would be sent under other names.
        """
        request = orjson.loads(body)
        config = types.GenerateContentConfig(
            should_return_http_response=True,
            automatic_continuation=False,
            automatic_function_calling=types.AutomaticFunctionCallingConfig(disable=True),
            http_options=types.HttpOptions(extra_body=request),
        )
        if not self._model:
            raise RequestRejected("A single Gemini call needs the model's name: connect with model=...")
        try:
            with self._translated():
                reply = self._client.models.generate_content(
                    model=self._model, contents=request["contents"], config=config
                )
        except RequestRejected as error:
            cause = error.__cause__
            if isinstance(cause, genai_errors.APIError) and _concerns_item(error):
                return read_error("", _inner_error(cause))
            raise
        http_reply = reply.sdk_http_response
        return read_response("", reply_object(((http_reply and http_reply.body) or "").encode()))

    def close(self) -> None:
        """Release connections; the SDK leaves a client that it was given open."""
        self._client.close()
        self._http.close()


def _output(operation: dict[str, Any]) -> dict[str, Any]:
    """Where a batch's results are."""
    return as_dict(as_dict(operation.get("metadata")).get("output")) or as_dict(operation.get("response"))


def _concerns_item(error: ProviderError) -> bool:
    """Whether a rejection is this request's own; FAILED_PRECONDITION is the account's (region, billing)."""
    return error.status in {400, 413, 422} and error.code != "FAILED_PRECONDITION"


def _view(operation: dict[str, Any]) -> BatchView:
    """A batch operation in our words; a state that we don't know is never terminal."""
    metadata, error = as_dict(operation.get("metadata")), as_dict(operation.get("error"))
    status, stats = as_text(metadata.get("state")), as_dict(metadata.get("batchStats"))
    counts = [as_count(stats.get(f"{name}equestCount")) for name in ("r", "successfulR", "failedR")]
    problems = (BatchProblem(error_name(error), as_text(error.get("message"))),) if error else ()
    created = metadata.get("createTime")
    return BatchView(
        batch_id=required_text(operation, "name"),
        state=STATES.get(status.partition("_STATE_")[2], BatchState.IN_PROGRESS),
        provider_state=status,
        counts=Counts(*counts),
        created_at=created if isinstance(created, datetime) else parse_time(created),
        shard_key=as_text(metadata.get("displayName")) or None,
        problems=problems,
    )
