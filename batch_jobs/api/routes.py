"""The routes: each parses, calls one function of the lifecycle, and shows."""

from __future__ import annotations

from importlib.metadata import version
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Depends, Form, Header, Path, Query, Request, Response, Security
from fastapi.responses import FileResponse, HTMLResponse
from fastapi.security import HTTPBearer

from batch_jobs.api.documents import (
    TASK_ID,
    Accepted,
    Catalogue,
    DataCaseDocument,
    DefaultsDocument,
    ErrorDocument,
    EventDocument,
    EventList,
    Health,
    IdempotencyKey,
    JobDocument,
    JobForm,
    JobList,
    ProviderDocument,
    TaskDocument,
)
from batch_jobs.api.upload import claim_of, ordered
from batch_jobs.errors import UserError
from batch_jobs.lifecycle import control
from batch_jobs.lifecycle.deliver import Finished, finished_file
from batch_jobs.lifecycle.export import export_file
from batch_jobs.lifecycle.manifest import iso
from batch_jobs.lifecycle.project import Project
from batch_jobs.lifecycle.receive import receive
from batch_jobs.lifecycle.report.write import page_of
from batch_jobs.lifecycle.schedule import Poller
from batch_jobs.lifecycle.view import JobView, newest_views, view
from batch_jobs.models import OutputShape, Status
from batch_jobs.output.export import ExportFormat
from batch_jobs.output.report_html import POLICY
from batch_jobs.storage import events, jobs

MEDIA_TYPES = {
    ".csv": "text/csv",
    ".tsv": "text/tab-separated-values",
    ".psv": "text/plain",
    ".xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
    ".jsonl": "application/jsonl",
    ".ndjson": "application/x-ndjson",
    ".parquet": "application/vnd.apache.parquet",
}
_FAILURES = {
    400: "The body can't be read as `multipart/form-data`.",
    401: "No API key, or a wrong one.",
    404: "There is no such job.",
    409: "The job is not at a point where this can be done.",
    413: "The upload is over `intake.max_bytes`.",
    422: "The request, the file or a name in it can't be taken as it is; the message says what to do.",
    503: "The provider's key is not set on the server.",
    507: "The server's disk is full.",
}
_LINKS: dict[str, Any] = {
    name: {"operationId": name, "parameters": {"task_id": "$response.body#/task_id"}}
    for name in ("get_job", "get_events", "get_download", "get_export", "get_report", "post_cancel", "post_resume")
}
"""Where to go with the `task_id` of an answer, for clients that are made from the OpenAPI document."""
_FILE_NAME: dict[str, Any] = {
    "description": (
        "The file part must have its name: the end of it says csv, tsv, psv, xlsx, jsonl, ndjson, parquet, pdf, docx, "
        "txt or md."
    ),
    "required": True,
    "schema": {"type": "string"},
    "example": 'form-data; name="file"; filename="losses.csv"',
}
_CHARSETS = {"cp1252": "windows-1252"}
"""What IANA calls an encoding that Python knows by another name."""
CELLS_CUT = "X-Cells-Cut"
_CELLS_CUT: dict[str, Any] = {
    "description": "Cells that were cut to the 32,767 characters that Excel holds; not sent where there are none.",
    "schema": {"type": "integer", "minimum": 1},
}
_BEARER = HTTPBearer(auto_error=False, description="One of BATCH_JOBS_API_KEYS; not needed when none is set.")


def _failing(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": ErrorDocument, "description": _FAILURES[status]} for status in statuses}


def _files(*suffixes: str) -> dict[str, Any]:
    """The content of a response that is a file."""
    return {MEDIA_TYPES[suffix]: {"schema": {"type": "string", "format": "binary"}} for suffix in suffixes}


def _project(request: Request) -> Project:
    project: Project = request.app.state.project
    return project


def _poller(request: Request) -> Poller:
    poller: Poller = request.app.state.poller
    return poller


def _idempotency_key(
    request: Request,
    key: Annotated[
        IdempotencyKey | None,
        Header(
            alias="Idempotency-Key",
            description="Your own name for this upload, new for each: 1 to 255 visible ASCII characters, such as a "
            "UUID. Sent again with the same file and fields, it gives the same job again; with others, 422. "
            "Kept for 30 days, apart for each API key.",
            examples=["8e03978e-40d5-43dd-bc93-6894a57f9324"],
        ),
    ] = None,
) -> str | None:
    if len(request.headers.getlist("Idempotency-Key")) > 1:
        raise UserError("the header Idempotency-Key was sent more than once. Send one key with an upload")
    return key


Opened = Annotated[Project, Depends(_project)]
Polling = Annotated[Poller, Depends(_poller)]
UploadKey = Annotated[str | None, Depends(_idempotency_key)]
TaskId = Annotated[str, Path(description="The job's id.", examples=[TASK_ID])]

guarded = APIRouter(dependencies=[Security(_BEARER)], responses=_failing(401, 422))
open_to_all = APIRouter()


@guarded.post(
    "/jobs",
    status_code=202,
    summary="Upload a table",
    tags=["jobs"],
    responses={
        202: {"description": "Taken in; `Location` says where to look.", "links": _LINKS},
        **_failing(400, 413, 503, 507),
    },
    form_limits={"max_files": 1, "max_fields": 16, "max_part_size": 4096},
    openapi_extra={
        "requestBody": {
            "content": {"multipart/form-data": {"encoding": {"file": {"headers": {"Content-Disposition": _FILE_NAME}}}}}
        }
    },
)
def post_job(
    form: Annotated[JobForm, Form(media_type="multipart/form-data")],
    request: Request,
    response: Response,
    project: Opened,
    poller: Polling,
    key: UploadKey,
) -> Accepted:
    """Check the whole file, keep it, and answer; planning and sending go on in the background.

    Each upload makes a new job, unless its `Idempotency-Key` was sent with the same upload before: a client that got
    no answer can send it again. An answer that was paid for before is not paid for again.
    """
    with ordered(form) as order:
        claim = claim_of(key, request.headers.get("Authorization", ""), form, order) if key else None
        job = receive(project, order, claim)
    poller.watch(job.task_id)
    response.headers["Location"] = f"/jobs/{job.task_id}"
    return Accepted(task_id=job.task_id, status=Status.PENDING)


@guarded.get("/jobs", summary="List the jobs", tags=["jobs"])
def get_jobs(
    project: Opened,
    limit: Annotated[int, Query(ge=1, le=200, description="How many, newest first.")] = 20,
    stuck: Annotated[bool, Query(description="Only jobs that somebody should look at.")] = False,
) -> JobList:
    """List the newest jobs of the store, or those that wait for somebody."""
    return JobList(jobs=[_document(seen) for seen in newest_views(project, limit, stuck=stuck)])


@guarded.get("/jobs/{task_id}", summary="Show a job", tags=["jobs"], responses=_failing(404))
def get_job(task_id: TaskId, project: Opened) -> JobDocument:
    """Show how a job stands, from the ledger; asks no provider."""
    return _document(view(project, task_id))


@guarded.get(
    "/jobs/{task_id}/download",
    summary="Download the finished file",
    tags=["jobs"],
    response_class=FileResponse,
    responses={
        200: {
            "description": "The uploaded file with its new columns, `<name>.<task>.<ext>`, or a line a group, "
            "`<name>.<task>.groups.<ext>`.",
            "content": _files(*MEDIA_TYPES),
        },
        **_failing(404, 409, 507),
    },
)
def get_download(
    task_id: TaskId,
    project: Opened,
    shape: Annotated[
        OutputShape,
        Query(description="`rows`: your file plus columns. `groups`: a line a group, of jobs with one answer a group."),
    ] = OutputShape.ROWS,
) -> FileResponse:
    """Stream the finished file; 409 until the job is done, 422 for a shape that it has not."""
    return _file(finished_file(project, task_id, shape))


@guarded.get(
    "/jobs/{task_id}/export",
    summary="Export the rows",
    tags=["jobs"],
    response_class=FileResponse,
    responses={
        200: {
            "description": "The rows as a new table: `<name>.<task>.export.<format>`.",
            "content": _files(*(f".{fmt}" for fmt in ExportFormat)),
            "headers": {CELLS_CUT: _CELLS_CUT},
        },
        **_failing(404, 409, 507),
    },
)
def get_export(
    task_id: TaskId,
    project: Opened,
    fmt: Annotated[
        ExportFormat,
        Query(
            alias="format",
            description="`jsonl` and `parquet` keep the types of the answer's fields; the others hold texts.",
            examples=["parquet"],
        ),
    ],
) -> FileResponse:
    """Stream a done job's rows with their ids and all fields of the answer; 409 until the job is done.

    The file is made by the first request for it, which may take a minute for a million rows, and kept for the next.
    """
    return _file(export_file(project, task_id, fmt))


@guarded.get(
    "/jobs/{task_id}/report",
    summary="How a job went",
    tags=["jobs"],
    response_class=Response,  # its media type would be that of the errors, too
    responses={
        200: {
            "description": "One HTML page without scripts: outcomes, cost, time, errors, sample rows.",
            "content": {"text/html": {"schema": {"type": "string"}}},
        },
        **_failing(404, 409),
    },
)
def get_report(task_id: TaskId, project: Opened) -> HTMLResponse:
    """Tell how a done job went, as a page to show or to print; 409 until the job is done."""
    return HTMLResponse(page_of(project, task_id), headers={"Content-Security-Policy": POLICY})


@guarded.get("/jobs/{task_id}/events", summary="What happened to a job", tags=["jobs"], responses=_failing(404))
def get_events(
    task_id: TaskId,
    project: Opened,
    after: Annotated[int, Query(ge=0, le=2**53, description="Only events after this `event_id`.")] = 0,
) -> EventList:
    """List a job's events in order, 1,000 at most; ask again with the last `event_id` as `after`."""
    with project.ledger.read() as connection:
        jobs.get(connection, task_id)
        found = events.of_job(connection, task_id, after)
    return EventList(
        events=[
            EventDocument(event_id=event.event_id, at=iso(event.at), name=event.name, data=event.data)
            for event in found
        ]
    )


@guarded.post(
    "/jobs/{task_id}/cancel", status_code=202, summary="Stop a job", tags=["jobs"], responses=_failing(404, 409)
)
def post_cancel(task_id: TaskId, project: Opened, poller: Polling) -> JobDocument:
    """Ask a job to stop: what was finished is still fetched and priced, what was not sent never is."""
    control.cancel(project, task_id)
    poller.watch(task_id)
    return _document(view(project, task_id))


@guarded.post(
    "/jobs/{task_id}/resume", status_code=202, summary="Go on with a job", tags=["jobs"], responses=_failing(404, 409)
)
def post_resume(task_id: TaskId, project: Opened, poller: Polling) -> JobDocument:
    """Go on with a job that was paused, or that waits for the word to send."""
    control.resume(project, task_id)
    control.approve(project, task_id)
    poller.watch(task_id)
    return _document(view(project, task_id))


@guarded.get("/tasks", summary="What can be asked for", tags=["names"])
def get_tasks(project: Opened) -> Catalogue:
    """List tasks with their data cases and columns, providers with their models, and the defaults."""
    settings = project.settings
    tasks = [
        TaskDocument(
            name=name,
            description=task.description,
            output_columns=list(task.output_columns.values()),
            data_cases=[
                DataCaseDocument(
                    name=case_name,
                    description=case.description,
                    mandatory_columns=case.mandatory_columns,
                    identity_columns=list(case.identity),
                )
                for case_name, case in task.data_cases.items()
            ],
        )
        for name, task in settings.tasks.items()
    ]
    providers = [
        ProviderDocument(
            name=name,
            dialect=entry.dialect,
            model=entry.model,
            models=list(dict.fromkeys([entry.model, *entry.models])),
        )
        for name, entry in settings.providers.items()
    ]
    defaults = DefaultsDocument(provider=settings.defaults.provider, mode=settings.defaults.mode)
    return Catalogue(tasks=tasks, providers=providers, defaults=defaults)


@open_to_all.get("/healthz", summary="Whether the server is up", tags=["server"])
def get_healthz(project: Opened) -> Health:
    """Say that the server is up and its ledger can be read; needs no key."""
    with project.ledger.read() as connection:
        open_jobs = jobs.count_open(connection)
    return Health(status="ok", simulated=project.simulated, open_jobs=open_jobs, version=version("batch-jobs"))


def _document(seen: JobView) -> JobDocument:
    """A job's one object, with an address in place of the server's own path."""
    here = f"/jobs/{seen.task_id}/download" if seen.status is Status.DONE and seen.output else None
    return JobDocument(**{**seen.as_json(), "output": here})


def _file(found: Finished) -> FileResponse:
    """A file of the store, streamed, under the name that it has elsewhere; a part of it for a request with `Range`."""
    headers = {"Content-Disposition": _attachment(found.name)}
    if found.cut:
        headers[CELLS_CUT] = str(found.cut)
    media_type = MEDIA_TYPES[found.path.suffix]
    if media_type.startswith("text/"):
        media_type += f"; charset={_CHARSETS.get(found.encoding, found.encoding)}"
    return FileResponse(found.path, media_type=media_type, headers=headers)


def _attachment(name: str) -> str:
    """A Content-Disposition for any name: ASCII for old clients, the whole of it by RFC 5987 (see RFC 6266)."""
    plain = "".join(char if char.isascii() and char.isprintable() and char not in '"\\%' else "_" for char in name)
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"
