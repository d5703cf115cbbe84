"""Builds shim.c, arms it in a run, and reads its log: storage faults at the Nth write, sync, rename of a process.

Used through a zygote that was started with the library preloaded:
`zygote.run(..., arm=("tests.faults.shim:arm", fault.as_arguments(...)))`. For a process that must be talked to while
it runs: `python -m tests.faults.shim '<arguments of arm as JSON>' serve --port 0 ...` under LD_PRELOAD.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from enum import IntFlag
from pathlib import Path
from typing import IO, Any

SOURCE = Path(__file__).with_name("shim.c")
SHORT, DEATH = -1, -2
Arming = tuple[str, dict[str, Any]]
"""A function as `module:function`, and its keyword arguments."""

ERRORS = {
    "ENOSPC": errno.ENOSPC,
    "EIO": errno.EIO,
    "EINTR": errno.EINTR,
    "EACCES": errno.EACCES,
    "SHORT": SHORT,
    "DEATH": DEATH,
    "NONE": 0,
}


class Calls(IntFlag):
    """What is counted and may fail; `NAMES` are the calls that change folders."""

    WRITE = 1
    SYNC = 2
    RENAME = 4
    LINK = 8
    UNLINK = 16
    TRUNCATE = 32
    CREATE = 64
    MKDIR = 128
    GROWTH = WRITE | CREATE | MKDIR
    NAMES = LINK | UNLINK | CREATE | MKDIR | TRUNCATE
    ALL = 255


@dataclass(frozen=True)
class Fault:
    """One thing that goes wrong below a root.

    Attributes:
        calls: which calls are counted and may fail.
        error: a name of `ERRORS`.
        position: the call that fails, from 1; 0 for none: they are only counted.
        again: every later one fails, too.
    """

    calls: Calls
    error: str
    position: int
    again: bool = False

    def __str__(self) -> str:
        calls = "|".join(one.name.lower() for one in self.calls if one.name)
        return f"{calls}:{self.error}:{self.position}{':again' if self.again else ''}"

    @classmethod
    def parse(cls, text: str) -> Fault:
        """The fault that `str` gives."""
        names, error, position, *again = text.split(":")
        assert error in ERRORS and again in ([], ["again"]), text
        calls = Calls(0)
        for name in names.split("|"):
            calls |= Calls[name.upper()]
        return cls(calls, error, int(position), bool(again))

    def arming(
        self, root: Path, log: Path, data: Path | None = None, sentinel: Path | None = None, bug: str = ""
    ) -> Arming:
        """What a run is armed with.

        Args:
            root: only calls below it count.
            log: where each of them is written down.
            data: where what was written goes, in the log's order.
            sentinel: faults come only while this file is there.
            bug: a name of `BUGS`, planted in the run to see that it is found.
        """
        paths = {"root": root.resolve(), "log": log, "data": data or "", "sentinel": sentinel or "", "bug": bug}
        values = {"calls": int(self.calls), "error": ERRORS[self.error], "position": self.position, "again": self.again}
        return "tests.faults.shim:arm", {**{name: str(path) for name, path in paths.items()}, **values}


@dataclass(frozen=True)
class Call:
    """One call of the log.

    Attributes:
        position: how many calls of the asked kinds there were by then, with this one.
        kind: `write`, `sync`, ...
        outcome: `ok`, `fault` or `death`.
        offset, length: of what was written; the length of a truncation; -1 for a sync of everything.
        other: where a rename or link led to.
    """

    position: int
    kind: str
    outcome: str
    offset: int
    length: int
    path: str
    other: str

    @property
    def failed(self) -> bool:
        return self.outcome == "fault"


def build(folder: Path) -> Path:
    """Compile the library; without a compiler the tests are skipped at home, and fail in CI."""
    import pytest  # not in a run that is armed

    compiler = shutil.which("gcc")
    if compiler is None or sys.platform != "linux":
        if os.environ.get("CI"):
            pytest.fail("storage faults need gcc and Linux")
        pytest.skip("storage faults need gcc and Linux")
    library = folder / "shim.so"
    options = ("-shared", "-fPIC", "-O2", "-Wall", "-Wextra", "-Werror", "-pthread")
    subprocess.run([compiler, *options, "-o", str(library), str(SOURCE)], check=True, timeout=60)
    return library


def arm(
    *, root: str, calls: int, position: int, error: int, again: bool, sentinel: str, log: str, data: str, bug: str
) -> None:
    """Called in the run itself: faults from now on."""
    library = ctypes.CDLL(None)
    texts = [text.encode() for text in (sentinel, log, data)]
    done = library.faults_arm(root.encode(), calls, ctypes.c_long(position), error, int(again), *texts)
    assert done == 0, "the library can't be armed"
    if bug:
        BUGS[bug]()


def _ignore_failed_syncs() -> None:
    from batch_jobs import system

    def sync(handle: IO[bytes], place: Path) -> None:
        handle.flush()
        with contextlib.suppress(OSError):
            os.fsync(handle.fileno())

    system.sync_file = sync


def _say_nothing() -> None:
    from batch_jobs.errors import BatchJobsError

    setattr(BatchJobsError, "message", "something went wrong")  # noqa: B010


BUGS = {"failed syncs are ignored": _ignore_failed_syncs, "errors say nothing": _say_nothing}


def stop_when_planned() -> None:
    """Armed in a run: it ends in order where the user's word to send would be written down."""
    from batch_jobs.errors import Interrupted
    from batch_jobs.lifecycle import control

    def stop(*_: object) -> None:
        raise Interrupted("planned")

    setattr(control, "approve", stop)  # noqa: B010


def read_log(path: Path) -> list[Call]:
    """The calls of an armed run, in the order in which they happened."""
    calls = []
    for line in path.read_text(encoding="utf-8").splitlines():
        position, kind, outcome, offset, length, first, other = line.split("\t")
        calls.append(Call(int(position), kind, outcome, int(offset), int(length), first, other))
    return calls


def main() -> None:
    """Arm this process and become the command line."""
    from batch_jobs.cli import main as command_line

    arm(**json.loads(sys.argv[1]))
    command_line(sys.argv[2:])


if __name__ == "__main__":
    main()
