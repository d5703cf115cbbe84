"""The one place that makes files durable: temp in the same folder, write, fsync, rename, fsync of the folder.

No other module opens a file of the store for writing under its final name.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from batch_jobs import system
from batch_jobs.errors import StoreError

CHUNK_BYTES = 1 << 20


@contextlib.contextmanager
def store_errors(place: Path) -> Iterator[None]:
    """Turn an OSError of the block into a StoreError that says where and what to do.

    Raises:
        StoreError: the disk is full, or there is no right to write.
        SyncFailed: data could not be made durable, in this block or ever before in this process.
    """
    system.require_durable()
    try:
        yield
    except OSError as error:
        told = error.strerror or str(error)
        fixes = {
            errno.ENOSPC: "the disk is full: free some space",
            errno.EDQUOT: "the disk quota is used up: free some space",
            errno.EACCES: "no right to write there: check the folder's owner and rights",
            errno.EROFS: "the file system is read-only: make it writable",
            errno.EIO: f"{told}: check the disk",
        }
        text = f"{fixes.get(error.errno or 0, f'{told}: see to it')}, then run the same command again"
        raise StoreError(f"{error.filename or place}: {text}") from error


@contextlib.contextmanager
def atomic_file(target: Path) -> Iterator[IO[bytes]]:
    """Write `target` so that a reader sees the old file or the whole new one, also after a crash.

    Yields a binary handle. When the block raises, nothing is left behind.
    """
    with store_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        temp = _temp_beside(target)
        try:
            with temp.open("xb") as handle:
                yield handle
                system.sync_file(handle, temp)
            os.replace(temp, target)
            system.sync_folder(target.parent)
        except BaseException:
            temp.unlink(missing_ok=True)
            raise


def _temp_beside(target: Path) -> Path:
    """A free name in the target's folder, short: the target's own name may be as long as the system allows."""
    return target.with_name(f".{uuid.uuid4().hex[:16]}.tmp")


def atomic_write(target: Path, data: bytes) -> None:
    """`atomic_file` for bytes at hand."""
    with atomic_file(target) as handle:
        handle.write(data)


def adopt(temp: Path, target: Path) -> None:
    """Make a finished temp file of the same file system durable under its final name."""
    with store_errors(target):
        with temp.open("rb+") as handle:
            system.sync_file(handle, temp)
        os.replace(temp, target)
        system.sync_folder(target.parent)


def copy_file(source: Path, target: Path) -> str:
    """Copy byte for byte, atomically; returns the sha256 of what was copied."""
    digest = hashlib.sha256()
    with source.open("rb") as reader, atomic_file(target) as writer:
        while chunk := reader.read(CHUNK_BYTES):
            digest.update(chunk)
            writer.write(chunk)
    return digest.hexdigest()


def sha256_of(path: Path) -> str:
    """Hex sha256 of a file, streamed."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def publish_new(source: Path, target: Path) -> bool:
    """Copy `source` to `target` only if nothing stands there; never replaces anything.

    Returns:
        False when `target` was there already.
    """
    temp = _temp_beside(target)
    with store_errors(target):
        try:
            copy_file(source, temp)
            try:
                os.link(temp, target)
            except FileExistsError:
                return False
            except OSError:  # a file system without hard links
                with contextlib.suppress(FileExistsError), target.open("xb"):
                    os.replace(temp, target)
                    return True
                return False
            system.sync_folder(target.parent)
            return True
        finally:
            temp.unlink(missing_ok=True)


def remove_files(folder: Path, pattern: str) -> None:
    """Remove temp files that a killed process left; one that can't be removed is harmless."""
    for path in folder.glob(pattern):
        with contextlib.suppress(OSError):
            path.unlink()


def remove_file(path: Path) -> None:
    """Remove a file so that it does not come back after a crash; one that is gone already is fine."""
    with store_errors(path):
        if path.exists():
            path.unlink(missing_ok=True)
            system.sync_folder(path.parent)


def remove_tree(folder: Path) -> None:
    """Remove a folder of ours with all it holds; one that is gone already is fine."""
    shutil.rmtree(folder, ignore_errors=True)
