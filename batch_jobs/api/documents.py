"""The JSON of the API as pydantic models: what a client sends and gets, with the examples of the OpenAPI document."""

from __future__ import annotations

import re
from typing import Annotated, Any

from fastapi import UploadFile
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

from batch_jobs.models import BreakerState, Dialect, EventName, JobOutcome, Mode, Phase, Status

MAX_NAME_CHARS = 200
TASK_ID = "6650b12cbb4a430c87fac87b96cf4705"
CREATED = "2026-11-21T10:00:00+00:00"
_VISIBLE_ASCII = re.compile(r"[!-~]{1,255}")


def _visible(key: str) -> str:
    if not _VISIBLE_ASCII.fullmatch(key):
        text = "must be 1 to 255 visible ASCII characters, without spaces; a new UUID for each upload does it"
        raise PydanticCustomError("idempotency_key", text)
    return key


IdempotencyKey = Annotated[
    str,
    AfterValidator(_visible),
    WithJsonSchema({"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"}),
]
"""A name that the client gives to one upload, so that it can send it again."""


class JobForm(BaseModel):
    """What is uploaded: one table, and what shall be done with it."""

    model_config = ConfigDict(extra="forbid")

    file: UploadFile = Field(
        description="The table: csv, tsv, psv, xlsx, jsonl, ndjson or parquet; or a document: pdf, docx, txt, md."
    )
    task: str = Field(max_length=MAX_NAME_CHARS, description="A task of `GET /tasks`.", examples=["summarize"])
    data_case: str = Field(max_length=MAX_NAME_CHARS, description="One of its data cases.", examples=["external_loss"])
    mode: str | None = Field(
        default=None,
        max_length=MAX_NAME_CHARS,
        description="`batch` (half the price, within a day), `concurrent` (at once) or `auto`; else the config's.",
        examples=["batch"],
    )
    provider: str | None = Field(
        default=None,
        max_length=MAX_NAME_CHARS,
        description="A provider of `GET /tasks`; else the config's.",
        examples=["openai"],
    )
    model: str | None = Field(
        default=None,
        max_length=MAX_NAME_CHARS,
        description="A model of that provider; else the config's.",
        examples=["gpt-6-luna"],
    )
    sheet: str | None = Field(
        default=None,
        max_length=MAX_NAME_CHARS,
        description="The worksheet of an xlsx; else the first.",
        examples=["Sheet1"],
    )


class Accepted(BaseModel):
    """A job that was taken in and is durable; the rest goes on in the background."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"task_id": TASK_ID, "status": "pending"}]})

    task_id: str = Field(description="The job's id, on every surface.")
    status: Status = Field(description="`pending`, as it was when the job was taken in.")


class Tokens(BaseModel):
    """Tokens of the executed calls; `input` includes the cached ones."""

    input: int
    cached: int
    output: int


class RoomDocument(BaseModel):
    """Batches that wait for room in the provider's queue; tokens are estimated, over all jobs of the account."""

    batches: int
    of: int = Field(description="Batches of the round.")
    tokens: int = Field(description="Enqueued now.")
    max_tokens: int | None = Field(description="What may be enqueued, configured or learned; null when not known.")


_JOB_EXAMPLES: dict[str, Any] = {
    "task_id": TASK_ID,
    "status": "done",
    "outcome": "complete",
    "phase": "done",
    "message": "openai: quota is used up: top it up, then resume the job",
    "task": "summarize",
    "data_case": "external_loss",
    "provider": "openai",
    "model": "gpt-6-luna",
    "mode": "batch",
    "simulated": False,
    "file_name": "losses.csv",
    "rows": 250,
    "items": 240,
    "sent": 240,
    "from_cache": 0,
    "succeeded": 250,
    "failed": 0,
    "reasons": {"refused by the model": 2},
    "round": 0,
    "provider_state": "in_progress",
    "unknown_outcomes": 0,
    "waits_for": {},
    "waits_for_room": {"batches": 2, "of": 7, "tokens": 3_000_000, "max_tokens": 4_000_000},
    "verdicts": {},
    "batch_done": 240,
    "batch_total": 240,
    "eta_seconds": 1200.0,
    "pool": {
        "at": "2026-11-21T10:12:00+00:00",
        "items": {"waiting": 12, "in_flight": 8, "retrying": 0, "succeeded": 220},
        "attempts": 223,
        "refused_429": 3,
        "failed_calls": 0,
        "average_seconds": 1.92,
        "p95_seconds": 3.1,
        "calls_per_minute": 223,
        "tokens_per_minute": 194000,
        "concurrency": 8,
        "max_concurrency": 20,
        "limit_requests_per_minute": 500.0,
        "limit_tokens_per_minute": 200000.0,
        "breaker": "closed",
        "waits_seconds": 0.0,
    },
    "output": f"/jobs/{TASK_ID}/download",
    "tokens": {"input": 180000, "cached": 0, "output": 28800},
    "cost_usd": 0.0162,
    "seconds": 5400.0,
    "created_at": CREATED,
    "done_at": "2026-11-21T11:30:00+00:00",
}


def _with_examples(schema: dict[str, Any]) -> None:
    """An example per field: FastAPI drops the nulls of a whole example, which would make it a wrong one."""
    for name, field in schema["properties"].items():
        field["examples"] = [_JOB_EXAMPLES[name]]


class PoolDocument(BaseModel):
    """How the single calls of a job go, as of `at`. Concurrency, limits and breaker are its account's and model's."""

    at: str = Field(description="ISO 8601, UTC; renewed every few seconds while calls are made.")
    items: dict[str, int] = Field(description="Waiting, in flight, retrying, and how the others ended.")
    attempts: int
    refused_429: int = Field(description="Calls that were one too many.")
    failed_calls: int = Field(description="Calls without a readable answer.")
    average_seconds: float | None
    p95_seconds: float | None
    calls_per_minute: int = Field(description="Of the last minute.")
    tokens_per_minute: int = Field(description="In and out, of the last minute.")
    concurrency: int = Field(description="Calls that may be in flight now.")
    max_concurrency: int
    limit_requests_per_minute: float | None = Field(description="From config or learned; null when not known.")
    limit_tokens_per_minute: float | None
    breaker: BreakerState
    waits_seconds: float = Field(description="Until a call may go out again.")


class JobDocument(BaseModel):
    """How a job stands: the same object as the command line's `--json`, but that `output` is an address here."""

    model_config = ConfigDict(json_schema_extra=_with_examples)

    task_id: str
    status: Status = Field(description="All that a user has to know: pending, processing or done.")
    outcome: JobOutcome | None = Field(description="How it ended, once done.")
    phase: Phase = Field(description="Where it stands on its way.")
    message: str | None = Field(description="What an operator must do, where the job waits for one.")
    task: str
    data_case: str
    provider: str
    model: str
    mode: Mode
    simulated: bool = Field(description="A rehearsal: the answers are not a model's, and nothing was billed.")
    file_name: str
    rows: int = Field(description="Data rows of the file.")
    items: int = Field(description="Distinct requests; equal rows share one.")
    sent: int = Field(description="Items that went, or will go, to the provider.")
    from_cache: int = Field(description="Items that were answered before.")
    succeeded: int = Field(description="Answered rows, once done.")
    failed: int = Field(description="Rows without an answer, once done.")
    reasons: dict[str, int] = Field(description="Why rows failed, with their number.")
    round: int
    provider_state: str | None = Field(description="The provider's own word for the batch under way.")
    unknown_outcomes: int = Field(description="Batches of which it is not known whether the provider accepted them.")
    waits_for: dict[str, int] = Field(
        description="Items that other jobs of the store have under way, and whose answers this one takes, by task_id."
    )
    waits_for_room: RoomDocument | None = Field(
        description="Batches of the round that find no room in the provider's queue; null when there are none."
    )
    verdicts: dict[str, int] = Field(
        description="Items by the judge's last word, accept or reject; accepted_again of them after a repair."
    )
    batch_done: int = Field(description="Finished items of the round, by the provider's count.")
    batch_total: int
    eta_seconds: float | None = Field(description="Remaining time, where it can be told.")
    pool: PoolDocument | None = Field(default=None, description="How single calls go; null for a job by batch.")
    output: str | None = Field(description="Where to download the finished file.")
    tokens: Tokens
    cost_usd: float | None = Field(description="What was spent; null when config.json has no price.")
    seconds: float
    created_at: str | None = Field(description="ISO 8601, UTC.")
    done_at: str | None


class JobList(BaseModel):
    """Jobs, newest first."""

    jobs: list[JobDocument]


class EventDocument(BaseModel):
    """One thing that happened to a job."""

    event_id: int
    at: str | None = Field(description="ISO 8601, UTC.")
    name: EventName
    data: dict[str, Any]


class EventList(BaseModel):
    """Events in order; the last `event_id` is the next request's `after`."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"events": [{"event_id": 7, "at": CREATED, "name": "job.received", "data": {"rows": 250}}]}]
        }
    )

    events: list[EventDocument]


class DataCaseDocument(BaseModel):
    """One kind of input table of a task."""

    name: str
    description: str
    mandatory_columns: dict[str, str] = Field(description="Column -> what it holds; the file must have them all.")
    identity_columns: list[str] = Field(description="The columns whose values tell one row from another.")


class TaskDocument(BaseModel):
    """One kind of work."""

    name: str
    description: str
    output_columns: list[str] = Field(description="The columns that are added to the file.")
    data_cases: list[DataCaseDocument]


class ProviderDocument(BaseModel):
    """One way to a model."""

    name: str
    dialect: Dialect
    model: str = Field(description="The default.")
    models: list[str] = Field(description="All that can be asked for.")


class DefaultsDocument(BaseModel):
    """What is used where the upload does not say."""

    provider: str
    mode: Mode


class Catalogue(BaseModel):
    """All names that an upload can use."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "tasks": [
                        {
                            "name": "summarize",
                            "description": "Summarise what happened.",
                            "output_columns": ["summary"],
                            "data_cases": [
                                {
                                    "name": "external_loss",
                                    "description": "Loss events that happened at other companies.",
                                    "mandatory_columns": {"DescriptionOfEvent": "What happened, as it was reported."},
                                    "identity_columns": ["DescriptionOfEvent"],
                                }
                            ],
                        }
                    ],
                    "providers": [
                        {"name": "openai", "dialect": "openai", "model": "gpt-6-luna", "models": ["gpt-6-luna"]}
                    ],
                    "defaults": {"provider": "openai", "mode": "auto"},
                }
            ]
        }
    )

    tasks: list[TaskDocument]
    providers: list[ProviderDocument]
    defaults: DefaultsDocument


class Health(BaseModel):
    """That the server is up, and what it is at."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"status": "ok", "simulated": False, "open_jobs": 3, "version": "0.1.0"}]}
    )

    status: str = Field(description="`ok`.")
    simulated: bool = Field(description="The server was started with --sandbox.")
    open_jobs: int = Field(description="Jobs that are not done; counted up to 1,000.")
    version: str


class ErrorBody(BaseModel):
    """What was wrong, where, and what to do."""

    type: str = Field(description="The kind of error, as the command line knows it.")
    message: str = Field(description="For people; the very text of the command line.")
    exit_code: int = Field(description="What the command line would have ended with.")


class ErrorDocument(BaseModel):
    """The one shape of every error."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "error": {
                        "type": "UnknownName",
                        "message": 'there is no task "sumarize"; did you mean "summarize"? (there is: summarize)',
                        "exit_code": 2,
                    }
                }
            ]
        }
    )

    error: ErrorBody
