"""Gemini's files: the resumable upload in chunks, and get, list, delete, download.

The upload address holds a secret id, because the SDK sends no key with the chunks.
"""

from __future__ import annotations

import re
from functools import partial

from fastapi import APIRouter
from starlette.responses import Response

from . import batches
from .behaviour import Route
from .gemini_wire import GeminiWire
from .gemini_words import file_body
from .handling import Incoming, add_route, reply
from .limits import camel
from .records import FileRow
from .sandbox import Sandbox
from .wire import Body, Problem, Refused

FILES_WIRE = GeminiWire()
FILE_NAME = re.compile(r"^[a-z0-9](?:[a-z0-9-]{0,38}[a-z0-9])?$")
LONGEST_NAME = 40
_COPY_BYTES = 1 << 20


def file_routes(router: APIRouter, version: str) -> None:
    """Add the file routes of one API version."""
    add = partial(add_route, router, FILES_WIRE)
    add(Route.UPLOAD, "POST", f"/upload/{version}/files", begin_upload)
    add(Route.UPLOAD, "POST", f"/upload/{version}/files/{{upload_id}}", take_chunk, open_door=True)
    add(Route.FILE, "GET", f"/{version}/files", list_files)
    add(Route.FETCH, "GET", f"/{version}/files/{{file_id}}:download", download)
    add(Route.FETCH, "GET", f"/download/{version}/files/{{file_id}}:download", download)
    add(Route.FILE, "GET", f"/{version}/files/{{file_id}}", get_file)
    add(Route.DELETE, "DELETE", f"/{version}/files/{{file_id}}", delete_file)


def begin_upload(box: Sandbox, incoming: Incoming) -> Response:
    """Give the address that the chunks go to."""
    if incoming.headers.get("x-goog-upload-command") != "start":
        raise Refused(Problem(400, "Only resumable uploads are simulated: X-Goog-Upload-Command must be 'start'."))
    asked: Body = incoming.json().get("file") or {} if incoming.body else {}
    fields = {camel(name): value for name, value in asked.items()}
    ident = box.new_id()
    name = str(fields.get("name") or f"files/sim{ident}").removeprefix("files/")
    if not FILE_NAME.fullmatch(name):
        message = "* CreateFileRequest.file.name: at most 40 lowercase alphanumeric characters or dashes"
        raise Refused(Problem(400, message))
    if box.state.file(FILES_WIRE.dialect, incoming.owner, f"files/{name}"):
        raise Refused(Problem(409, f"File {name} already exists. (simulated)"))
    shown = str(fields.get("displayName") or incoming.headers.get("x-goog-upload-file-name") or "")
    path = f"spool/{ident}"
    (box.state.folder / path).touch()
    box.state.database.run(
        "INSERT INTO uploads VALUES (?, ?, ?, ?, ?)", ident, incoming.owner, f"files/{name}", shown, path
    )
    version = incoming.path.split("/upload/")[1].split("/")[0]
    address = f"{incoming.url}/gemini/upload/{version}/files/{ident}?upload_protocol=resumable"
    headers = {"X-Goog-Upload-URL": address, "X-Goog-Upload-Status": "active"}
    return reply({}, headers=headers)


def take_chunk(box: Sandbox, incoming: Incoming) -> Response:
    """Append a chunk; the last one makes the file."""
    row = box.state.database.row("SELECT * FROM uploads WHERE upload_id = ?", incoming.params["upload_id"])
    if row is None:
        raise Refused(Problem(404, "No such upload. (simulated)"))
    path = box.state.folder / row["path"]
    with path.open("r+b") as out:
        out.seek(int(incoming.headers.get("x-goog-upload-offset") or 0))
        out.write(incoming.body)
        if incoming.spool is not None:
            with incoming.spool.open("rb") as chunk:
                while part := chunk.read(_COPY_BYTES):
                    out.write(part)
        out.truncate()
    if "finalize" not in incoming.headers.get("x-goog-upload-command", ""):
        return reply({}, headers={"X-Goog-Upload-Status": "active"})
    now = box.clock()
    file = FileRow(
        file_id=row["file_id"],
        dialect=FILES_WIRE.dialect,
        owner=row["owner"],
        name=row["name"],
        purpose="upload",
        bytes=path.stat().st_size,
        created_at=now,
        ready_at=now,
        path=f"files/{row['upload_id']}",
    )
    kept = batches.keep_file(box, incoming, path, file)
    box.state.database.run("DELETE FROM uploads WHERE upload_id = ?", row["upload_id"])
    if kept is None:
        raise Refused(Problem(409, f"File {file.file_id} already exists. (simulated)"))
    return reply({"file": file_body(kept, now, incoming.url)}, headers={"X-Goog-Upload-Status": "final"})


def list_files(box: Sandbox, incoming: Incoming) -> Response:
    """List files, newest first."""
    limit = batches.whole_number(incoming.query.get("pageSize", ""), 10, 1, 100)
    start = batches.whole_number(incoming.query.get("pageToken", ""), 1 << 62, 1, 1 << 62)
    found = box.state.files(FILES_WIRE.dialect, incoming.owner, before_seq=start, limit=limit + 1)
    body: Body = {"files": [file_body(file, box.clock(), incoming.url) for file in found[:limit]]}
    if len(found) > limit:
        body["nextPageToken"] = str(found[limit - 1].seq)
    return reply(body)


def get_file(box: Sandbox, incoming: Incoming) -> Response:
    """Show one file."""
    return reply(file_body(file_of(box, incoming, incoming.params["file_id"]), box.clock(), incoming.url))


def delete_file(box: Sandbox, incoming: Incoming) -> Response:
    """Delete one file; an id of over 40 characters, which only the provider itself gives out, is refused."""
    name = incoming.params["file_id"]
    if len(name) > LONGEST_NAME:
        words = "* DeleteFileRequest.name: File ID (name excluding 'files/') cannot be more than 40 characters."
        raise Refused(Problem(400, words))
    box.state.drop_file(file_of(box, incoming, name))
    return reply({})


def download(box: Sandbox, incoming: Incoming) -> Response:
    """Send a generated file's bytes."""
    file = file_of(box, incoming, incoming.params["file_id"])
    if file.purpose == "upload":
        raise Refused(Problem(400, "Only generated files can be downloaded. (simulated)"))
    return batches.send_file(box, incoming, box.state.folder / file.path, "application/jsonl")


def file_of(box: Sandbox, incoming: Incoming, name: str) -> FileRow:
    """Find the caller's file.

    Raises:
        Refused: 403, as the provider says for a file that is not there.
    """
    file = box.state.file(FILES_WIRE.dialect, incoming.owner, f"files/{name}")
    if file is None:
        message = f"You do not have permission to access the File {name} or it may not exist. (simulated)"
        raise Refused(Problem(403, message))
    return file
