"""Loss of power, simulated: a run is killed at its Nth call, and its root is made anew as a disk might hold it then.

The library's log says what the run wrote, named and synced, in order. What was synced is on the disk; of the rest some,
all or none may be: data cut short, or zeros; names undone. Model: "All File Systems Are Not Created Equal" (OSDI 2014),
with the one promise every journalling file system keeps: a synced file's own folders are there.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path, PurePath

from batch_jobs.errors import EXIT_OK
from tests.faults.shim import Call, Calls, Fault, read_log
from tests.faults.storage_sweep import STARTS, Bench, bench, bill_problems, rows_problems, store_problems
from tests.faults.zygote import Ended

ALL_FILES = -1
MEMORY = ("-shm",)
"""SQLite's shared memory means nothing after a crash; it makes it anew."""


class Loss(StrEnum):
    """What becomes of that which was not synced."""

    ALL = "all"  # neither data nor names
    DATA = "data"  # names are there, of the data the first part
    ZEROS = "zeros"  # names and lengths are there, the data is zeros
    NAMES = "names"  # data is there, names are as they were
    TORN = "torn"  # of each kind some, as chance has it


@dataclass(eq=False)
class File:
    """A file's content on disk, and what was written since its last sync: (offset, data), or (length, None)."""

    durable: bytes = b""
    pending: list[tuple[int, bytes | None]] = field(default_factory=list)

    def sync(self) -> None:
        self.durable, self.pending = _applied(self.durable, self.pending), []

    def left(self, loss: Loss, chance: random.Random) -> bytes:
        """The content after the crash."""
        if loss is Loss.ALL:
            return self.durable
        if loss is Loss.NAMES:
            return _applied(self.durable, self.pending)
        if loss is Loss.DATA:
            return _applied(self.durable, _first_part(self.pending, chance))
        if loss is Loss.ZEROS:
            return _applied(self.durable, [_zeroed(change) for change in self.pending])
        kept = (chance.choice((change, _zeroed(change), None)) for change in self.pending)
        return _applied(self.durable, [change for change in kept if change is not None])


@dataclass(eq=False)
class Folder:
    """A folder's names as programs see them, and as they are on disk."""

    now: dict[str, File | Folder] = field(default_factory=dict)
    durable: dict[str, File | Folder] = field(default_factory=dict)

    def sync(self) -> None:
        self.durable = dict(self.now)

    def left(self, loss: Loss, chance: random.Random) -> dict[str, File | Folder]:
        """The names after the crash."""
        if loss is Loss.TORN:
            return chance.choice((self.now, self.durable))
        return self.durable if loss in (Loss.ALL, Loss.NAMES) else self.now


def _applied(content: bytes, changes: Sequence[tuple[int, bytes | None]]) -> bytes:
    made = bytearray(content)
    for offset, data in changes:
        if data is None:
            del made[offset:]
        end = offset + len(data or b"")
        made.extend(bytes(max(end - len(made), 0)))
        made[offset:end] = data or b""
    return bytes(made)


def _zeroed(change: tuple[int, bytes | None]) -> tuple[int, bytes | None]:
    offset, data = change
    return offset, None if data is None else bytes(len(data))


def _first_part(changes: list[tuple[int, bytes | None]], chance: random.Random) -> list[tuple[int, bytes | None]]:
    """All up to one of them, and half of that one."""
    if not changes:
        return []
    last = chance.randrange(len(changes))
    offset, data = changes[last]
    return [*changes[:last], (offset, data[: len(data) // 2] if data is not None else None)]


class Disk:
    """What was below a root at the start, and what has been done to it since."""

    def __init__(self, root: Path) -> None:
        """Read the root as it is: all of it is on disk."""
        self.root, self.top = root, Folder()
        self.known: set[PurePath] = set()
        self._read(root, self.top)

    def _read(self, path: Path, folder: Folder) -> None:
        for entry in path.iterdir():
            node = Folder() if entry.is_dir() else File(entry.read_bytes())
            folder.now[entry.name] = node
            if isinstance(node, Folder):
                self._read(entry, node)
        folder.sync()

    def replay(self, calls: Sequence[Call], data: bytes, *, syncs: bool = True) -> None:
        """Do again what a run did; without `syncs` as if it had never synced."""
        position = 0
        for call in calls:
            if call.kind == "write":
                self._file(call.path).pending.append((call.offset, data[position : position + call.length]))
                position += call.length
            elif call.outcome == "ok" and (syncs or call.kind != "sync"):
                self._do(call)

    def _do(self, call: Call) -> None:
        folder, name = self._place(call.path)
        match call.kind:
            case "create":
                folder.now[name] = File()
            case "mkdir":
                folder.now[name] = Folder()
            case "truncate":
                self._file(call.path).pending.append((call.length, None))
            case "unlink":
                folder.now.pop(name)
            case "rename" | "link":
                target, new = self._place(call.other)
                target.now[new] = folder.now.pop(name) if call.kind == "rename" else folder.now[name]
            case "sync" if call.length == ALL_FILES:
                for node in list(self._all(self.top)):
                    node.sync()
            case _:
                self._sync(call.path)

    def _sync(self, path: str) -> None:
        """Of one file or folder; the folders above it are then there, too."""
        steps = self._steps(path)
        node: File | Folder = self.top
        for name in steps:
            assert isinstance(node, Folder)
            inner = node.now[name]
            if isinstance(inner, Folder):
                node.durable.setdefault(name, inner)
            node = inner
        node.sync()

    def _all(self, folder: Folder) -> Iterator[File | Folder]:
        yield folder
        for node in folder.now.values():
            yield from self._all(node) if isinstance(node, Folder) else (node,)

    def _steps(self, path: str) -> tuple[str, ...]:
        place = PurePath(path).relative_to(self.root)
        self.known.add(place)
        return place.parts

    def _place(self, path: str) -> tuple[Folder, str]:
        """The folder that a path lies in, and its name there; the root itself lies in none."""
        *above, name = self._steps(path) or ("",)
        folder = self.top
        for step in above:
            inner = folder.now[step]
            assert isinstance(inner, Folder)
            folder = inner
        return folder, name

    def _file(self, path: str) -> File:
        folder, name = self._place(path)
        node = folder.now[name]
        assert isinstance(node, File)
        return node

    def build(self, after: Path, loss: Loss, chance: random.Random) -> None:
        """Make the root anew, as the disk holds it after the crash.

        What other processes of the run made (the render workers, who sync what they make) is taken from `after`.
        """
        self.root.mkdir()
        self._build(self.root, self.top, loss, chance)
        for path in after.rglob("*"):
            place = path.relative_to(after)
            target = self.root / place
            if path.is_file() and place not in self.known and not target.exists() and target.parent.is_dir():
                shutil.copy(path, target)

    def _build(self, path: Path, folder: Folder, loss: Loss, chance: random.Random) -> None:
        for name, node in folder.left(loss, chance).items():
            if isinstance(node, Folder):
                (path / name).mkdir()
                self._build(path / name, node, loss, chance)
            elif not name.endswith(MEMORY):
                (path / name).write_bytes(node.left(loss, chance))


@dataclass(frozen=True)
class Crash:
    """One crash: where the run ends, and what is lost."""

    start: str
    position: int
    loss: Loss
    seed: int
    syncs: bool = True

    def __str__(self) -> str:
        return f"python -m tests.faults.lost --start {self.start} {self.position} {self.loss} --seed {self.seed}"


def crash_problems(bench: Bench, crash: Crash) -> list[str]:
    """Kill a run, lose what was not synced, run again: what must not be, in words."""
    root, key = bench.fresh(crash.start)
    disk, log, data = Disk(root), root.with_suffix(".log"), root.with_suffix(".data")
    before = bench.bill()
    fault = Fault(Calls.ALL, "DEATH", crash.position)
    ended = bench.run(root, key, crash.start, fault.arming(root, log, data))
    assert ended.killed, f"{crash}: the run ended before ({ended.code})"
    disk.replay(read_log(log), data.read_bytes(), syncs=crash.syncs)
    after = root.rename(root.with_suffix(".after"))
    disk.build(after, crash.loss, random.Random(crash.seed))
    problems = [f"after the crash: {one}" for one in store_problems(root)]
    problems += _recovered(bench.run(root, key, crash.start), root)
    problems += bill_problems(crash.start, root, bench.bill().since(before), stops=1)
    for path in (root, after):
        if problems:
            shutil.move(path, bench.kept)
        else:
            shutil.rmtree(path)
    return [f"{crash}: {one}" for one in problems]


def _recovered(ended: Ended, root: Path) -> list[str]:
    failed = [f"run again: exit {ended.code}: {ended.err[-300:]}"] if ended.code != EXIT_OK else []
    return failed + store_problems(root) + rows_problems(root)


def main() -> None:
    """Repeat one crash, and keep what it leaves."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("position", type=int)
    parser.add_argument("loss", type=Loss, choices=list(Loss))
    parser.add_argument("--start", choices=STARTS, default="batch")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    with bench(Path(tempfile.mkdtemp(prefix="storage-lost-"))) as made:
        problems = crash_problems(made, Crash(asked.start, asked.position, asked.loss, asked.seed))
        sys.stdout.write("\n".join(problems or ["nothing was lost"]) + f"\nkept in {made.kept}\n")
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    main()
