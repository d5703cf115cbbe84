"""Whole jobs by the command line, in batch mode: how long, how much memory, and how both grow with the rows."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import orjson

from benchmarks.lines import Line, Outcome, Side, Unit, at_most, memory
from benchmarks.measure import ProgramFailed, Sample
from benchmarks.stage import (
    AT_ONCE,
    FULL_ROWS,
    KEY,
    PRODUCT,
    ROOT,
    START_SECONDS,
    Stage,
    clean_environ,
    packed_environ,
    run_arguments,
    side,
)

JOB_ROWS = 100_000
SMALL_ROWS = 20_000
LARGE_ROWS = 1_000_000
SANDBOX_ROWS = 10_000
PSS = "PSS over all processes of the product, looked at every 50 ms or less often"


@dataclass(frozen=True, slots=True)
class Ran:
    """A whole job, and what the server needed for its own part."""

    sample: Sample
    server_seconds: float

    @property
    def own_seconds(self) -> float:
        """Wall clock less the server's processor time."""
        return self.sample.seconds - self.server_seconds


def whole_job(stage: Stage, rows: int) -> Ran:
    """Run one job from the file to the file; once for all lines. Packed at any size: like is compared with like."""
    return stage.once(f"job of {rows}", lambda: _whole_job(stage, rows))


def _whole_job(stage: Stage, rows: int) -> Ran:
    project, file, server = stage.project(f"job-{rows}"), stage.table(rows), stage.server
    server.reset()
    arguments = run_arguments(file, "--mode", "batch", "--output", str(project / "output.csv"))
    sample = stage.command_line(
        *arguments, project=project, environ={**server.environ, **packed_environ()}, limit_seconds=3_600
    )
    busy = float(server.stats()["cpu_seconds"])
    server.reset()
    stage.drop(project)
    return Ran(sample, busy)


def job_line(stage: Stage) -> list[Outcome]:
    """100,000 rows against a server that is ready at once: everything but the server's own time."""
    rows = stage.rows(JOB_ROWS)
    ran = whole_job(stage, rows)
    product = Side(PRODUCT, ran.own_seconds, rows, ran.sample.peak_bytes)
    note = f"{ran.sample.seconds:.1f} s by the clock, less {ran.server_seconds:.1f} s of the server's processor time"
    what = f"whole job, {rows:,} rows, batch"
    return [
        Outcome("job", what, Unit.SECONDS, ran.own_seconds, at_most(60), product, note=note),
        memory("job", f"{what}: memory", product, at_most(500), PSS),
    ]


def _growth(stage: Stage, line: str, small: int, large: int) -> list[Outcome]:
    few, many = whole_job(stage, small), whole_job(stage, large)
    product, other = side(PRODUCT, many.sample, large), side(f"{small:,} rows", few.sample, small)
    grown = (many.sample.peak_bytes - few.sample.peak_bytes) / 1e6
    what = f"whole job, {large:,} rows against {small:,}"
    times = many.sample.seconds / few.sample.seconds
    return [
        Outcome(line, f"{what}: time", Unit.TIMES, times, at_most(11), product, other),
        Outcome(line, f"{what}: more memory", Unit.MEGABYTES, grown, at_most(150), product, other, PSS),
    ]


def growth_line(stage: Stage) -> list[Outcome]:
    """A proxy for the million: 200,000 rows against 20,000."""
    return _growth(stage, "growth", stage.rows(SMALL_ROWS), stage.rows(FULL_ROWS))


def million_line(stage: Stage) -> list[Outcome]:
    """1,000,000 rows against 100,000."""
    return _growth(stage, "million", stage.rows(JOB_ROWS), stage.rows(LARGE_ROWS))


def sandbox_line(stage: Stage) -> list[Outcome]:
    """For information: a job through the product's own sandbox, which simulates a real provider's checks."""
    rows, project = stage.rows(SANDBOX_ROWS), stage.project("sandbox")
    arguments = run_arguments(stage.table(rows), "--mode", "batch", "--output", str(project / "output.csv"))
    with _sandbox(project / "state") as url:
        environ = {"OPENAI_BASE_URL": f"{url}/openai/v1", "OPENAI_API_KEY": KEY, **AT_ONCE}
        sample = stage.command_line(*arguments, project=project, environ=environ)
    stage.drop(project)
    product = side(PRODUCT, sample, rows)
    note = "the sandbox's own time is in it"
    return [
        Outcome("sandbox", f"whole job, {rows:,} rows, sandbox", Unit.SECONDS, sample.seconds, None, product, note=note)
    ]


@contextlib.contextmanager
def _sandbox(state: Path) -> Iterator[str]:
    """The product's sandbox with batches that end at once, until the block ends."""
    state.mkdir(parents=True)
    behaviour, told = state / "behaviour.json", state / "server.json"
    behaviour.write_text(json.dumps({"batch_seconds": 0.01}))
    command = [sys.executable, "-m", "batch_jobs", "sandbox", "--port", "0", "--state", state, "--behaviour", behaviour]
    process = subprocess.Popen(
        [str(part) for part in command],
        cwd=ROOT,
        env=clean_environ(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + START_SECONDS
        while not told.exists():
            if process.poll() is not None or time.monotonic() > deadline:
                raise ProgramFailed("the sandbox did not start")
            time.sleep(0.05)
        yield str(orjson.loads(told.read_bytes())["url"])
    finally:
        process.terminate()
        process.wait(timeout=START_SECONDS)


LINES = (
    Line("job", "whole job, 100,000 rows, batch, all but the server's time: <= 60 s, memory <= 500 MB", job_line),
    Line("growth", "whole job, 200,000 rows against 20,000: time <= 11 x, memory <= +150 MB (proxy)", growth_line),
    Line("sandbox", "whole job through the sandbox, for information", sandbox_line),
    Line(
        "million",
        "whole job, 1,000,000 rows against 100,000: time <= 11 x, memory <= +150 MB",
        million_line,
        large=True,
    ),
)
