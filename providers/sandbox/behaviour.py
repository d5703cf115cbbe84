"""How the sandbox behaves: its pace, its limits, and the faults it is asked to show.

A behaviour is a frozen value that goes to and from JSON. A batch keeps the one that was in force when it was
created, so a change never rewrites the past.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cache
from typing import TYPE_CHECKING, ClassVar

import orjson

from batch_jobs.models import Dialect

if TYPE_CHECKING:
    from pydantic import ConfigDict, TypeAdapter


class Route(StrEnum):
    """What a request wants, in one word for all three dialects."""

    CREATE = "create"  # make a batch
    UPLOAD = "upload"  # send an input file
    CHECK = "check"  # get one batch
    LIST = "list"  # list batches
    FETCH = "fetch"  # download results
    CALL = "call"  # one single call
    ITEM = "item"  # one request inside a batch
    CANCEL = "cancel"  # stop a batch
    FILE = "file"  # get or list files
    CACHE = "cache"  # make, get, list, change or delete cached contents (Gemini)
    DELETE = "delete"  # delete a file or a batch


class FaultKind(StrEnum):
    """What can go wrong; the comment is the effect."""

    REPLY_LOST = "reply_lost"  # accepted, then the connection closes without an answer
    ACCEPT_LATE = "accept_late"  # the reply is lost now, the batch appears `seconds` (1) later
    SERVER_ERROR = "server_error"  # `status` (503), not accepted
    ACCEPTED_THEN_500 = "accepted_then_500"  # accepted, then `status` (500)
    CONNECTION_RESET = "connection_reset"  # TCP reset, not accepted
    RATE_LIMITED = "rate_limited"  # 429, not accepted; Retry-After `seconds` when given
    QUOTA_EXHAUSTED = "quota_exhausted"  # the provider's word for no money or no quota
    AUTH_REFUSED = "auth_refused"  # `status` (401, Gemini 403)
    SLOW_REPLY = "slow_reply"  # the answer comes `seconds` (1) later
    SLOW_DRIP = "slow_drip"  # the answer's bytes come a few at a time, over `seconds` (1)
    HANG = "hang"  # no answer for `seconds` (until the client gives up), not accepted
    BATCH_FAILS = "batch_fails"  # accepted, then the whole batch fails with `code` (token_limit_exceeded)
    BATCH_EXPIRES = "batch_expires"  # `share` (0.5) of the items is done before
    BATCH_CANCELLED = "batch_cancelled"  # stopped by someone else when `share` (0.5) of the items is done
    BATCH_SLOW = "batch_slow"  # takes `seconds` (1) longer
    LIST_LAG = "list_lag"  # shows in lists only after `seconds` (1)
    UNKNOWN_STATE = "unknown_state"  # a state nobody documented, for `seconds` (until the end)
    COUNTS_LIE = "counts_lie"  # the counts of the ended batch are wrong; code=total: its size too, from the start
    DISORDER = "disorder"  # results in the reverse order of the requests
    ONLY_ERROR_FILE = "only_error_file"  # every item fails with `status` (500)
    NO_FILES = "no_files"  # executed and billed, but it ends without any result file
    EMPTY_IDS = "empty_ids"  # a result file that isn't there is "" instead of null
    LONG_FILE_ID = "long_file_id"  # an output file that can be downloaded, but not deleted (Gemini)
    FILE_NOT_READY = "file_not_ready"  # a new file can't be used for `seconds` (1)
    DOWNLOAD_TRUNCATED = "download_truncated"  # cut short; code=no_newline: complete length, cut last line
    DOWNLOAD_STALLED = "download_stalled"  # half of it, then nothing for `seconds` (until the client gives up)
    ITEM_MISSING = "item_missing"  # no line for the item, not executed
    ITEM_DOUBLED = "item_doubled"  # its line comes twice
    ITEM_UNKNOWN_ID = "item_unknown_id"  # one more line under an unsent id; code=replace: instead of its own
    ITEM_ERROR = "item_error"  # `status` (500) for the item, not executed
    ITEM_STATUS_ZERO = "item_status_zero"  # status_code 0 (OpenAI); an error elsewhere
    ITEM_REFUSED = "item_refused"  # the model will not answer
    ITEM_TRUNCATED = "item_truncated"  # the answer stops at the output limit
    ITEM_INVALID_JSON = "item_invalid_json"  # not JSON; code=schema: JSON of another shape
    ITEM_EXPIRED = "item_expired"  # not executed in time
    PACK_MISSING = "pack_missing"  # one record's answer is left out of a packed request's; code: that record's id
    PACK_FOREIGN = "pack_foreign"  # one record's answer carries an id that nobody sent; code likewise
    PACK_DOUBLED = "pack_doubled"  # one record is answered twice, differently; code likewise
    PACK_INVALID = "pack_invalid"  # one record's answer is of another shape; code likewise
    BAD_LINE = "bad_line"  # one more unreadable line; code=replace: instead of the item's own


REQUEST_ENDS = frozenset(
    {
        *(FaultKind.REPLY_LOST, FaultKind.ACCEPT_LATE, FaultKind.ACCEPTED_THEN_500),
        *(FaultKind.SERVER_ERROR, FaultKind.CONNECTION_RESET, FaultKind.HANG),
        *(FaultKind.RATE_LIMITED, FaultKind.QUOTA_EXHAUSTED, FaultKind.AUTH_REFUSED),
    }
)
"""What becomes of a request: it meets one of these at most."""
ROUTE_KINDS = REQUEST_ENDS | {FaultKind.SLOW_REPLY, FaultKind.SLOW_DRIP}

BATCH_ENDS = frozenset({FaultKind.BATCH_FAILS, FaultKind.BATCH_EXPIRES, FaultKind.BATCH_CANCELLED})
"""How a batch ends: it meets one of these at most."""
BATCH_KINDS = BATCH_ENDS | {
    *(FaultKind.BATCH_SLOW, FaultKind.LIST_LAG, FaultKind.UNKNOWN_STATE, FaultKind.COUNTS_LIE),
    *(FaultKind.DISORDER, FaultKind.ONLY_ERROR_FILE, FaultKind.NO_FILES, FaultKind.EMPTY_IDS),
    FaultKind.LONG_FILE_ID,
}

PACK_KINDS = frozenset({FaultKind.PACK_MISSING, FaultKind.PACK_FOREIGN, FaultKind.PACK_DOUBLED, FaultKind.PACK_INVALID})
"""What happens to one record of a packed request whose answer is whole; other requests never meet them."""
CALL_ENDS = frozenset(
    {
        *(FaultKind.ITEM_ERROR, FaultKind.ITEM_STATUS_ZERO),
        *(FaultKind.ITEM_REFUSED, FaultKind.ITEM_TRUNCATED, FaultKind.ITEM_INVALID_JSON),
    }
)
CALL_KINDS = CALL_ENDS | PACK_KINDS
"""Faults of items that a single call can meet too."""
ITEM_ENDS = CALL_ENDS | {FaultKind.ITEM_MISSING, FaultKind.ITEM_EXPIRED}
"""How an item ends: it meets one of these at most."""
LINE_KINDS = frozenset({FaultKind.ITEM_DOUBLED, FaultKind.ITEM_UNKNOWN_ID, FaultKind.BAD_LINE})
"""What happens to an item's line, however the item ended."""
ITEM_KINDS = ITEM_ENDS | LINE_KINDS | PACK_KINDS

DOWNLOAD_KINDS = frozenset({FaultKind.DOWNLOAD_TRUNCATED, FaultKind.DOWNLOAD_STALLED})
"""A download meets one of these at most."""

ONLY: dict[FaultKind, frozenset[Dialect]] = {
    FaultKind.FILE_NOT_READY: frozenset({Dialect.OPENAI, Dialect.GEMINI}),  # Anthropic knows no files
    FaultKind.LONG_FILE_ID: frozenset({Dialect.GEMINI}),
}
"""Kinds that not every dialect knows."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that goes wrong.

    Attributes:
        kind: what.
        dialect: only for this provider; None for all.
        route: only for this kind of request; None for those it makes sense for.
        match: only where this text occurs: in path, query or body of a request, in custom_id or body of an item.
        share: 0 to 1, of items by a hash of their custom_id (of other requests by a hash of path and body); for
            `batch_expires` and `batch_cancelled` the share of items that are done before.
        times: only the first n hits, counted durably until the behaviour is set anew.
        seconds: see the kind.
        jitter: a delay is drawn between 0 and `seconds`, the same each time for the same content.
        status: HTTP status, see the kind.
        code: the provider's error code, or a variant, see the kind.
        message: the provider's words, instead of the usual ones.
        line: of the input file, for `batch_fails`.
    """

    __pydantic_config__: ClassVar[ConfigDict] = {"extra": "forbid"}

    kind: FaultKind
    dialect: Dialect | None = None
    route: Route | None = None
    match: str | None = None
    share: float | None = None
    times: int | None = None
    seconds: float | None = None
    jitter: bool = False
    status: int | None = None
    code: str | None = None
    message: str | None = None
    line: int | None = None

    @property
    def key(self) -> str:
        """The same for equal faults; under it the hits are counted."""
        return hashlib.sha256(orjson.dumps(self)).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Behaviour:
    """How the sandbox behaves.

    Attributes:
        batch_seconds: time until a batch ends: a quarter validating, then in progress with growing counts.
        call_ms: how long a single call takes.
        shuffle: results come in another order than the requests.
        requests_per_minute: of single calls per key; above it they get 429 with Retry-After; 0 for no limit.
            A sixth of it may come at once.
        tokens_per_minute: of single calls per key, likewise; a call counts its bytes by four, and 50 for its answer.
        max_batch_requests: requests of one batch; 0 for the provider's own limit.
        max_batch_bytes: bytes of one batch; 0 for the provider's own limit.
        max_enqueued_tokens: input tokens of all open batches of a key and model; 0 for no limit.
        reject_share: 0 to 1, of the judge requests by a hash of their text: these are answered with reject.
        reject_first_only: an answer that was repaired is accepted.
        faults: what goes wrong, see `Fault`.
    """

    __pydantic_config__: ClassVar[ConfigDict] = {"extra": "forbid"}

    batch_seconds: float = 1.0
    call_ms: float = 0.0
    shuffle: bool = True
    requests_per_minute: int = 0
    tokens_per_minute: int = 0
    max_batch_requests: int = 0
    max_batch_bytes: int = 0
    max_enqueued_tokens: int = 0
    reject_share: float = 0.0
    reject_first_only: bool = False
    faults: tuple[Fault, ...] = ()

    @classmethod
    def from_json(cls, text: bytes | str) -> Behaviour:
        """Read a behaviour.

        Raises:
            ValueError: no JSON, an unknown field or kind, or a wrong type; the message says where.
        """
        return _adapter().validate_json(text)

    def to_json(self) -> bytes:
        """Write it; `from_json` gives an equal value back."""
        return orjson.dumps(self)

    def with_faults(self, *faults: Fault) -> Behaviour:
        """The same behaviour with other faults."""
        return replace(self, faults=faults)


REHEARSAL = Behaviour(reject_share=0.1)
"""What `--sandbox` shows when nobody asks for anything else: judges find something to reject."""


@cache
def _adapter() -> TypeAdapter[Behaviour]:
    from pydantic import TypeAdapter

    return TypeAdapter(Behaviour)
