"""Gemini's small shapes: times and files.

They stand apart because both the file routes and the batch routes write them.
"""

from __future__ import annotations

from datetime import UTC, datetime

from .records import FileRow
from .wire import Body

HOURS_48 = 48 * 3600


def rfc3339(moment: float) -> str:
    """Write a time as the provider does."""
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def file_body(file: FileRow, now: float, url: str) -> Body:
    """Show a file; generated ones have a download address."""
    body: Body = {
        "name": file.file_id,
        "displayName": file.name,
        "mimeType": "application/jsonl",
        "sizeBytes": str(file.bytes),
        "createTime": rfc3339(file.created_at),
        "updateTime": rfc3339(file.created_at),
        "expirationTime": rfc3339(file.created_at + HOURS_48),
        "uri": f"{url}/gemini/v1beta/{file.file_id}",
        "state": "ACTIVE" if file.ready_at <= now else "PROCESSING",
        "source": "UPLOADED" if file.purpose == "upload" else "GENERATED",
    }
    if file.purpose != "upload":
        body["downloadUri"] = f"{url}/gemini/v1beta/{file.file_id}:download?alt=media"
    return body
