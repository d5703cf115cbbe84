"""The figures of a job's calls in the job's folder: written now and then by who makes them, read by whoever asks.

Nothing depends on them: where they are missing or can't be read, there are none.
"""

from __future__ import annotations

from typing import Any

import orjson

from batch_jobs.lifecycle.project import Project
from batch_jobs.storage.files import atomic_write


def write_figures(project: Project, task_id: str, figures: dict[str, Any]) -> None:
    """Put the newest figures in the place of those before."""
    atomic_write(project.workspace.pool(task_id), orjson.dumps(figures))


def read_figures(project: Project, task_id: str) -> dict[str, Any] | None:
    """The newest figures; None where there are none."""
    try:
        found = orjson.loads(project.workspace.pool(task_id).read_bytes())
    except (OSError, orjson.JSONDecodeError):
        return None
    return found if isinstance(found, dict) else None
