"""Every persisted step of the product, seen from outside under a name: noted, or the place of a kill -9.

The choke points are wrapped in the run itself (`Zygote.run(arm=...)`), before the command line starts: SQLAlchemy's
commit, the calls of `os` that make, sync, rename or remove something below the run's folder, the file system sync,
and every verb of a provider that is not known to change nothing. A step's name says what is done and where in the
product's own code it is done, so the list of steps is what the code does, and a new one can't be forgotten.
"""

from __future__ import annotations

import functools
import importlib
import os
import random
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import batch_jobs

PRODUCT = Path(batch_jobs.__file__).resolve().parent.parent
PACKAGES = tuple(f"{PRODUCT / name}{os.sep}" for name in ("batch_jobs", "providers"))
PLUMBING = frozenset(
    f"batch_jobs.{name}"
    for name in ("storage.database", "storage.files", "storage.ledger", "storage.call_cache", "lifecycle.run", "system")
)
"""Modules through which everything passes: they say how, not where."""

DRIVERS = frozenset({"batch_jobs.lifecycle.advance", "batch_jobs.lifecycle.schedule"})
"""Modules that only call the steps; the step's own name is told by the frame below them."""

CHANGES_NOTHING = frozenset({"now", "find_batches", "owns", "check", "fetch", "close"})
"""Verbs of a provider that neither change anything there nor cost anything; all others are steps."""

FILE_STEPS = ("mkdir", "rmdir", "unlink", "remove", "link", "symlink", "rename", "replace", "truncate")

NO_BEFORE = frozenset({"mkdir", "fsync", "syncfs"})
"""A folder is often there already, and a sync changes nothing for whoever comes after a kill: named when done."""

Reach = Callable[[str, str], None]
"""Called with what is done and with `before`, `after` or `raised`."""


def note(root: str, log: str) -> None:
    """Arm a run: append the name of each step to `log` when the run comes to it first."""
    _wrap_all(_Watch(root, log, lambda _: False))


def kill(
    root: str,
    log: str,
    *,
    done: str,
    seed: str,
    odds: float,
    usual: str | None = None,
    always: Sequence[str] = (),
    again: str | None = None,
) -> None:
    """Arm a run: it is killed at a step where no run before it was killed.

    Args:
        root: the run's folder.
        log: gets the names of all steps that the run comes to.
        done: a file with the steps where runs were killed; this one's is appended.
        seed: of the draws.
        odds: of being killed when it comes to such a step; one that it passes by is left for another run.
        usual: a file with the steps of runs that were not killed. It is certainly killed at a step that is not among
            them: only some kills lead there, and perhaps no run ever comes there again.
        always: it is certainly killed at such a step whose name holds one of these.
        again: a step where it is killed once more, though a run was.
    """
    killed_at, draws = frozenset(names_in(Path(done))), random.Random(seed)
    left_for_later = None if usual is None else frozenset(names_in(Path(usual)))

    def chosen(name: str) -> bool:
        if name in killed_at:
            return name == again
        if left_for_later is not None and name not in left_for_later:
            return True
        return any(part in name for part in always) or draws.random() < odds

    _wrap_all(_Watch(root, log, chosen, done))


def kill_at(root: str, log: str, *, done: str, name: str) -> None:
    """Arm a run: it is killed when it first comes to a step of this name; `*` in it stands for anything."""
    _wrap_all(_Watch(root, log, lambda reached: fnmatchcase(reached, name), done))


@dataclass
class _Watch:
    """Notes the steps that this process comes to, and ends it at the chosen one."""

    root: str
    log: str
    chosen: Callable[[str], bool]
    done: str = ""
    seen: set[str] = field(default_factory=set)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self, what: str, when: str) -> None:
        place = _place()
        if place is None:
            return
        name = f"{what} {place} {when}"
        with self.lock:  # no other thread notes a step while this one is being killed at its own
            if name not in self.seen:
                self.seen.add(name)
                append(self.log, name)
            if self.chosen(name):
                append(self.done, name)
                os.kill(os.getpid(), signal.SIGKILL)


def append(path: str, name: str) -> None:
    """Add one line, in one write, so that it is there when the process is gone."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.write(handle, f"{name}\n".encode())
    finally:
        os.close(handle)


def names_in(path: Path) -> list[str]:
    """The lines of such a file, in order."""
    return path.read_text().splitlines() if path.exists() else []


# -- where ---------------------------------------------------------------------------------------------------------


def _place() -> str | None:
    """The nearest place in the product's own code, and the step that it belongs to; None for code of others."""
    frames = list(_product_frames(sys._getframe(3)))
    if not frames:
        return None
    near = next((frame for frame in frames if _module(frame) not in PLUMBING), frames[0])
    steps = [frame for frame in frames if _module(frame).startswith("batch_jobs.lifecycle.")]
    steps = [frame for frame in steps if _module(frame) not in DRIVERS | PLUMBING]
    chosen = [*frames[:1], near, *steps[-1:]]
    inner = chosen if _module(frames[0]) == "batch_jobs.storage.files" else chosen[1:]
    return " < ".join(dict.fromkeys(map(_said, inner)))


def _product_frames(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        if frame.f_code.co_filename.startswith(PACKAGES):
            yield frame
        frame = frame.f_back


def _said(frame: FrameType) -> str:
    module = _module(frame).removeprefix("batch_jobs.")
    return f"{module}.{frame.f_code.co_name}:{frame.f_lineno}"


def _module(frame: FrameType) -> str:
    return _module_of(frame.f_code)


@functools.cache
def _module_of(code: CodeType) -> str:
    path = Path(code.co_filename).relative_to(PRODUCT).with_suffix("")
    return ".".join(path.parts).removesuffix(".__init__")


# -- what ----------------------------------------------------------------------------------------------------------


def _wrap_all(reach: _Watch) -> None:
    root = os.path.realpath(reach.root)
    _wrap_commits(reach)
    for name in FILE_STEPS:
        _wrap(os, name, reach, name, functools.partial(_below, root))
    _wrap(os, "fsync", reach, "fsync", functools.partial(_handle_below, root))
    from batch_jobs import system

    _wrap(system, "sync_filesystem", reach, "syncfs", functools.partial(_below, root))
    for provider in _providers():
        verbs = (name for name in vars(provider) if not name.startswith("_") and name not in CHANGES_NOTHING)
        for verb in verbs:
            if callable(getattr(provider, verb)):
                _wrap(provider, verb, reach, f"{provider.__name__}.{verb}", lambda *_, **__: True)


def _wrap(owner: Any, name: str, reach: Reach, what: str, counts: Callable[..., bool]) -> None:
    """Replace a function by one that says when it begins, returns and raises, where `counts` says that it counts."""
    inner = getattr(owner, name)

    @functools.wraps(inner)
    def outer(*arguments: Any, **named: Any) -> Any:
        if not counts(*arguments, **named):
            return inner(*arguments, **named)
        if what not in NO_BEFORE:
            reach(what, "before")
        try:
            result = inner(*arguments, **named)
        except OSError:  # nothing was changed
            raise
        except BaseException:
            reach(what, "raised")
            raise
        reach(what, "after")
        return result

    setattr(owner, name, outer)


def _below(root: str, *paths: Any, dir_fd: int | None = None, **_: Any) -> bool:
    texts = [os.fspath(path) for path in paths if isinstance(path, str | os.PathLike)]
    base = os.readlink(f"/proc/self/fd/{dir_fd}") if dir_fd is not None else os.getcwd()
    return any(os.path.join(base, text).startswith(root + os.sep) for text in texts)


def _handle_below(root: str, handle: Any) -> bool:
    number = handle if isinstance(handle, int) else handle.fileno()
    return (os.readlink(f"/proc/self/fd/{number}") + os.sep).startswith(root + os.sep)


def _wrap_commits(reach: Reach) -> None:
    """A commit counts where its transaction has changed something: those that only read end in one too."""
    from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite as Dialect

    begun: dict[Any, tuple[int, int]] = {}
    do_begin: Callable[..., None] = Dialect.do_begin
    do_commit: Callable[..., None] = Dialect.do_commit

    def begin(dialect: Any, connection: Any) -> None:
        do_begin(dialect, connection)
        raw = _raw(connection)
        begun[raw] = _changes(raw)

    def commit(dialect: Any, connection: Any) -> None:
        raw = _raw(connection)
        changed = _changes(raw) != begun.get(raw)
        what = f"commit of {Path(raw.execute('PRAGMA database_list').fetchone()[2]).stem}"
        if changed:
            reach(what, "before")
        do_commit(dialect, connection)
        if changed:
            reach(what, "after")

    Dialect.do_begin, Dialect.do_commit = begin, commit  # type: ignore[method-assign]


def _raw(connection: Any) -> Any:
    """SQLite's own connection below SQLAlchemy's wrappers."""
    return getattr(connection, "dbapi_connection", connection)


def _changes(raw: Any) -> tuple[int, int]:
    """Grows with every changed row, and with every changed table."""
    return raw.total_changes, raw.execute("PRAGMA schema_version").fetchone()[0]


def _providers() -> Iterator[type]:
    """Every class behind the contract's wire half that `providers.connect` can give out."""
    from batch_jobs.models import Dialect

    for dialect in Dialect:
        module = importlib.import_module(f"providers.{dialect}")
        yield from (
            made
            for made in vars(module).values()
            if isinstance(made, type) and made.__module__ == module.__name__ and hasattr(made, "create_batch")
        )
