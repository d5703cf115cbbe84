"""Where a fault of the disk ends up: one message and exit code 4, from the command line and from the render steps."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from batch_jobs import system
from batch_jobs.errors import EXIT_BUG, EXIT_OPERATOR, StoreError, SyncFailed
from batch_jobs.render.join import join_items
from batch_jobs.render.pool import render_all
from batch_jobs.render.worker import remove_bodies, render_segment
from batch_jobs.storage.files import atomic_write
from batch_jobs.workers import Workers
from tests.contract.render.kit import in_process, make_spec

FAILING = """
import atexit, errno, sys
import click
from batch_jobs import cli, errors, system

@click.command()
def failing():
    {raising}

atexit.register(print, "closed in order")
cli.COMMANDS["failing"] = "__main__:failing"
cli.main(["failing"])
"""
CLOSED = "closed in order\n"


def fail(raising: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", FAILING.format(raising=raising)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize("name", ["ENOSPC", "EDQUOT", "EIO", "EROFS", "EFBIG", "EMFILE"])
def test_what_the_machine_does_is_no_bug(name: str) -> None:
    ended = fail(f"raise OSError(errno.{name}, 'that happened', '/the/file')")
    assert (ended.returncode, ended.stdout) == (EXIT_OPERATOR, CLOSED)
    assert ended.stderr == "error  /the/file: that happened: see to it, then run it again\n"


def test_any_other_error_of_the_system_is_a_bug() -> None:
    ended = fail("open('/no/such/file')")
    assert (ended.returncode, ended.stdout) == (EXIT_BUG, CLOSED)
    assert "Traceback" in ended.stderr
    assert "this is a bug of batch-jobs" in ended.stderr


def test_after_a_failed_sync_nothing_is_closed() -> None:
    """A database that is closed writes and syncs once more."""
    ended = fail("print('said before', end=''); system.sync_failed('/the/file', 'it broke')")
    assert (ended.returncode, ended.stdout) == (EXIT_OPERATOR, "said before")
    assert ended.stderr.startswith("error  /the/file: the disk could not make data durable (it broke)")
    assert ended.stderr.endswith("then run the same command again\n")


def test_a_plan_folder_that_cant_be_made_is_the_stores_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    spec = make_spec(tmp_path, {"what": ["a"]}, plan=tmp_path / "file" / "plan")
    with pytest.raises(StoreError, match=f"{tmp_path}/file/plan: Not a directory"):
        render_all(spec, lambda _: None, Workers())


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only where the kernel has a full device")
@pytest.mark.parametrize("name", ["items.tmp", "rows.tmp"])
def test_a_plan_on_a_full_disk_is_the_stores_error(tmp_path: Path, name: str) -> None:
    spec = make_spec(tmp_path, {"what": ["a", "b"]})
    spec.plan.mkdir()
    render_segment(spec, 0, 0)
    (spec.plan / name).symlink_to("/dev/full")
    with pytest.raises(StoreError, match=f"{name}: the disk is full: free some space, then run the same command"):
        join_items(spec.plan)
    (spec.plan / name).unlink()
    assert in_process(spec).texts() == ["[a]", "[b]"]


def test_bodies_that_cant_be_removed_are_left(tmp_path: Path) -> None:
    for name in ("bodies-00000.jsonl", "bodies-00001.jsonl", "index-00000.parquet"):
        (tmp_path / name).touch()
    (tmp_path / "bodies-00000.jsonl").unlink()
    (tmp_path / "bodies-00000.jsonl").mkdir()  # unlink refuses a folder
    remove_bodies(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["bodies-00000.jsonl"]


FSYNC_FAILS = """
import os

from pydantic import BaseModel


class Answer(BaseModel):
    summary: str


def render_test_prompt(data_case, row):
    def fail(handle):
        raise OSError(5, "it broke")

    os.fsync = fail
    return "Fixed part.", row["what"]
"""


def test_the_failed_sync_of_a_worker_is_this_process_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system, "_failed_sync", None)
    spec = make_spec(tmp_path, {"what": ["a", "b"]}, group_rows=1)  # a range alone would break this process's fsync
    (tmp_path / "prompt" / "test_prompt.py").write_text(FSYNC_FAILS)
    with pytest.raises(SyncFailed, match=r"bodies-00000\.tmp: the disk could not make data durable"):
        render_all(spec, lambda _: None, Workers())
    assert system.sync_has_failed()
    with pytest.raises(SyncFailed, match=r"bodies-00000\.tmp: the disk could not make data durable"):
        atomic_write(tmp_path / "file", b"x")
    assert not (tmp_path / "file").exists()
