"""The library that makes storage fail does what the sweep relies on, and nothing to anybody else."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.shim import Call, Calls, Fault, build, read_log

REPOSITORY = Path(__file__).resolve().parents[2]
ARMED = """
import errno, json, os, sys
from tests.faults.shim import arm
root, outside = sys.argv[1:3]
arm(**json.loads(sys.argv[3]))

def said(call):
    try:
        return call()
    except OSError as error:
        return errno.errorcode[error.errno]

"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("shim"))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "root").mkdir()
    (tmp_path / "rootless").mkdir()
    return (tmp_path / "root").resolve()


def run(library: Path, root: Path, fault: Fault, program: str, sentinel: Path | None = None) -> tuple[str, list[Call]]:
    """A program in an armed process: what it printed, and its calls."""
    import json

    log, outside = root.parent / "calls.log", root.parent / "rootless"
    _, values = fault.arming(root, log, root.parent / "data", sentinel)
    process = subprocess.run(
        [sys.executable, "-c", ARMED + program, str(root), str(outside), json.dumps(values)],
        env={**os.environ, "LD_PRELOAD": str(library), "PYTHONPATH": str(REPOSITORY), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert process.stderr == ""
    return process.stdout.strip(), read_log(log)


WRITES = """
handle = os.open(root + "/file", os.O_WRONLY | os.O_CREAT)
other = os.open(outside + "/file", os.O_WRONLY | os.O_CREAT)
print([said(lambda: os.write(handle, b"12345678")) for _ in range(4)], said(lambda: os.write(other, b"1234")))
"""


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("write:NONE:0", "[8, 8, 8, 8] 4"),
        ("write:ENOSPC:2", "[8, 'ENOSPC', 8, 8] 4"),
        ("write:EIO:3:again", "[8, 8, 'EIO', 'EIO'] 4"),
        ("write:SHORT:2", "[8, 4, 8, 8] 4"),
        ("write:SHORT:1:again", "[4, 4, 4, 4] 4"),
        ("sync:EIO:1:again", "[8, 8, 8, 8] 4"),
    ],
)
def test_the_nth_write_below_the_root_fails_and_no_other(library: Path, root: Path, fault: str, said: str) -> None:
    printed, calls = run(library, root, Fault.parse(fault), WRITES)
    assert printed == said
    assert {call.path for call in calls} == {f"{root}/file"}
    writes = [call for call in calls if call.kind == "write"]
    assert [call.position for call in writes] == ([0] * 4 if fault[0] == "s" else [1, 2, 3, 4])
    assert sum(call.length for call in writes) == (root / "file").stat().st_size == len(data_of(root))


def data_of(root: Path) -> bytes:
    return (root.parent / "data").read_bytes()


def test_what_was_written_can_be_read_back_in_order(library: Path, root: Path) -> None:
    program = """
with open(root + "/file", "wb") as handle:
    handle.write(b"one")
    handle.flush()
    os.pwrite(handle.fileno(), b"two", 1)
with open(root + "/file", "ab") as handle:
    handle.write(b"three")
"""
    _, calls = run(library, root, Fault(Calls.ALL, "NONE", 0), program)
    assert [(call.kind, call.offset, call.length) for call in calls] == [
        ("create", 0, 0),
        ("write", 0, 3),
        ("write", 1, 3),
        ("write", 4, 5),
    ]
    assert data_of(root) == b"onetwothree"
    assert (root / "file").read_bytes() == b"otwothree"


NAMES = """
calls = {
    "mkdir": lambda: os.mkdir(root + "/folder"),
    "create": lambda: os.close(os.open(root + "/a", os.O_WRONLY | os.O_CREAT)),
    "fsync": lambda: os.fsync(os.open(root, os.O_RDONLY)),
    "rename": lambda: os.replace(root + "/a", root + "/b"),
    "link": lambda: os.link(root + "/b", root + "/c"),
    "ftruncate": lambda: os.truncate(os.open(root + "/c", os.O_WRONLY), 3),
    "unlink": lambda: os.unlink(root + "/c"),
    "syncfs": lambda: __import__("ctypes").CDLL(None).syncfs(os.open(root, os.O_RDONLY)),
}
os.chdir(root)
print(*[name for name, call in calls.items() if said(call) not in (None, 0)])
"""


def test_each_kind_of_call_is_known_by_its_name(library: Path, root: Path) -> None:
    _, calls = run(library, root, Fault(Calls.ALL, "NONE", 0), NAMES)
    names = ["mkdir", "create", "sync", "rename", "link", "truncate", "unlink", "sync"]
    assert [call.kind for call in calls] == names
    assert [call.length for call in calls if call.kind == "sync"] == [0, -1]
    assert [call.position for call in calls] == list(range(1, 9))


@pytest.mark.parametrize(
    ("kind", "failed"),
    [
        ("mkdir", "mkdir"),
        ("rename", "rename link ftruncate unlink"),
        ("sync", "fsync syncfs"),
        ("truncate", "ftruncate"),
    ],
)
def test_each_kind_of_call_can_fail(library: Path, root: Path, kind: str, failed: str) -> None:
    printed, _ = run(library, root, Fault(Calls[kind.upper()], "EIO", 1, again=True), NAMES)
    assert printed == failed


def test_an_interrupted_call_gets_on_at_the_next_try(library: Path, root: Path) -> None:
    program = """
with open(root + "/file", "wb") as handle:
    for _ in range(5):
        handle.write(b"12")
        handle.flush()
"""
    _, calls = run(library, root, Fault(Calls.WRITE, "EINTR", 2, again=True), program)
    assert [call.outcome for call in calls if call.kind == "write"] == ["ok", *["fault", "ok"] * 4]
    assert (root / "file").read_bytes() == b"12" * 5


def test_faults_wait_for_their_sentinel(library: Path, root: Path) -> None:
    program = """
handle = os.open(root + "/file", os.O_WRONLY | os.O_CREAT)
sentinel = os.path.dirname(root) + "/sentinel"
results = [said(lambda: os.write(handle, b"1"))]
open(sentinel, "w").close()
results.append(said(lambda: os.write(handle, b"1")))
os.unlink(sentinel)
print(results, said(lambda: os.write(handle, b"1")))
"""
    fault = Fault(Calls.WRITE, "ENOSPC", 1, again=True)
    printed, _ = run(library, root, fault, program, root.parent / "sentinel")
    assert printed == "[1, 'ENOSPC'] 1"


def test_death_comes_before_the_call(library: Path, root: Path) -> None:
    printed, calls = run(library, root, Fault(Calls.WRITE, "DEATH", 3), WRITES)
    assert printed == ""
    assert [call.outcome for call in calls if call.kind == "write"] == ["ok", "ok", "death"]
    assert (root / "file").stat().st_size == 16


def test_a_process_that_is_not_armed_sees_nothing(library: Path, root: Path) -> None:
    """As the render workers of an armed run."""
    program = """
import subprocess
code = "import sys; open(sys.argv[1], 'w').write('x' * 8)"
print(subprocess.run([sys.executable, "-c", code, root + "/file"]).returncode)
"""
    printed, calls = run(library, root, Fault(Calls.ALL, "EIO", 1, again=True), program)
    assert printed == "0"
    assert calls == []
    assert (root / "file").read_text() == "x" * 8
