"""Run a program and see what it took: wall clock, processor time, and the memory of its whole process tree.

Memory is PSS (a page that several processes share counts once, in parts), from /proc/<pid>/smaps_rollup; Linux only.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import orjson

SAMPLE_SECONDS = 0.05
SAMPLER_SHARE = 0.05
"""At most this share of the time goes into looking at memory: large processes are looked at less often."""
TAIL_CHARS = 600


class ProgramFailed(Exception):
    """A measured program ended with an error: its figures mean nothing."""


class TookTooLong(ProgramFailed):
    """A measured program was ended at its time limit."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What one run of a program took.

    Attributes:
        seconds: wall clock, from before the start to after the end of the process.
        cpu_seconds: of the process and the children that it waited for.
        peak_bytes: the highest sum of PSS over the process tree that was seen.
        began: `time.monotonic` of the start, to compare with a server's times.
        report: its standard output, or the last line of it, where that is a JSON object.
    """

    seconds: float
    cpu_seconds: float
    peak_bytes: int
    began: float
    report: Mapping[str, Any]


def run(
    command: Sequence[str | Path],
    *,
    cwd: Path,
    environ: Mapping[str, str] | None = None,
    limit_seconds: float = 900,
    expected: Sequence[int] = (0,),
) -> Sample:
    """Run a program to its end and measure it.

    Raises:
        ProgramFailed: it ended with another exit code than the `expected` ones; holds the end of what it said.
        TookTooLong: it was ended after `limit_seconds`.
    """
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        began = time.monotonic()
        process = subprocess.Popen(
            [str(part) for part in command],
            cwd=cwd,
            env=dict(environ) if environ is not None else None,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            start_new_session=True,
        )
        peak, usage, status = _watch(process.pid, began + limit_seconds)
        seconds = time.monotonic() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        said = _text(out)
        if seconds >= limit_seconds and process.returncode < 0:
            raise TookTooLong(f"ended after {limit_seconds:.0f} s")
        if process.returncode not in expected:
            words = (_text(err) or said).strip()[-TAIL_CHARS:]
            raise ProgramFailed(f"{_name(command)} ended with {process.returncode}: {words}")
    return Sample(seconds, usage.ru_utime + usage.ru_stime, peak, began, _report(said))


def _watch(pid: int, deadline: float) -> tuple[int, Any, int]:
    """Wait for a process, looking at its tree's memory all the while; ends the tree at the deadline."""
    ended, peak = threading.Event(), 0

    def look() -> None:
        nonlocal peak
        while not ended.is_set():
            at = time.monotonic()
            peak = max(peak, tree_bytes(pid))
            if at > deadline:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(pid, signal.SIGKILL)
            cost = time.monotonic() - at
            ended.wait(max(SAMPLE_SECONDS, cost / SAMPLER_SHARE))

    sampler = threading.Thread(target=look, name="memory", daemon=True)
    sampler.start()
    try:
        _, status, usage = os.wait4(pid, 0)
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
        raise
    finally:
        ended.set()
        sampler.join()
    return peak, usage, status


def tree_bytes(pid: int) -> int:
    """PSS of a process and all its descendants, in bytes; one that ends meanwhile counts as nothing."""
    return sum(pss_bytes(each) for each in tree(pid))


def tree(pid: int) -> list[int]:
    """A process and its descendants."""
    found = [pid]
    for each in found:  # grows while it is read
        with contextlib.suppress(OSError):
            for thread in os.scandir(f"/proc/{each}/task"):
                with contextlib.suppress(OSError):
                    found += [int(child) for child in Path(thread.path, "children").read_text().split()]
    return found


def pss_bytes(pid: int) -> int:
    """Proportional set size of a process, in bytes."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0
    for line in text.splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return 0


def _name(command: Sequence[str | Path]) -> str:
    return " ".join(Path(str(part)).name if index == 0 else str(part) for index, part in enumerate(command[:5]))


def _text(handle: Any) -> str:
    handle.seek(0)
    return str(handle.read().decode("utf-8", "replace"))


def _report(said: str) -> Mapping[str, Any]:
    for text in (said, said.strip().rpartition("\n")[2]):
        with contextlib.suppress(orjson.JSONDecodeError):
            found = orjson.loads(text)
            return found if isinstance(found, dict) else {}
    return {}


def fastest(samples: Sequence[Sample], seconds: Callable[[Sample], float] = lambda sample: sample.seconds) -> Sample:
    """The quickest of several runs, with the highest memory of all of them.

    On a machine that others use too, what disturbs a run only ever makes it slower: the minimum is the least disturbed.
    """
    best = min(samples, key=seconds)
    return replace(best, peak_bytes=max(sample.peak_bytes for sample in samples))


def interleaved(runs: Sequence[Callable[[], Sample]], repeats: int, budget_seconds: float) -> tuple[list[Sample], ...]:
    """Run several programs in turn: once each, then again while repeats and the budget last.

    Turns, so that a slow minute of the machine meets all of them.
    """
    began = time.monotonic()
    taken: tuple[list[Sample], ...] = tuple([] for _ in runs)
    for turn in range(repeats):
        spent = time.monotonic() - began
        if turn and spent + spent / turn > budget_seconds:
            break
        for each, samples in zip(runs, taken, strict=True):
            samples.append(each())
    return taken
