"""The real CLI and the real sandbox as processes, for acceptance tests."""

from __future__ import annotations

import atexit
import csv
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from tests.faults.zygote import Zygote

QUICK = {
    "BATCH_JOBS__POLLING__MIN_SECONDS": "0.05",
    "BATCH_JOBS__POLLING__MAX_SECONDS": "0.3",
    "BATCH_JOBS__SUBMISSION__QUARANTINE_SECONDS": "0.5",
    "BATCH_JOBS__CONCURRENT__MIN_WAIT_SECONDS": "0.01",
    "BATCH_JOBS__CONCURRENT__MAX_WAIT_SECONDS": "0.05",
    "NO_COLOR": "1",
    "PYTHONWARNINGS": "error",
}
START_SECONDS = 30.0


@dataclass(frozen=True)
class Sandbox:
    """A running sandbox server."""

    url: str
    process: subprocess.Popen[bytes]
    state: Path

    def ask(self, path: str) -> Any:
        """GET a JSON document below /sandbox."""
        with urllib.request.urlopen(f"{self.url}/sandbox/{path}", timeout=10) as reply:
            return json.loads(reply.read())

    @property
    def billed(self) -> int:
        """Calls that it has executed and billed so far."""
        return int(self.ask("bill")["calls"])

    def put_behaviour(self, behaviour: dict[str, Any]) -> None:
        """Change what it does, from now on."""
        body = json.dumps(behaviour).encode()
        request = urllib.request.Request(f"{self.url}/sandbox/behaviour", body, method="PUT")
        urllib.request.urlopen(request, timeout=10).close()

    def environ(self, key: str | None = None) -> dict[str, str]:
        """What points the three SDKs at it; a key of its own keeps a test's batches apart."""
        chosen = key or f"test-{uuid.uuid4().hex}"
        return {
            "OPENAI_BASE_URL": f"{self.url}/openai/v1",
            "ANTHROPIC_BASE_URL": f"{self.url}/anthropic",
            "GOOGLE_GEMINI_BASE_URL": f"{self.url}/gemini",
            "OPENAI_API_KEY": chosen,
            "ANTHROPIC_API_KEY": chosen,
            "GEMINI_API_KEY": chosen,
        }


@contextmanager
def sandbox_server(state: Path, behaviour: dict[str, Any] | None = None) -> Iterator[Sandbox]:
    """Run a sandbox until the block ends."""
    state.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "batch_jobs", "sandbox", "--port", "0", "--state", str(state)]
    if behaviour is not None:
        (state / "behaviour.json").write_text(json.dumps(behaviour))
        command += ["--behaviour", str(state / "behaviour.json")]
    server = state / "server.json"
    server.unlink(missing_ok=True)
    with (state / "output.log").open("ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=clean_environ())
    try:
        deadline = time.monotonic() + START_SECONDS
        while not server.exists():
            assert process.poll() is None, (state / "output.log").read_text()
            assert time.monotonic() < deadline, "the sandbox did not start"
            time.sleep(0.02)
        yield Sandbox(json.loads(server.read_bytes())["url"], process, state)
    finally:
        process.terminate()
        process.wait(timeout=20)


def clean_environ(extra: dict[str, str] | None = None) -> dict[str, str]:
    """This process's environment without anything of ours or of a provider, plus the quick settings and `extra`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("BATCH_JOBS")}
    return {**kept, **QUICK, **(extra or {})}


@dataclass(frozen=True)
class Result:
    """What a finished command left."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """The object of --json."""
        document = json.loads(self.out)
        assert isinstance(document, dict)
        return document


@lru_cache(1)
def _warmed() -> Zygote:
    """The warmed process of this test process; it ends with it."""
    folder = tempfile.TemporaryDirectory(prefix="warmed-")
    made = Zygote(Path(folder.name))

    def end() -> None:
        made.close()
        folder.cleanup()

    atexit.register(end)
    return made


@dataclass
class Cli:
    """Runs the real command line in a project folder.

    A call is a process of its own, forked from a warmed one, which saves the two seconds of its imports; `start` gives
    a process that was started from nothing.
    """

    folder: Path
    environ: dict[str, str] = field(default_factory=dict)

    def __call__(
        self, *arguments: str | Path, environ: dict[str, str] | None = None, cwd: Path | None = None
    ) -> Result:
        """Run a command to its end."""
        everything = clean_environ({**self.environ, **(environ or {})})
        ended = _warmed().run(*arguments, cwd=cwd or self.folder, environ=everything)
        return Result(ended.code, ended.out, ended.err)

    def start(
        self, *arguments: str | Path, environ: dict[str, str] | None = None, cwd: Path | None = None
    ) -> subprocess.Popen[str]:
        """Start a command and hand over its process."""
        command = [sys.executable, "-m", "batch_jobs", *(str(argument) for argument in arguments)]
        return subprocess.Popen(
            command,
            cwd=cwd or self.folder,
            env=clean_environ({**self.environ, **(environ or {})}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, file: Path, *more: str | Path, environ: dict[str, str] | None = None) -> Result:
        """`run` the shipped task on a file, answered in JSON."""
        case = ("--task", "summarize", "--data-case", "external_loss")
        return self("run", "--file", file, *case, "--yes", "--json", *more, environ=environ)


def read_csv(path: Path, encoding: str = "utf-8", delimiter: str = ",") -> list[dict[str, str]]:
    """A csv's rows as dicts of text."""
    with path.open(newline="", encoding=encoding) as handle:
        return list(csv.DictReader(handle, delimiter=delimiter))


def write_csv(path: Path, rows: list[dict[str, str]]) -> Path:
    """Write rows as csv."""
    with path.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.DictWriter(handle, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def losses(count: int, start: int = 0) -> list[dict[str, str]]:
    """Loss events whose text is unlike every other's."""
    return [
        {
            "id": f"{number:07d}",
            "DescriptionOfEvent": f"Event {number} at Bank{number}: a payment of {number * 37 + 11} EUR went to "
            f"Name{number} twice. The desk noticed it later, and reference R{number}X was reported.",
            "nfr_taxonomy": ("Fraud", "Cyber", "Execution")[number % 3],
            "note": "",
        }
        for number in range(start, start + count)
    ]


def own_answer(row: dict[str, str], column: str = "summary") -> bool:
    """Whether a row's answer speaks of that very row and of no other."""
    words = {word.strip(".,:") for word in row[column].split()}
    own = {word for word in words if word.startswith(("Bank", "Name", "R")) and any(map(str.isdigit, word))}
    mine = {word.strip(".,:") for word in row["DescriptionOfEvent"].split()}
    return bool(own) and own <= mine
