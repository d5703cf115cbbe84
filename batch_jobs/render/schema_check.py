"""Checks a schema module that an LLM wrote: by its syntax tree, and only then by running it, far from everything.

The process that runs it (`schema_probe`) has an empty environment, no network and hard limits.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from batch_jobs.render.schema_closed import closed
from batch_jobs.render.schema_source import check_source, without_fence

PROBE = Path(__file__).with_name("schema_probe.py")
PACKAGES = ("pydantic", "pydantic_core", "annotated_types", "typing_extensions", "typing_inspection")
PROBE_SECONDS = 30.0
MAX_ERROR_CHARS = 500


@dataclass(frozen=True, slots=True)
class SchemaModule:
    """A module that passed.

    Attributes:
        source: ready to be written.
        model: name of the answer's model.
        fields: of the answer, in order.
        schema: of the answer.
    """

    source: str
    model: str
    fields: tuple[str, ...]
    schema: dict[str, Any]


def checked_module(text: str) -> SchemaModule:
    """Check what an LLM wrote as a schema module.

    Code fences are taken off, and its models closed to further fields. Nothing of it is run before its syntax tree has
    passed, and then only in a process of its own.

    Raises:
        ValueError: it is none; what is wrong, for the LLM and for people.
    """
    source = without_fence(text)
    check_source(source)
    source = closed(source)
    check_source(source)
    found = _probed(source)
    schema = found["schema"]
    if schema.get("type") != "object" or not schema.get("properties"):
        raise ValueError(f"{found['model']} has no fields")
    return SchemaModule(source, str(found["model"]), tuple(found["fields"]), schema)


def _probed(source: str) -> dict[str, Any]:
    command = [sys.executable, "-I", "-S", "-B", str(PROBE), *_package_folders()]
    try:
        done = subprocess.run(
            command,
            input=source.encode(),
            capture_output=True,
            env={"PYTHONUTF8": "1"},
            timeout=PROBE_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ValueError(f"it did not load within {PROBE_SECONDS:.0f} s") from None
    try:
        found: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        said = done.stderr.decode("utf-8", "replace").strip().splitlines() or [f"exit code {done.returncode}"]
        raise ValueError(f"it could not be loaded: {said[-1][:MAX_ERROR_CHARS]}") from None
    if "error" in found:
        raise ValueError(str(found["error"])[:MAX_ERROR_CHARS])
    return found


def _package_folders() -> list[str]:
    """Where pydantic and what it needs lie: all that the process may import besides Python itself."""
    import importlib.util

    folders: dict[str, None] = {}
    for name in PACKAGES:
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.origin:
            origin = Path(spec.origin)
            folders[str(origin.parent.parent if spec.submodule_search_locations else origin.parent)] = None
    return list(folders)
