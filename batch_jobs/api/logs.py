"""What the server says on stderr: uvicorn's lines and our named events, one line each, never a body or a key."""

from __future__ import annotations

import json
import logging
import time
from typing import Any


class Line(logging.Formatter):
    """`2026-11-21T10:00:00Z INFO shard.submitted 6650b12c... {"shard_key": ...}`, a traceback below it if any."""

    def format(self, record: logging.LogRecord) -> str:
        """Give one record as text."""
        at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(record.created))
        parts = [at, record.levelname, record.getMessage(), getattr(record, "task_id", "")]
        data = getattr(record, "data", None)
        if data:
            parts.append(json.dumps(data, default=str, ensure_ascii=False))
        text = " ".join(part for part in parts if part)
        return f"{text}\n{self.formatException(record.exc_info)}" if record.exc_info else text


def log_config() -> dict[str, Any]:
    """The logging of a server process, as `logging.config.dictConfig` wants it."""
    to_stderr = {"handlers": ["stderr"], "level": "INFO", "propagate": False}
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"line": {"()": Line}},
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line", "stream": "ext://sys.stderr"}},
        "loggers": {"uvicorn": to_stderr, "batch_jobs": to_stderr, "apscheduler": {**to_stderr, "level": "ERROR"}},
    }
