"""Raw result files, line by line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path


def result_lines(files: list[Path]) -> Iterator[bytes]:
    """Stream the non-empty raw lines of fetched result files, in order."""
    for path in files:
        with path.open("rb") as handle:
            for line in handle:
                if line.strip():
                    yield line
