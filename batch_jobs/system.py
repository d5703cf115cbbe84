"""What differs between Linux, macOS and Windows, and nothing else: locks, syncs, process life.

Each function has a fallback, so that the rest of the product never asks which platform it is on.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NoReturn

from batch_jobs.errors import SyncFailed

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


GLIBC_MMAP_THRESHOLD = -3
LARGE_BYTES = 256 * 1024


def give_memory_back() -> None:
    """Give what this process has freed back to the system, and from now on each large block when it is freed.

    By itself glibc keeps freed blocks of up to 32 MB, in pieces: with a process that goes on to another kind of work,
    for good. A no-op beside glibc. See malloc_trim(3), and M_MMAP_THRESHOLD in mallopt(3).
    """
    if WINDOWS:
        return
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt") and hasattr(library, "malloc_trim"):
        library.mallopt(GLIBC_MMAP_THRESHOLD, LARGE_BYTES)
        library.malloc_trim(0)


_failed_sync: str | None = None
"""Where a sync of this process failed. It belongs to the process, as its page cache does: after a failed fsync the
kernel may call pages clean that it has lost, so a second try would succeed and mean nothing (PostgreSQL, "PANIC on
fsync() failure", 2018). So from then on nothing is called durable, and the next process goes on from what is."""


def require_durable() -> None:
    """Let nobody write on in a process in which a sync has failed.

    Raises:
        SyncFailed: one has.
    """
    if _failed_sync is not None:
        raise SyncFailed(_failed_sync)


def sync_has_failed() -> bool:
    """Whether a sync has failed in this process."""
    return _failed_sync is not None


def sync_failed(place: Path | str, reason: object) -> NoReturn:
    """Remember that a sync failed, and say so.

    Raises:
        SyncFailed: always.
    """
    error = SyncFailed(
        f"{place}: the disk could not make data durable ({reason}), so this process stops. What was recorded before "
        "is safe. Check the disk and its free space, then run the same command again"
    )
    sync_failed_in_worker(error)
    raise error


def sync_failed_in_worker(error: SyncFailed) -> None:
    """Remember the failed sync of a process that works for this one: its files are this one's, too."""
    global _failed_sync
    _failed_sync = error.message


def sync_file(handle: IO[bytes], place: Path) -> None:
    """Make what was written to an open file durable.

    Raises:
        SyncFailed: the disk could not.
    """
    handle.flush()
    try:
        os.fsync(handle.fileno())
    except OSError as error:
        sync_failed(place, error.strerror)


def sync_folder(folder: Path) -> None:
    """Make renames within `folder` durable; a no-op where folders can't be opened (Windows).

    Raises:
        SyncFailed: the disk could not.
    """
    if WINDOWS:
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        sync_failed(folder, error.strerror)
    finally:
        os.close(handle)


def sync_filesystem(folder: Path) -> None:
    """Flush everything written to the file system that holds `folder`: one call for many small files.

    Linux syncfs(2); elsewhere sync(2); nothing on Windows, where callers that must be durable fsync per file.

    Raises:
        SyncFailed: the disk could not.
    """
    if WINDOWS:
        return
    library = ctypes.CDLL(None, use_errno=True)
    if not hasattr(library, "syncfs"):
        os.sync()
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        if library.syncfs(handle) != 0:
            sync_failed(folder, os.strerror(ctypes.get_errno()))
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


def user_cache_folder() -> Path:
    """Where this user's programs keep what they can make or buy again (XDG Base Directory; Apple; Microsoft)."""
    if WINDOWS:
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    given = Path(os.environ.get("XDG_CACHE_HOME") or "")
    return given if given.is_absolute() else Path.home() / ".cache"
