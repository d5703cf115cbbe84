"""Figures of a sweep, for the record: each `note` appends one JSON line to a file.

The file is the one that the environment variable BATCH_JOBS_FIGURES names, else `.figures.jsonl` beside
pyproject.toml. Lines are appended in one write, so that several test processes may share the file.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

VARIABLE = "BATCH_JOBS_FIGURES"
DEFAULT = Path(__file__).resolve().parents[2] / ".figures.jsonl"


def note(name: str, **figures: Any) -> dict[str, Any]:
    """Append `{"name": name, **figures}` to the record.

    Returns:
        The line, as a dict.
    """
    line = {"name": name, **figures}
    handle = os.open(os.environ.get(VARIABLE) or DEFAULT, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.write(handle, json.dumps(line, ensure_ascii=False).encode() + b"\n")
    finally:
        os.close(handle)
    return line


def noted(path: Path | None = None) -> list[dict[str, Any]]:
    """Read the record back, oldest first; empty where there is none."""
    path = path or Path(os.environ.get(VARIABLE) or DEFAULT)
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()] if path.exists() else []
