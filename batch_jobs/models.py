"""The words of the product as values: states with their legal moves, and the frozen records that steps pass on.

Every state machine stands in one table (`PHASE_MOVES`, `SHARD_MOVES`), read by the code, the docs and the tests.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

SHEET_ROW = "__sheet_row__"
"""The snapshot's own column: a row's number as the spreadsheet shows it (header = 1)."""


class Mode(StrEnum):
    """How the items of a job are answered."""

    BATCH = "batch"  # the provider's own batch API: half the price, within a day
    CONCURRENT = "concurrent"  # a pool of threads with single calls: full price, at once
    AUTO = "auto"  # picked by item count; the plan says which and why


class Layout(StrEnum):
    """How the results of a job lie in the store."""

    FOLDERS = "folders"  # a folder a record, to browse
    PACKED = "packed"  # one Parquet file a job, to query; folders on request
    AUTO = "auto"  # picked by the number of rows


class GroupMode(StrEnum):
    """What the rows of a group have to do with each other."""

    NONE = "none"  # nothing: every row is asked about by itself
    OUTPUT = "group_output"  # a group is one item, and its answer goes to every row of it
    CONTEXT = "row_output_with_group_context"  # a row is an item that sees the rows of its group


class OutputShape(StrEnum):
    """What a line of the delivered file stands for."""

    ROWS = "rows"  # a row of the upload: the user's file plus columns
    GROUPS = "groups"  # a group, of jobs with one answer a group


class Dialect(StrEnum):
    """The wire protocol a provider speaks."""

    OPENAI = "openai"
    ANTHROPIC = "anthropic"
    GEMINI = "gemini"


class Status(StrEnum):
    """All that a user has to know about a job."""

    PENDING = "pending"  # taken in, nothing sent yet
    PROCESSING = "processing"
    DONE = "done"  # the output file is there; `outcome` says how it went


class Phase(StrEnum):
    """Where a job stands on its one way through."""

    RECEIVED = "received"  # upload and snapshot are durable
    PLANNED = "planned"  # items are known; waits for the word to send
    RUNNING = "running"  # a round is under way
    PAUSED = "paused"  # an operator must act (quota, key); `resume` goes on
    CANCELLING = "cancelling"  # asked to stop; what was finished is still fetched
    WRITING = "writing"  # every item has an outcome; the output file is being made
    DONE = "done"


PHASE_MOVES: dict[Phase, frozenset[Phase]] = {
    Phase.RECEIVED: frozenset({Phase.PLANNED, Phase.CANCELLING}),
    Phase.PLANNED: frozenset({Phase.RUNNING, Phase.CANCELLING}),
    Phase.RUNNING: frozenset({Phase.WRITING, Phase.PAUSED, Phase.CANCELLING}),
    Phase.PAUSED: frozenset({Phase.RUNNING, Phase.CANCELLING}),
    Phase.CANCELLING: frozenset({Phase.WRITING}),
    Phase.WRITING: frozenset({Phase.DONE}),
    Phase.DONE: frozenset(),
}


class JobOutcome(StrEnum):
    """How a job ended."""

    COMPLETE = "complete"  # every row is answered
    PARTIAL = "partial"  # some rows failed
    FAILED = "failed"  # no row is answered
    CANCELLED = "cancelled"  # stopped by the user; what was finished is in the file


class Outcome(StrEnum):
    """How an item ended, or how one attempt at it did."""

    SUCCEEDED = "succeeded"
    INVALID = "invalid"  # an answer that does not fit the task's schema
    REFUSED = "refused"  # the model or a safety filter would not answer
    TRUNCATED = "truncated"  # the answer hit the output limit
    ERRORED = "errored"  # the provider reported an error for this item
    EXPIRED = "expired"  # not executed within the completion window
    CANCELLED = "cancelled"  # not executed because the batch or job was cancelled
    MISSING = "missing"  # the provider's results do not hold this item
    REJECTED = "rejected"  # a valid answer that the judge would not accept


class AskKind(StrEnum):
    """What a request asks for; a shard's requests are of one kind."""

    ANSWER = "answer"  # one item's answer: the first time, or again with what was wrong with the last one
    BUNDLE = "bundle"  # the answers of several items
    JUDGE = "judge"  # a verdict on one item's draft


class Verdict(StrEnum):
    """What a judge says of a draft."""

    ACCEPT = "accept"
    REJECT = "reject"


class ShardState(StrEnum):
    """Where one shard stands."""

    RENDERED = "rendered"  # its file is complete, synced and hashed
    SUBMITTING = "submitting"  # the intent is durable; a create may be on its way
    UNKNOWN = "unknown"  # a create may or may not have been accepted
    SUBMITTED = "submitted"  # the provider's batch id is recorded
    ENDED = "ended"  # the provider's batch is in a terminal state
    FETCHED = "fetched"  # the raw results are durable on disk
    MERGED = "merged"  # every item of the shard has an outcome for this round


SHARD_MOVES: dict[ShardState, frozenset[ShardState]] = {
    ShardState.RENDERED: frozenset({ShardState.SUBMITTING, ShardState.MERGED}),
    ShardState.SUBMITTING: frozenset(
        {ShardState.SUBMITTED, ShardState.UNKNOWN, ShardState.RENDERED, ShardState.MERGED}
    ),
    ShardState.UNKNOWN: frozenset({ShardState.SUBMITTED, ShardState.RENDERED}),
    ShardState.SUBMITTED: frozenset({ShardState.ENDED, ShardState.MERGED, ShardState.RENDERED}),
    ShardState.ENDED: frozenset({ShardState.FETCHED, ShardState.MERGED}),
    ShardState.FETCHED: frozenset({ShardState.MERGED, ShardState.ENDED}),
    ShardState.MERGED: frozenset(),
}


class BatchState(StrEnum):
    """A provider batch's state, in our words; the provider's own word is kept beside it."""

    IN_PROGRESS = "in_progress"  # also every state we don't know: never terminal by mistake
    FINALIZING = "finalizing"
    CANCELLING = "cancelling"
    COMPLETED = "completed"
    FAILED = "failed"
    EXPIRED = "expired"
    CANCELLED = "cancelled"

    @property
    def terminal(self) -> bool:
        """True when the provider will not change the batch any more."""
        return self in {BatchState.COMPLETED, BatchState.FAILED, BatchState.EXPIRED, BatchState.CANCELLED}


class BreakerState(StrEnum):
    """Whether single calls to a provider's model go out."""

    CLOSED = "closed"  # they do
    OPEN = "open"  # call after call failed: none goes out for a while
    HALF_OPEN = "half_open"  # one call goes out, to see


class EventName(StrEnum):
    """Every name a BatchEvent can have."""

    JOB_RECEIVED = "job.received"
    JOB_PLANNED = "job.planned"
    JOB_STARTED = "job.started"
    JOB_PAUSED = "job.paused"
    JOB_RESUMED = "job.resumed"
    JOB_CANCEL_ASKED = "job.cancel_asked"
    JOB_WRITING = "job.writing"
    JOB_DONE = "job.done"
    JOB_DELIVERED = "job.delivered"
    ITEMS_ADOPTED = "items.adopted"
    ITEMS_WAITING = "items.waiting"
    ROUND_STARTED = "round.started"
    ROUND_ENDED = "round.ended"
    SHARD_SUBMITTING = "shard.submitting"
    SHARD_SUBMITTED = "shard.submitted"
    SHARD_FOUND = "shard.found"
    SHARD_UNKNOWN = "shard.unknown_outcome"
    SHARD_REFUSED = "shard.refused"
    SHARD_SPLIT = "shard.split"
    LIMIT_LEARNED = "limit.learned"
    SHARD_ENDED = "shard.ended"
    SHARD_FETCHED = "shard.fetched"
    RESULTS_GONE = "shard.results_gone"
    SHARD_MERGED = "shard.merged"
    SHARD_DISCARDED = "shard.discarded"
    DOUBLE_CANCELLED = "shard.double_cancelled"
    RESULT_UNKNOWN_ID = "result.unknown_id"
    RESULT_DOUBLED_ID = "result.doubled_id"
    RESULT_UNREADABLE = "result.unreadable_line"
    PROVIDER_FAILED = "provider.failed"


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one executed call. `input_tokens` includes the cached and cache-written ones."""

    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Allowance:
    """What a provider's headers say of the account's limits a minute; None where they say nothing.

    Attributes:
        requests_limit, tokens_limit: of a minute.
        requests_remaining, tokens_remaining: of it.
        requests_reset_seconds, tokens_reset_seconds: until the limit is whole again.
    """

    requests_limit: int | None = None
    requests_remaining: int | None = None
    requests_reset_seconds: float | None = None
    tokens_limit: int | None = None
    tokens_remaining: int | None = None
    tokens_reset_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class ItemResult:
    """What came back for one item, whatever way it came.

    Attributes:
        custom_id: the id that was sent.
        outcome: succeeded means the provider answered with text; merge still checks it against the schema.
        text: the model's text (the JSON answer); empty when there is none.
        usage: tokens billed for the call; zeros where nothing was executed.
        model: the model as the provider named it.
        code: the provider's error code or stop reason.
        detail: the provider's words.
        transient: sending the same request again may well succeed.
        billed: the provider executed the call, so it is paid for.
        allowance: of a single call, what came with it about the account's limits.
    """

    custom_id: str
    outcome: Outcome
    text: str = ""
    usage: Usage = Usage()
    model: str = ""
    code: str = ""
    detail: str = ""
    transient: bool = False
    billed: bool = False
    allowance: Allowance | None = None


@dataclass(frozen=True, slots=True)
class Counts:
    """A provider's own counts of one batch; informative, never trusted for rows."""

    total: int = 0
    succeeded: int = 0
    failed: int = 0

    @property
    def finished(self) -> int:
        """Items that ended, well or not."""
        return self.succeeded + self.failed


@dataclass(frozen=True, slots=True)
class BatchProblem:
    """One reason a provider gives for failing a whole batch."""

    code: str
    message: str
    line: int | None = None


@dataclass(frozen=True, slots=True)
class BatchView:
    """A provider batch as the provider shows it now.

    Attributes:
        batch_id: the provider's id.
        state: in our words.
        provider_state: in the provider's.
        counts: finished so far, as far as the provider says.
        created_at: the provider's clock, UTC.
        shard_key: the key that was sent with the create, where the dialect carries one.
        problems: why a failed batch failed.
    """

    batch_id: str
    state: BatchState
    provider_state: str
    counts: Counts = Counts()
    created_at: datetime | None = None
    shard_key: str | None = None
    problems: tuple[BatchProblem, ...] = ()


@dataclass(frozen=True, slots=True)
class Price:
    """USD per million tokens."""

    input: float
    output: float
    cached: float


@dataclass(frozen=True, slots=True)
class Parameters:
    """Model parameters of a request, in our words; None is not sent."""

    max_output_tokens: int = 4096
    temperature: float | None = None
    top_p: float | None = None
    reasoning_effort: str | None = None


@dataclass(frozen=True, slots=True)
class Judge:
    """Who judges the drafts of a job: a model of its own, kept with the job like the one that answers.

    Attributes:
        prompt: its file in prompt_lib.
        account: which account pays for it.
    """

    prompt: str
    provider: str
    dialect: str
    endpoint: str | None
    model: str
    parameters: Parameters
    account: str


@dataclass(frozen=True, slots=True)
class AnswerRules:
    """How a job's items come to their answers.

    Attributes:
        repairs: how often a draft that was invalid, or that the judge rejected, goes again with what was wrong with it.
        rows_per_request: items that are asked for together, the first time.
        judge: whose word an answer needs; None for nobody's.
        edition: a word of the user's own, that keeps what is asked under it apart.
    """

    repairs: int = 2
    rows_per_request: int = 1
    judge: Judge | None = None
    edition: str = ""

    @property
    def more_rounds(self) -> int:
        """Rounds that these rules take besides `rounds.max`: for the judge, his rejections, and rows sent alone."""
        judged = 1 + 2 * self.repairs if self.judge else max(self.repairs - 2, 0)
        return judged + (self.rows_per_request > 1)


@dataclass(frozen=True, slots=True)
class Request:
    """One rendered request, before a dialect encodes it.

    Attributes:
        fixed: the part that is the same in every request of the task (system prompt); may be empty.
        text: the row's part.
        schema: JSON schema of the answer.
        schema_name: `^[A-Za-z0-9_-]{1,64}$`.
        model: the provider's model name.
        parameters: in our words.
        shared: what the requests of a group have in common, sent after `fixed` and before `text`; may be empty.
        shared_by: requests that have it in common, as far as it is known.
    """

    fixed: str
    text: str
    schema: dict[str, Any]
    schema_name: str
    model: str
    parameters: Parameters = field(default_factory=Parameters)
    shared: str = ""
    shared_by: int = 1
