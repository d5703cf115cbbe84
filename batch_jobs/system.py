"""What differs between Linux, macOS and Windows, and nothing else: locks, syncs, process life.

Each function has a fallback, so that the rest of the product never asks which platform it is on.
"""

from __future__ import annotations

import contextlib
import ctypes
import ctypes.util
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

WINDOWS = sys.platform == "win32"

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


@contextlib.contextmanager
def exclusive_lock(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on `path` (made if missing); the kernel releases it when the process dies.

    Where flock does not exist the lock is msvcrt's on the first byte.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as handle:
        _lock(handle)
        try:
            yield
        finally:
            _unlock(handle)


def _lock(handle: IO[bytes]) -> None:
    if fcntl is not None:
        fcntl.flock(handle, fcntl.LOCK_EX)
        return
    import msvcrt  # type: ignore[unreachable,unused-ignore]

    handle.seek(0)
    msvcrt.locking(handle.fileno(), msvcrt.LK_LOCK, 1)  # type: ignore[attr-defined,unused-ignore]


def _unlock(handle: IO[bytes]) -> None:
    if fcntl is not None:
        fcntl.flock(handle, fcntl.LOCK_UN)
        return
    import msvcrt  # type: ignore[unreachable,unused-ignore]

    handle.seek(0)
    msvcrt.locking(handle.fileno(), msvcrt.LK_UNLCK, 1)  # type: ignore[attr-defined,unused-ignore]


def sync_folder(folder: Path) -> None:
    """Make renames within `folder` durable; a no-op where folders can't be opened (Windows)."""
    if WINDOWS:
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_filesystem(folder: Path) -> None:
    """Flush everything written to the file system that holds `folder`: one call for many small files.

    Linux syncfs(2); elsewhere sync(2); nothing on Windows, where callers that must be durable fsync per file.
    """
    if WINDOWS:
        return
    library = ctypes.CDLL(ctypes.util.find_library("c"), use_errno=True)
    if not hasattr(library, "syncfs"):
        os.sync()
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        if library.syncfs(handle) != 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), str(folder))
    finally:
        os.close(handle)


def process_alive(pid: int) -> bool:
    """Whether a process with this id runs on this machine; when that can't be told, True."""
    if WINDOWS:
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return not _is_zombie(pid)


def _is_zombie(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] == "Z"


def start_detached(command: list[str], log: Path, environ: dict[str, str]) -> subprocess.Popen[bytes]:
    """Start a process that outlives this one and does not get its Ctrl-C; its output goes to `log`."""
    options: dict[str, Any] = {}
    if WINDOWS:
        flags = "CREATE_NEW_PROCESS_GROUP", "DETACHED_PROCESS"
        options["creationflags"] = sum(int(getattr(subprocess, flag)) for flag in flags)
    else:
        options["start_new_session"] = True
    with log.open("ab") as output:
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environ, close_fds=True, **options
        )
