"""What the three clients share around their SDK: errors in our words, replies as objects, waiting, saving a download.

All three SDKs ride on httpx2, whose own exceptions reach us from streams and from google-genai.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from io import BufferedReader, BufferedWriter
from pathlib import Path
from typing import IO, Any

import httpx2
import orjson

from batch_jobs.errors import (
    AuthRefused,
    ConnectionFailed,
    ProviderError,
    QuotaExhausted,
    RateLimited,
    RequestRejected,
    ServerFailed,
    StoreError,
    TimedOut,
    Unreachable,
    UnreadableReply,
)
from batch_jobs.system import sync_file, sync_folder
from providers.codes import error_class
from providers.contract import ShardFile

BLOCK_BYTES = 1 << 20
CLOCK_SKEW_SECONDS = 600
"""How far a list reaches back beyond its `since`: a clock may have been set right meanwhile."""
WAITS_SECONDS = (0.2, 0.5, 1.0, 2.0, 3.0, 5.0, 5.0, 5.0, 10.0)
"""Pauses between looks at an uploaded file, about half a minute in all: providers show it late (a 404 at first)."""

SECRET_CHARS = 16
"""Real keys are longer."""

PIECE_CHARS = 8
"""Providers quote a wrong key by its beginning: `sk-proj-********cdef`."""

CODE_CHARS = 100

ADVICE: dict[type[ProviderError], str] = {
    RateLimited: "It was not accepted; it can be sent again later",
    QuotaExhausted: "The account's money or quota is used up: top it up or raise its limit, then resume",
    AuthRefused: "Check the key, its rights and its project, then resume",
    RequestRejected: "Check the model, the endpoint, the parameters and the base URL",
    ServerFailed: "The provider failed or is overloaded; it can be tried again later",
    ConnectionFailed: "Check the network, the proxy and the base URL",
    Unreachable: "Nothing was sent. Check the network, the proxy and the base URL",
    TimedOut: "Try again later, or raise timeout_seconds",
    UnreadableReply: "Check that the base URL is the provider's",
}

Translate = Callable[[Exception], ProviderError | None]


def provider_error(
    kind: type[ProviderError],
    words: str,
    *,
    secret: str,
    code: str = "",
    status: int | None = None,
    headers: httpx2.Headers | None = None,
) -> ProviderError:
    """Build one of our errors: what was wrong, and what to do; never with the key in it.

    A refused key is reported without the provider's words, as they may quote a part of it.
    """
    code = _without(secret, code)[:CODE_CHARS]
    place = f"HTTP {status}" if status else "no HTTP answer"
    place = f"{place}, {code}" if code else place
    told = "" if kind is AuthRefused else f": {_without(secret, words).strip()[:500]}"
    message = f"{_summary(kind)} ({place}){told.rstrip('.')}. {ADVICE[kind]}."
    return kind(message, code=code or None, status=status, retry_after_seconds=retry_after_seconds(headers))


def _without(secret: str, words: str) -> str:
    """The words with the key taken out, whole or cut; a rehearsal's made-up key may be a word of its own and stays."""
    if len(secret) < SECRET_CHARS:
        return words
    return re.sub(f"{re.escape(secret[:PIECE_CHARS])}[^\\s\"',;]*", "***", words.replace(secret, "***"))


def _summary(kind: type[ProviderError]) -> str:
    text = (kind.__doc__ or "").strip().splitlines()[0]
    return text.split(":")[0].rstrip(".")


def answered_error(
    words: str, *, status: int, code: str, secret: str, headers: httpx2.Headers | None = None
) -> ProviderError:
    """The error for an answer with an error status."""
    kind = error_class(status, code)
    return provider_error(kind, words, secret=secret, code=code, status=status, headers=headers)


def retry_after_seconds(headers: httpx2.Headers | None) -> float | None:
    """How long the provider asks to wait: `retry-after-ms`, or `retry-after` in seconds or as an HTTP date."""
    if headers is None:
        return None
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        try:
            return max(0.0, float(headers[name]) * unit)
        except (KeyError, ValueError):
            continue
    try:
        at = parsedate_to_datetime(headers["retry-after"])
    except (KeyError, ValueError):
        return None
    return max(0.0, (at.replace(tzinfo=at.tzinfo or UTC) - datetime.now(UTC)).total_seconds())


_TRANSPORT: tuple[tuple[type[Exception], type[ProviderError]], ...] = (
    (httpx2.ConnectError, Unreachable),
    (httpx2.ConnectTimeout, Unreachable),
    (httpx2.PoolTimeout, Unreachable),
    (httpx2.TimeoutException, TimedOut),
    (httpx2.UnsupportedProtocol, RequestRejected),
    (httpx2.InvalidURL, RequestRejected),
    (httpx2.TransportError, ConnectionFailed),
    (httpx2.DecodingError, UnreadableReply),
    (httpx2.TooManyRedirects, UnreadableReply),
    (httpx2.HTTPStatusError, UnreadableReply),
    (httpx2.StreamError, UnreadableReply),
    (httpx2.CookieConflict, UnreadableReply),
)


def transport_error(error: BaseException | None, secret: str) -> ProviderError | None:
    """The error for an exception of httpx2; None for any other."""
    return table_error(error, _TRANSPORT, secret)


def table_error(
    error: BaseException | None, table: tuple[tuple[type[Exception], type[ProviderError]], ...], secret: str
) -> ProviderError | None:
    """The error for the first class of the table that the exception belongs to; None when there is none."""
    for raised, kind in table:
        if isinstance(error, raised):
            return provider_error(kind, f"{type(error).__name__}: {error}", secret=secret)
    return None


@contextmanager
def translated(translate: Translate) -> Iterator[None]:
    """Raise every exception of an SDK as one of our errors; one that `translate` does not know is a bug of ours."""
    try:
        yield
    except Exception as error:
        ours = translate(error)
        if ours is None:
            raise
        if isinstance(ours, AuthRefused):
            raise ours from None  # the SDK's text may quote the key
        raise ours from error


def delete_each(names: Iterable[str], delete: Callable[[str], object], gone: tuple[int, ...] = (404,)) -> None:
    """Delete files, each with one request; one that can't be deleted does not keep the others.

    Args:
        names: the files; an empty name is none.
        delete: deletes one; raises ProviderError.
        gone: statuses that say that a file is gone already, which is fine.

    Raises:
        ProviderError: the first failure, once all were tried.
    """
    failures: list[ProviderError] = []
    for name in dict.fromkeys(filter(None, names)):
        try:
            delete(name)
        except ProviderError as error:
            if error.status not in gone:
                failures.append(error)
    if failures:
        raise failures[0]


def reply_object(content: bytes) -> dict[str, Any]:
    """Read a reply as a JSON object; the SDKs never check what they got.

    Raises:
        UnreadableReply: it is none.
    """
    try:
        reply = orjson.loads(content)
    except orjson.JSONDecodeError as error:
        raise UnreadableReply(f"The reply is no JSON: {error}. {ADVICE[UnreadableReply]}.") from None
    if not isinstance(reply, dict):
        raise UnreadableReply(f"The reply is no JSON object. {ADVICE[UnreadableReply]}.")
    return reply


def required_text(reply: dict[str, Any], name: str) -> str:
    """A text that a reply must hold.

    Raises:
        UnreadableReply: it does not.
    """
    value = reply.get(name)
    if not isinstance(value, str) or not value:
        raise UnreadableReply(f'The reply holds no "{name}". {ADVICE[UnreadableReply]}.')
    return value


def date_of(headers: httpx2.Headers) -> datetime | None:
    """The provider's clock as a reply shows it, in UTC."""
    with suppress(KeyError, ValueError):
        return parsedate_to_datetime(headers["date"]).astimezone(UTC)
    return None


def oldest_of(since: datetime, now: datetime | None, headers: httpx2.Headers) -> datetime:
    """The time, by the provider's clock, before which a batch can't have been created.

    Args:
        since: when the create was sent, by our clock.
        now: our clock.
        headers: of the provider's reply; `Date` is its clock.
    """
    behind, theirs = timedelta(), date_of(headers)
    if now is not None and theirs is not None:
        behind = max(now - theirs, behind)
    return since - behind - timedelta(seconds=CLOCK_SKEW_SECONDS)


def parse_time(value: object) -> datetime | None:
    """A provider's time as UTC: unix seconds or RFC 3339."""
    try:
        if isinstance(value, int | float):
            return datetime.fromtimestamp(value, UTC)
        return datetime.fromisoformat(value).astimezone(UTC) if isinstance(value, str) else None
    except (ValueError, OverflowError, OSError):
        return None


def wait_until(ready: Callable[[], bool], sleep: Callable[[float], None]) -> None:
    """Look until an uploaded file can be used, a bounded number of times.

    Raises:
        TimedOut: it never could; an upload may be repeated.
    """
    for seconds in WAITS_SECONDS:
        if ready():
            return
        sleep(seconds)
    if not ready():
        raise TimedOut(f"The uploaded file was not usable after {sum(WAITS_SECONDS):.0f} s. It can be uploaded again.")


@contextmanager
def opened(shard: ShardFile) -> Iterator[BufferedReader]:
    """Open a shard's file, before anything is sent.

    Raises:
        StoreError: it is gone, or not of the size that was recorded.
    """
    try:
        handle = shard.path.open("rb")
    except OSError as error:
        raise StoreError(f"{shard.path}: can't be read: {error}. Put the file back, then resume.") from error
    with handle:
        size = os.fstat(handle.fileno()).st_size
        if size != shard.bytes:
            raise StoreError(f"{shard.path}: holds {size:,} bytes, not the {shard.bytes:,} that were written.")
        yield handle


def check_size(counted: object, size: int) -> None:
    """Compare what the provider counted of an upload with the file.

    Raises:
        UnreadableReply: they differ; an upload may be repeated.
    """
    if isinstance(counted, int) and counted != size:
        raise UnreadableReply(f"The provider got {counted:,} of {size:,} bytes. The file can be uploaded again.")


def save(folder: Path, name: str, write: Callable[[BufferedWriter], object]) -> Path:
    """Write one result file beside its place, prove it complete, sync it, and only then give it its name.

    Raises:
        UnreadableReply: what came is shorter than declared, or ends within a line.
        StoreError: our disk failed.
    """
    part = folder / f"{name}.part"
    try:
        with part.open("wb") as handle:
            write(handle)
            sync_file(handle, part)
        _check_last_line(part)
        done = part.replace(folder / name)
        sync_folder(folder)
        return done
    except (httpx2.RemoteProtocolError, httpx2.ReadError, httpx2.DecodingError) as error:
        raise UnreadableReply(f"The download of {name} broke off: {error}. It can be repeated.") from error
    except OSError as error:
        raise StoreError(
            f"{part}: can't be written: {error}. Free the disk or check its rights, then resume."
        ) from error


def write_response(response: httpx2.Response, handle: IO[bytes]) -> None:
    """Stream a response's body to a file; the transport compares the declared length with what came."""
    for block in response.iter_bytes(BLOCK_BYTES):
        handle.write(block)


def _check_last_line(part: Path) -> None:
    """A complete file ends with a newline, or its last line is whole JSON."""
    with part.open("rb") as handle:
        if handle.seek(0, os.SEEK_END) == 0:
            return
        handle.seek(-1, os.SEEK_END)
        if handle.read(1) == b"\n":
            return
        try:
            orjson.loads(_last_line(handle))
        except orjson.JSONDecodeError:
            raise UnreadableReply("The result file ends within a line. The download can be repeated.") from None


def _last_line(handle: IO[bytes]) -> bytes:
    """The bytes after the last newline, read from the end."""
    position, tail = handle.seek(0, os.SEEK_END), b""
    while position > 0 and b"\n" not in tail:
        step = min(BLOCK_BYTES, position)
        position -= step
        handle.seek(position)
        tail = handle.read(step) + tail
    return tail.rpartition(b"\n")[2]
