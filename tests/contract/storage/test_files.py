"""Durable files: the old one or the whole new one, nothing left behind, nothing ever replaced that should not be."""

from __future__ import annotations

import errno
import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from batch_jobs.errors import JobNotFound, StoreError
from batch_jobs.storage.files import (
    adopt,
    atomic_file,
    atomic_write,
    copy_file,
    publish_new,
    remove_tree,
    sha256_of,
    store_errors,
)
from batch_jobs.storage.workspace import Workspace, checked_id
from tests.contract.storage.kit import TASK_ID, together

PUBLISH = """
import sys
from pathlib import Path
from batch_jobs.storage.files import publish_new
print("ready", flush=True)
sys.stdin.readline()
print(publish_new(Path(sys.argv[1]), Path(sys.argv[2])))
"""
KILLED = """
import os, sys
from pathlib import Path
from batch_jobs.storage.files import atomic_file
with atomic_file(Path(sys.argv[1])) as handle:
    handle.write(b"half")
    handle.flush()
    os.kill(os.getpid(), 9)
"""
LIMITED = """
import resource, sys
from pathlib import Path
from batch_jobs.errors import StoreError
from batch_jobs.storage.files import atomic_write
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    atomic_write(Path(sys.argv[1]), b"x" * 100_000)
except StoreError as error:
    print(error.message)
"""


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_whole(tmp_path: Path) -> None:
    target = tmp_path / "new" / "folder" / "file"
    with atomic_file(target) as handle:
        handle.write(b"abc")
        assert not target.exists()
    assert target.read_bytes() == b"abc"
    assert names(target.parent) == ["file"]


@pytest.mark.parametrize("error", [ValueError("x"), KeyboardInterrupt(), OSError(errno.EIO, "Input/output error")])
def test_the_old_file_stays_when_the_block_raises(tmp_path: Path, error: BaseException) -> None:
    target = tmp_path / "file"
    atomic_write(target, b"old")
    with pytest.raises((type(error), StoreError)), atomic_file(target) as handle:
        handle.write(b"new")
        raise error
    assert target.read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


def test_a_killed_writer_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "file"
    atomic_write(target, b"old")
    assert subprocess.run([sys.executable, "-c", KILLED, str(target)], check=False).returncode == -9
    assert target.read_bytes() == b"old"
    atomic_write(target, b"new")
    assert target.read_bytes() == b"new"


def test_a_write_that_does_not_fit_is_the_stores_error_and_leaves_nothing(tmp_path: Path) -> None:
    target = tmp_path / "file"
    atomic_write(target, b"old")
    run = subprocess.run([sys.executable, "-c", LIMITED, str(target)], capture_output=True, text=True, check=True)
    assert run.stdout == f"{target}: File too large: see to it, then run the same command again\n"
    assert target.read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only where the kernel has a full device")
def test_a_full_disk_says_what_to_do() -> None:
    with pytest.raises(StoreError, match="the disk is full: free some space"), store_errors(Path("place")):  # noqa: SIM117
        with open("/dev/full", "wb") as handle:
            handle.write(b"x")


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "tiny"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if not sys.platform.startswith("linux") or os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a disk can't be mounted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_really_full_disk_keeps_the_old_file(tiny_disk: Path) -> None:
    target = tiny_disk / "file"
    large = tiny_disk.parent / "large"
    large.write_bytes(b"x" * 1_000_000)
    atomic_write(target, b"old")
    with pytest.raises(StoreError, match="the disk is full: free some space") as caught:
        atomic_write(target, b"x" * 1_000_000)
    assert str(tiny_disk) in caught.value.message
    assert target.read_bytes() == b"old"
    assert names(tiny_disk) == ["file"]
    with pytest.raises(StoreError, match="the disk is full"):
        publish_new(large, tiny_disk / "copy")
    assert names(tiny_disk) == ["file"]


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.ENOSPC, "the disk is full"),
        (errno.EDQUOT, "quota is used up"),
        (errno.EACCES, "no right to write"),
        (errno.EROFS, "read-only"),
        (errno.EIO, "Input/output error"),
    ],
)
def test_each_disk_error_says_where_and_what(number: int, said: str) -> None:
    with pytest.raises(StoreError, match=said) as caught, store_errors(Path("the place")):
        raise OSError(number, os.strerror(number))
    assert caught.value.message.startswith("the place: ")
    assert caught.value.message.endswith(", then run the same command again")
    with pytest.raises(StoreError, match="the file: "), store_errors(Path("the place")):
        raise OSError(number, os.strerror(number), "the file")


def test_adopted_files_replace_and_are_gone_from_their_old_place(tmp_path: Path) -> None:
    temp, target = tmp_path / "temp", tmp_path / "file"
    temp.write_bytes(b"new")
    target.write_bytes(b"old")
    adopt(temp, target)
    assert target.read_bytes() == b"new"
    assert names(tmp_path) == ["file"]
    with pytest.raises(StoreError):
        adopt(temp, target)


@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1])
def test_a_copy_is_byte_for_byte(tmp_path: Path, size: int) -> None:
    data = os.urandom(size)
    (tmp_path / "a").write_bytes(data)
    assert copy_file(tmp_path / "a", tmp_path / "b") == hashlib.sha256(data).hexdigest() == sha256_of(tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == data


def test_publishing_never_replaces(tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(b"new")
    assert publish_new(tmp_path / "source", tmp_path / "free")
    (tmp_path / "taken").write_bytes(b"mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for name in ("free", "taken", "folder", "dangling"):
        assert not publish_new(tmp_path / "source", tmp_path / name)
    assert (tmp_path / "taken").read_bytes() == b"mine"
    assert names(tmp_path) == ["dangling", "folder", "free", "source", "taken"]


def test_of_eight_processes_one_publishes(tmp_path: Path) -> None:
    sources = []
    for number in range(8):
        source = tmp_path / f"source-{number}"
        source.write_bytes(b"%d" % number * 200_000)
        sources.append(source)
    answers = together(PUBLISH, [[str(source), str(tmp_path / "target")] for source in sources])
    assert sorted(answers) == ["False"] * 7 + ["True"]
    assert (tmp_path / "target").read_bytes() == sources[answers.index("True")].read_bytes()
    assert len(names(tmp_path)) == 9


@pytest.mark.parametrize("chars", [150, 230, 251])
def test_a_long_file_name_is_no_obstacle(tmp_path: Path, chars: int) -> None:
    """A file system allows 255 bytes; the temp file's own name must not need more than the target's."""
    (tmp_path / "source").write_bytes(b"new")
    target = tmp_path / f"{'x' * chars}.csv"
    atomic_write(target, b"old")
    target.unlink()
    assert publish_new(tmp_path / "source", target)
    assert target.read_bytes() == b"new"


def test_a_folder_that_is_gone_may_be_removed(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    remove_tree(tmp_path / "a")
    remove_tree(tmp_path / "a")
    assert names(tmp_path) == []


HOSTILE = [
    *("", ".", "..", "/", "../" + "a" * 29, "a" * 31, "a" * 33, "A" * 32, "g" * 32, "a" * 32 + "\n", "\n" + "a" * 31),
    *("a" * 32 + "/..", "/etc/passwd", "a" * 31 + "\0", "a" * 31 + "٣", "a" * 31 + "а", " " + "a" * 31, "-" * 32),
    *("a" * 32 + "\r\n", "a" * 16 + "/" + "a" * 15, "%2e" * 10 + "aa", "x" * 10_000),
]


@pytest.mark.parametrize("task_id", HOSTILE)
def test_no_path_is_made_of_a_hostile_id(tmp_path: Path, task_id: str) -> None:
    workspace = Workspace(tmp_path / "in", tmp_path / "out", tmp_path / "store")
    with pytest.raises(JobNotFound) as caught:
        checked_id(task_id)
    assert len(caught.value.message) < 300
    for build in (workspace.input, workspace.output, workspace.snapshot, workspace.plan, workspace.manifest):
        with pytest.raises(JobNotFound):
            build(task_id)


def test_every_path_of_a_job_lies_below_its_folders(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "in", tmp_path / "out", tmp_path / "store")
    shard = workspace.shard(TASK_ID, 12, 34)
    assert shard == tmp_path / "in" / TASK_ID / "round-12" / "shard-0034.jsonl"
    assert workspace.raw_results(TASK_ID, 12, 34) == tmp_path / "out" / TASK_ID / "round-12" / "shard-0034"
    assert workspace.ledger != workspace.call_cache
