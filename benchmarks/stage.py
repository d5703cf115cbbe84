"""Where the lines run: a temporary folder, the test data, project folders, the loopback server and its environment.

Everything is made once a run, with a fixed seed, and removed at the end.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import orjson

from benchmarks import measure
from benchmarks.lines import Side
from benchmarks.measure import Sample

T = TypeVar("T")
ROOT = Path(__file__).resolve().parents[1]
FULL_ROWS = 200_000
SEED = 4
PRODUCT = "batch-jobs"
TASK, DATA_CASE = "summarize", "external_loss"
KEY = "bench"
START_SECONDS = 30.0
AT_ONCE = {"BATCH_JOBS__POLLING__MIN_SECONDS": "0.05", "BATCH_JOBS__POLLING__MAX_SECONDS": "0.2"}
"""The server is ready at once, so the product looks at once; all else is as config.json ships it."""


@dataclass
class Stage:
    """One run of the suite.

    Attributes:
        folder: temporary, on the disk that is measured.
        base_rows: stands for the 200,000 rows of the bars; every other number of rows is scaled alike.
        repeats: how often a pair of programs is run at most.
        budget_seconds: a pair is not repeated once it has taken as long.
        say: tells whoever watches.
    """

    folder: Path
    base_rows: int = FULL_ROWS
    repeats: int = 3
    budget_seconds: float = 20.0
    say: Callable[[str], None] = lambda _: None
    kept: dict[str, Any] = field(default_factory=dict)
    _closing: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    @property
    def server(self) -> Server:
        """The loopback server that answers at once; one for the whole run, as a job is bound to its address."""
        return self.once("server", lambda: self._closing.enter_context(loopback_server()))

    @property
    def open_server(self) -> Server:
        """One whose batches stay under way, so that whoever sends one is done when it is sent."""
        return self.once("open server", lambda: self._closing.enter_context(loopback_server("--stay-open")))

    def once(self, name: str, make: Callable[[], T]) -> T:
        """What several lines need is made by the first of them."""
        if name not in self.kept:
            self.kept[name] = make()
        found: T = self.kept[name]
        return found

    def close(self) -> None:
        """End the servers."""
        self._closing.close()

    def rows(self, full: int) -> int:
        """A number of rows of the bars, scaled to this run."""
        return max(full * self.base_rows // FULL_ROWS, 20)

    def table(self, rows: int) -> Path:
        """A csv of invented loss events of about 450 bytes a row, 8 columns."""
        path = self.folder / f"losses-{rows}.csv"
        if not path.exists():
            from scripts.make_mock_data import events, write_csv

            self.say(f"making {path.name}")
            write_csv(events(rows, SEED, DATA_CASE), path)
        return path

    def project(self, name: str) -> Path:
        """A fresh project folder with the shipped config and prompts."""
        folder = self.folder / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        shutil.copy(ROOT / "config.json", folder)
        shutil.copytree(ROOT / "prompt_lib", folder / "prompt_lib", ignore=shutil.ignore_patterns("__pycache__"))
        return folder

    def drop(self, folder: Path) -> None:
        """Remove what is no longer needed; a million small files would slow down what follows."""
        shutil.rmtree(folder, ignore_errors=True)

    def program(self, module: str, what: str, given: Mapping[str, Any], **more: Any) -> Sample:
        """Run one of the suite's own programs: `python -m benchmarks.<module> <what> <given as JSON>`."""
        self.say(f"{module} {what}")
        command = [sys.executable, "-m", f"benchmarks.{module}", what, json.dumps(given, default=str)]
        environ = {**clean_environ(), **more.pop("environ", {})}
        return measure.run(command, cwd=ROOT, environ=environ, **more)

    def command_line(self, *arguments: str | Path, project: Path, environ: Mapping[str, str], **more: Any) -> Sample:
        """Run the product's command line in a project folder."""
        self.say(f"{PRODUCT} {arguments[0]}")
        command = [Path(sys.executable).with_name(PRODUCT), *arguments]
        return measure.run(command, cwd=project, environ={**clean_environ(), **environ}, **more)

    def alternate(self, *runs: Callable[[], Sample]) -> tuple[list[Sample], ...]:
        """Run programs in turn, as often as this run of the suite allows."""
        return measure.interleaved(runs, self.repeats, self.budget_seconds)


def run_arguments(file: Path, *more: str) -> list[str | Path]:
    """`run` the shipped task on a file."""
    return ["run", "--file", file, "--task", TASK, "--data-case", DATA_CASE, "--yes", *more]


def clean_environ() -> dict[str, str]:
    """This process's environment without anything of the product or of a provider."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("BATCH_JOBS", "OPENAI_", "ANTHROPIC_", "GEMINI_", "GOOGLE_"))
    }
    return {**kept, "NO_COLOR": "1", "PYTHONPATH": str(ROOT)}


def side(name: str, sample: Sample, rows: int) -> Side:
    """What a whole process took."""
    return Side(name, sample.seconds, rows, sample.peak_bytes)


def inner(name: str, sample: Sample, rows: int) -> Side:
    """What the work within a process took, by that process's own clock."""
    return Side(name, float(sample.report["seconds"]), rows, sample.peak_bytes)


def packed_environ() -> dict[str, str]:
    """What asks the product for its packed store; nothing where it has none yet."""
    from batch_jobs.config import Settings

    return {"BATCH_JOBS__STORE__LAYOUT": "packed"} if "store" in Settings.model_fields else {}


@dataclass(frozen=True)
class Server:
    """The running loopback server."""

    url: str

    @property
    def environ(self) -> dict[str, str]:
        """What points the product, and every peer, at it."""
        return {"OPENAI_BASE_URL": f"{self.url}/v1", "OPENAI_API_KEY": KEY, **AT_ONCE}

    def stats(self) -> dict[str, Any]:
        """What it has seen since its last reset; times are `time.monotonic`."""
        with urllib.request.urlopen(f"{self.url}/stats", timeout=30) as reply:
            found = orjson.loads(reply.read())
        assert isinstance(found, dict)
        return found

    def reset(self) -> None:
        """Begin to count anew, and forget all files."""
        urllib.request.urlopen(urllib.request.Request(f"{self.url}/reset", b"", method="POST"), timeout=30).close()


@contextlib.contextmanager
def loopback_server(*arguments: str) -> Iterator[Server]:
    """Run the loopback server until the block ends."""
    command: Sequence[str] = [sys.executable, "-m", "benchmarks.server", *arguments]
    process = subprocess.Popen(command, cwd=ROOT, env=clean_environ(), stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        told = process.stdout.readline()
        if not told:
            raise measure.ProgramFailed(f"the loopback server ended with {process.wait(START_SECONDS)}")
        yield Server(orjson.loads(told)["url"])
    finally:
        process.terminate()
        process.wait(timeout=START_SECONDS)
        if process.stdout is not None:
            process.stdout.close()
