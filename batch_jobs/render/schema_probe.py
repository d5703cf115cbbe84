"""Runs a schema module in a process of its own and says what it declares; a script, started by `schema_check`.

It gets the module on stdin and answers one JSON object on stdout. It knows nothing of this package, has no key in its
environment, can open no socket, start no process, write no file, and ends by itself.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import warnings
from types import ModuleType
from typing import Any

NAME = "schema_module"
SECONDS = 10
MEMORY_BYTES = 1 << 30
MAX_ERROR_CHARS = 300
FORBIDDEN = ("socket.", "subprocess.", "os.", "ctypes.", "shutil.", "ftplib.", "urllib.", "http.", "webbrowser.")
HARMLESS = ("os.listdir", "os.scandir", "os.walk", "os.fwalk")


def main() -> int:
    """Answer, and leave."""
    import pydantic
    import pydantic.json_schema  # what pydantic loads late is loaded before the doors close

    text = sys.stdin.read()
    warnings.simplefilter(
        "error"
    )  # as of a field that hides one of BaseModel's own, or a word that Field does not know
    _limit()
    sys.addaudithook(_refuse)
    try:
        found: dict[str, Any] = _found(_run(text), pydantic.BaseModel)
    except BaseException as error:  # whatever it does, it is told
        said = " ".join(str(error).split())[:MAX_ERROR_CHARS]
        found = {"error": f"{type(error).__name__}: {said}{_line_of(error)}"}
    sys.stdout.write(json.dumps(found, ensure_ascii=True))
    return 0


def _limit() -> None:
    """Bound what it may use; where the system has no such limits, the time limit of the caller stays."""
    with contextlib.suppress(ImportError):
        import resource

        wanted = {
            resource.RLIMIT_CPU: SECONDS,
            resource.RLIMIT_AS: MEMORY_BYTES,
            resource.RLIMIT_FSIZE: 0,
            resource.RLIMIT_NPROC: 0,
            resource.RLIMIT_CORE: 0,
        }
        for kind, most in wanted.items():
            with contextlib.suppress(ValueError, OSError):
                resource.setrlimit(kind, (most, most))


def _refuse(event: str, arguments: tuple[Any, ...]) -> None:
    """Audit hook: it can't be taken off again. Reading files stays, as Python imports by it."""
    if event == "open":
        flags = arguments[2] if len(arguments) > 2 and isinstance(arguments[2], int) else 0
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            raise PermissionError("a schema module may not write files")
    elif event.startswith(FORBIDDEN) and event not in HARMLESS:
        raise PermissionError(f"a schema module may not do this: {event}")


def _run(text: str) -> ModuleType:
    module = ModuleType(NAME)
    sys.modules[NAME] = module  # where pydantic looks names up
    exec(compile(text, f"<{NAME}>", "exec", dont_inherit=True), module.__dict__)
    return module


def _found(module: ModuleType, base: type) -> dict[str, Any]:
    models = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, base) and value.__module__ == NAME
    ]
    if not models:
        raise ValueError("it declares no class derived from pydantic.BaseModel")
    chosen: Any = vars(module).get("OUTPUT_MODEL", models[-1])
    return {"model": chosen.__name__, "fields": list(chosen.model_fields), "schema": chosen.model_json_schema()}


def _line_of(error: BaseException) -> str:
    step, line = error.__traceback__, 0
    while step is not None:
        if step.tb_frame.f_code.co_filename == f"<{NAME}>":
            line = step.tb_lineno
        step = step.tb_next
    return f" (line {line})" if line else ""


if __name__ == "__main__":
    sys.path[:0] = sys.argv[1:]
    sys.exit(main())
