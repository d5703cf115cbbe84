"""A warmed process that forks the real command line on request, so that a thousand runs do not import a thousand times.

Each run is a process of its own, with its own environment, folder, output and death; only the imports are shared.
Run as `python -m tests.faults.zygote` it serves requests, a JSON line each, on its standard input.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
import uuid
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

WARM = (
    *("batch_jobs.cli", "batch_jobs.cli.run", "batch_jobs.cli.status", "batch_jobs.lifecycle.schedule"),
    *("providers.openai", "providers.anthropic", "providers.gemini", "duckdb", "pandas"),
    *("pyarrow.parquet", "pyarrow.csv", "alembic", "orjson"),
    *("sqlalchemy.dialects.sqlite", "apscheduler.schedulers.background", "tinydb", "batch_jobs.lifecycle.check"),
    *("apscheduler.executors.pool", "tenacity", "tqdm", "batch_jobs.render.pool", "batch_jobs.output.table"),
)
END_SECONDS = 120.0
ROOT = Path(__file__).resolve().parents[2]
FORKS_WELL = {"jemalloc_bg_thd"}
"""Threads of libraries that look after themselves in a fork."""


@dataclass(frozen=True)
class Ended:
    """A run that is over: its exit code (negative: the signal that ended it) and what it printed."""

    code: int
    out: str
    err: str

    @property
    def killed(self) -> bool:
        return self.code == -signal.SIGKILL


class Zygote:
    """The requesting side; one run at a time. Not safe to share between threads."""

    def __init__(self, folder: Path, preload: Path | None = None) -> None:
        """Start the warmed process; `preload` is a shared library that its runs are loaded with."""
        self.folder = folder
        environ = {**os.environ, "OPENBLAS_NUM_THREADS": "1", **({"LD_PRELOAD": str(preload)} if preload else {})}
        command = [sys.executable, "-m", "tests.faults.zygote"]
        self._process = subprocess.Popen(  # unbuffered: a line that was read ahead is one that select() does not see
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environ, cwd=ROOT, bufsize=0
        )
        assert self._answer(END_SECONDS) == {"ready": True}

    def run(
        self,
        *arguments: str | Path,
        cwd: Path,
        environ: dict[str, str],
        arm: tuple[str, dict[str, Any]] | None = None,
        kill_after: float | None = None,
        end_seconds: float = END_SECONDS,
    ) -> Ended:
        """Run `batch-jobs <arguments>` to its end.

        Args:
            arguments: of the command line.
            cwd: its working folder.
            environ: its whole environment.
            arm: `module:function` and its keyword arguments, called in the run before anything else.
            kill_after: seconds until kill -9.
            end_seconds: a run that takes longer is a failure.
        """
        out = self.folder / f"{uuid.uuid4().hex}.out"
        for path in (out, out.with_suffix(".err")):
            path.touch()  # a run may be killed before it has a chance to
        request = {"argv": [str(a) for a in arguments], "cwd": str(cwd), "environ": environ, "out": str(out)}
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({**request, "arm": arm}).encode() + b"\n")
        self._process.stdin.flush()
        pid = self._answer(end_seconds)["pid"]
        ended = self._answer(kill_after if kill_after is not None else end_seconds, missing_is_fine=True)
        if ended is None:
            os.kill(pid, signal.SIGKILL)
            ended = self._answer(end_seconds)
        texts = [path.read_text() for path in (out, out.with_suffix(".err"))]
        assert kill_after is not None or ended["code"] != -signal.SIGKILL or arm is not None, f"did not end: {texts}"
        out.unlink()
        out.with_suffix(".err").unlink()
        return Ended(ended["code"], *texts)

    def _answer(self, seconds: float, missing_is_fine: bool = False) -> Any:
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], seconds)
        if not ready:
            assert missing_is_fine, "the warmed process does not answer"
            return None
        line = self._process.stdout.readline()
        assert line, "the warmed process has ended"
        return json.loads(line)

    def close(self) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(timeout=20)
        self._process.stdout.close()


@contextlib.contextmanager
def zygote(folder: Path, preload: Path | None = None) -> Iterator[Zygote]:
    """A warmed process for the block."""
    made = Zygote(folder, preload)
    try:
        yield made
    finally:
        made.close()


def serve() -> None:
    """Fork a run for each request, say its pid, wait for its end, say its exit code."""
    for name in WARM:
        importlib.import_module(name)
    names = [Path(f"/proc/self/task/{task}/comm").read_text().strip() for task in os.listdir("/proc/self/task")]
    others = [name for name in names[1:] if name not in FORKS_WELL]
    assert not others, f"a process with the threads {others} can't be forked safely"
    _say({"ready": True})
    for line in sys.stdin:
        request = json.loads(line)
        pid = os.fork()
        if pid == 0:
            _run(request)
        _say({"pid": pid})
        _, status = os.waitpid(pid, 0)
        _say({"code": os.waitstatus_to_exitcode(status)})


def _say(answer: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


def _run(request: dict[str, Any]) -> None:
    """The child: become the command that was asked for."""
    code = 1
    try:
        _settle(request)
        if request["arm"] is not None:
            target, arguments = request["arm"]
            module, _, function = target.partition(":")
            getattr(importlib.import_module(module), function)(**arguments)
        code = _main()
    finally:
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)


def _settle(request: dict[str, Any]) -> None:
    os.setsid()
    os.environ.clear()
    os.environ.update(request["environ"])
    os.chdir(request["cwd"])
    out = Path(request["out"])
    for number, path, flags in (
        (0, Path(os.devnull), os.O_RDONLY),
        (1, out, os.O_WRONLY | os.O_CREAT),
        (2, out.with_suffix(".err"), os.O_WRONLY | os.O_CREAT),
    ):
        handle = os.open(path, flags, 0o600)
        os.dup2(handle, number)
        os.close(handle)
    sys.argv = ["batch-jobs", *request["argv"]]
    if os.environ.get("PYTHONWARNINGS") == "error":
        warnings.simplefilter("error")


def _main() -> int:
    from batch_jobs.cli import main

    try:
        main()
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        return 1
    return 0


if __name__ == "__main__":
    serve()
