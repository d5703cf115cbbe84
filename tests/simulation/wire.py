"""The way to the simulated provider: the product's own `Provider` Protocol, one object for each of our processes.

Each verb may fail on its way there or back, and our process may die, sleep or be replaced at either moment.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from email.utils import format_datetime
from io import BufferedWriter
from pathlib import Path
from typing import Any, Protocol, TypeVar

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
    TimedOut,
    Unreachable,
    UnreadableReply,
)
from batch_jobs.models import AskKind, BatchView, Dialect, ItemResult
from providers._transport import oldest_of, opened, save
from providers.connect import codec_for
from providers.contract import Codec, Limits, Provider, ShardFile
from tests.contract.lifecycle.kit import Crash, read_shard
from tests.simulation.asked import Asked, understood
from tests.simulation.faults import CHANCE, Fault, Faults
from tests.simulation.lines import Fate
from tests.simulation.server import Batch, Server
from tests.simulation.template import JUDGES, RIGHT_KEY
from tests.simulation.violations import Kind, Violation

UNCLEAR: tuple[type[ProviderError], ...] = (ServerFailed, ConnectionFailed, TimedOut, UnreadableReply)
PASSING: tuple[type[ProviderError], ...] = (ServerFailed, ConnectionFailed, TimedOut, RateLimited)
CODEC = codec_for(Dialect.OPENAI)
LESS = 0.6 * CHANCE
"""For what only makes our side come again: each costs a simulated job one more pass."""
T = TypeVar("T")


class Caller(Protocol):
    """The process that calls."""

    number: int
    keys: dict[str, str]
    replaced: bool
    job: str

    def at(self, site: str, crash: Fault) -> None:
        """A moment at which anything may happen to it."""
        ...

    def die(self) -> Crash:
        """The process ends here."""
        ...

    def note(self, text: str) -> None:
        """Write a line of the schedule."""
        ...


class Wires(dict[str, Provider]):
    """One process's connections: whoever is asked for, by provider, model and address, it is a wire of our own."""

    def __init__(self, server: Server, caller: Caller, prefixes: Mapping[str, bytes]) -> None:
        super().__init__()
        self._made = {name: Wire(server, caller, name, prefix) for name, prefix in prefixes.items()}

    def __contains__(self, _: object) -> bool:
        return True

    def __missing__(self, name: str) -> Wire:
        return self._made[name.partition(" ")[0]]


class Wire:
    """One process's connection to the provider.

    Args:
        name: the provider's, in config.json.
        prefix: what the call cache puts before the body of a call to it.
    """

    def __init__(self, server: Server, caller: Caller, name: str, prefix: bytes) -> None:
        self.codec: Codec = CODEC
        self.limits = Limits(50_000, 200_000_000)
        self.server, self.caller, self.account, self.prefix = server, caller, name, prefix
        self.faults: Faults = server.faults

    # --- the verbs -------------------------------------------------------------------------------------------

    def upload(self, shard: ShardFile) -> str | None:
        return self._call("upload", shard.key, lambda: self._upload(shard))

    def create_batch(self, shard: ShardFile, file_id: str | None) -> BatchView:
        return self._call("create", shard.key, lambda: self._create(shard))

    def now(self) -> datetime:
        return datetime.fromtimestamp(int(self.server.now()), UTC)

    def find_batches(self, shard: ShardFile, since: datetime, now: datetime | None = None) -> list[BatchView]:
        return self._call("find", shard.key, lambda: self._find(shard, since, now))

    def owns(self, view: BatchView, shard: ShardFile) -> bool | None:
        return self._call("owns", view.batch_id, lambda: self._owns(view, shard))

    def check(self, batch_id: str) -> BatchView:
        return self._call("check", batch_id, lambda: self._check(batch_id))

    def fetch(self, batch_id: str, folder: Path) -> list[Path]:
        return self._call("fetch", batch_id, lambda: self._fetch(batch_id, folder))

    def cancel(self, batch_id: str) -> None:
        self._call("cancel", batch_id, lambda: self._cancel(batch_id))

    def discard(self, batch_id: str, file_id: str | None) -> None:
        """Remove the provider's files of a merged batch."""
        self._call("discard", batch_id, lambda: self._discard(batch_id))

    def complete(self, body: bytes) -> ItemResult:
        return self._call("complete", "", lambda: self._complete(self._understood("call", orjson.loads(body))))

    def close(self) -> None:
        """Nothing to release."""

    # --- how they go -----------------------------------------------------------------------------------------

    def _call(self, verb: str, what: str, serve: Callable[[], T]) -> T:
        self.caller.at(f"before {verb}", Fault.CRASH_AT_VERB)
        name = what.partition("-")[2] or what
        if self.caller.keys[self.account] != RIGHT_KEY:
            self.server.report(Violation(Kind.ACCOUNT, f"{verb} {name} with another key than the job's"))
            raise AuthRefused
        try:
            if self.faults.strikes(Fault.QUOTA, verb):
                raise QuotaExhausted("top it up", code="insufficient_quota")
            if self.faults.strikes(Fault.AUTH_REFUSED, verb):
                raise AuthRefused("no such key")
            served = serve()
        except ProviderError as error:
            self.caller.note(f"{verb} {name}: {type(error).__name__}")
            raise
        self.caller.note(f"{verb} {name}: {_short(served)}")
        self.caller.at(f"after {verb}", Fault.CRASH_AT_VERB)
        return served

    def _raise(self, kinds: tuple[type[ProviderError], ...]) -> None:
        raise self.faults.pick("error", kinds)("trouble", retry_after_seconds=self.faults.pick("after", [None, 30.0]))

    def _upload(self, shard: ShardFile) -> str:
        with opened(shard):
            pass
        if self.faults.strikes(Fault.UPLOAD_FAILS, chance=LESS):
            self._raise(PASSING)
        if self.faults.strikes(Fault.UPLOAD_REJECTED, chance=LESS):
            raise RequestRejected("this file is no batch", code="invalid_file")
        self.server.uploads += 1
        return f"file-{self.server.uploads}"

    def _create(self, shard: ShardFile) -> BatchView:
        with opened(shard):
            requests = [self._understood(sent.custom_id, sent.body) for sent in read_shard(shard.path)]
        self._refuse()
        faults, server = self.faults, self.server
        if faults.strikes(Fault.CREATE_UNCLEAR, chance=LESS):
            self._raise(UNCLEAR)
        if faults.strikes(Fault.CREATE_ACCEPTED_LATE):
            self._lose(
                server.accept(shard.key, self.account, requests, faults.between("late", 1, server.quarantine - 400))
            )
        if faults.strikes(Fault.CREATE_ACCEPTED_TOO_LATE):
            late = server.quarantine + faults.between("too late", 60, 1200)
            self._lose(server.accept(shard.key, self.account, requests, late))
        has_room = server.has_room(len(requests))
        if not has_room and server.keyless:
            raise RateLimited("too many requests in the queue")
        batch = server.accept(shard.key, self.account, requests)
        batch.without_room = not has_room
        if faults.strikes(Fault.CREATE_REPLY_LOST):
            raise faults.pick("lost", (ConnectionFailed, TimedOut, UnreadableReply))
        if faults.strikes(Fault.CREATE_ACCEPTED_THEN_500):
            raise ServerFailed
        return server.view(batch)

    def _lose(self, batch: Batch) -> None:
        """A create whose caller hears nothing, or is not there any more to hear it."""
        self.caller.note(f"create {batch.key.partition('-')[2]}: will be accepted as {batch.batch_id} later")
        if self.faults.draw("lost") < 0.7:
            self._raise(UNCLEAR)
        raise self.caller.die()

    def _refuse(self) -> None:
        """A create that is certainly not accepted."""
        faults = self.faults
        if faults.strikes(Fault.CREATE_RATE_LIMITED, chance=LESS):
            raise RateLimited("later")
        if faults.strikes(Fault.CREATE_RETRY_AFTER, chance=LESS):
            raise RateLimited("later", retry_after_seconds=faults.between("after", 1, 600))
        if faults.strikes(Fault.CREATE_REJECTED, chance=LESS):
            raise RequestRejected("line 1 is too long", code="invalid_request")
        if faults.strikes(Fault.CREATE_UNREACHABLE, chance=LESS):
            raise Unreachable

    def _find(self, shard: ShardFile, since: datetime, now: datetime | None) -> list[BatchView]:
        if self.faults.strikes(Fault.LIST_FAILS, chance=LESS):
            self._raise(PASSING)
        date = format_datetime(datetime.fromtimestamp(self.server.now(), UTC), usegmt=True)
        found = self.server.listed(self.account, oldest_of(since, now, httpx2.Headers({"date": date})).timestamp())
        if not self.server.keyless:
            return [self.server.view(batch) for batch in found if batch.key == shard.key]
        same_size = [self.server.view(batch) for batch in found if len(batch.requests) == shard.requests]
        return same_size + self.server.stranger(shard.requests)

    def _owns(self, view: BatchView, shard: ShardFile) -> bool | None:
        batch = self.server.find(view.batch_id, self.account)
        if batch is None:  # a stranger's
            return False if view.state.terminal else None
        if self.server.keyless and not view.state.terminal:
            return None
        return batch.key == shard.key

    def _check(self, batch_id: str) -> BatchView:
        for fault, kind in (
            (Fault.CHECK_500, ServerFailed),
            (Fault.CHECK_TIMEOUT, TimedOut),
            (Fault.CHECK_RESET, ConnectionFailed),
        ):
            if self.faults.strikes(fault, chance=LESS):
                raise kind
        batch = self._there(batch_id)
        if self.faults.strikes(Fault.CHECK_NOT_FOUND, chance=0.05):
            batch.gone = True
            raise RequestRejected(f"No batch found with id '{batch_id}'.", status=404)
        self.server.look(batch)
        return self.server.view(batch)

    def _there(self, batch_id: str) -> Batch:
        batch = self.server.find(batch_id, self.account)
        if batch is None:
            raise RequestRejected(f"No batch found with id '{batch_id}'.", status=404)
        return batch

    def _fetch(self, batch_id: str, folder: Path) -> list[Path]:
        batch = self._there(batch_id)
        if self.faults.strikes(Fault.FETCH_FAILS, chance=LESS):
            self._raise(PASSING)
        files = [self._save(folder, name, content) for name, content in batch.files.items()]
        batch.fetched = batch.state.terminal  # before that there are no files, and that is no error
        return files

    def _save(self, folder: Path, name: str, content: bytes) -> Path:
        cut = self.faults.strikes(Fault.FETCH_CUT, chance=LESS)

        def write(handle: BufferedWriter) -> None:
            within_the_last_line = content.rstrip(b"\n").rfind(b"\n") + 2
            handle.write(content[:within_the_last_line] if cut else content)
            if cut and self.faults.draw("cut") < 0.5:
                raise httpx2.RemoteProtocolError("peer closed connection without sending complete message body")

        return save(folder, name, write)

    def _cancel(self, batch_id: str) -> None:
        if self.faults.strikes(Fault.CANCEL_FAILS, chance=0.5):
            self._raise(PASSING)
        if not self.server.cancel(self._there(batch_id)):
            raise RequestRejected("Cannot cancel a batch that has ended.", status=400)

    def _discard(self, batch_id: str) -> None:
        if self.faults.strikes(Fault.DISCARD_FAILS):
            self._raise(PASSING)
        self._there(batch_id).files.clear()

    def _understood(self, custom_id: str, body: dict[str, Any]) -> Asked:
        asked = understood(custom_id, body, self.account, self.prefix)
        if (asked.kind is AskKind.JUDGE) != (self.account == JUDGES):
            self.server.report(Violation(Kind.ACCOUNT, f"{asked.name} was sent to {self.account}"))
        return asked

    def _complete(self, sent: Asked) -> ItemResult:
        faults = self.faults
        if faults.strikes(Fault.CALL_FAILS, chance=LESS):
            self._raise(PASSING)
        if faults.strikes(Fault.CALL_REJECTED):
            self.server.reject_call(sent, self.caller.job, self.caller.number, replaced=self.caller.replaced)
            raise RequestRejected("too large", status=413, code="too_large")
        said = self.server.call(sent, self.caller.job, self.caller.number, replaced=self.caller.replaced)
        if faults.strikes(Fault.CALL_REPLY_LOST):
            self.server.calls[-1].lost = True
            self._raise((ConnectionFailed, TimedOut))
        if said.fate is Fate.QUOTA:
            raise QuotaExhausted("top it up", code="insufficient_quota")
        return replace(CODEC.parse_line(said.line), custom_id="")


def _short(served: object) -> str:
    """What came back, in a few words."""
    if isinstance(served, BatchView):
        return f"{served.batch_id} {served.provider_state}"
    if isinstance(served, ItemResult):
        return str(served.outcome)
    if isinstance(served, list):
        return ", ".join(one.batch_id if isinstance(one, BatchView) else one.name for one in served) or "nothing"
    return str(served)
