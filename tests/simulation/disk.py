"""The disk under a simulated world: it knows what was synced, and on a power loss takes away the rest.

A file that was not synced since its last change keeps only a part of its bytes; a rename whose folder was not synced
may be undone. The databases are left alone: SQLite syncs by itself, and has its own tests for that. So are temp files,
which nobody reads.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.simulation.faults import Faults

Stamp = tuple[int, int]


@dataclass
class _Rename:
    """A file that got its name by a rename that is not durable yet."""

    target: Path
    before: bytes | None


@dataclass
class Disk:
    """What is durable of one root; nothing is noted where the power never goes."""

    root: Path
    watched: bool = True
    _synced: dict[int, Stamp] = field(default_factory=dict)
    _renamed: list[_Rename] = field(default_factory=list)

    def format(self) -> None:
        """A new world: everything that is there is durable."""
        self._synced.clear()
        self._renamed.clear()
        self.sync_all()

    def fsync(self, handle: int) -> None:
        """A file or a folder was synced."""
        if not self.watched:
            return
        stat = os.fstat(handle)
        self._synced[stat.st_ino] = stat.st_size, stat.st_mtime_ns
        if self._renamed:
            self._renamed = [one for one in self._renamed if one.target.parent.stat().st_ino != stat.st_ino]

    def sync_all(self) -> None:
        """The whole file system was synced."""
        self._renamed.clear()
        for path in self._files() if self.watched else ():
            stat = path.stat()
            self._synced[stat.st_ino] = stat.st_size, stat.st_mtime_ns

    def renaming(self, target: Path) -> None:
        """A file is about to get this name."""
        if self.watched and self.root in target.parents:
            self._renamed.append(_Rename(target, target.read_bytes() if target.is_file() else None))

    def lose(self, faults: Faults) -> list[str]:
        """The power goes: returns the names of what was damaged."""
        lost = []
        for path in sorted(self._files()):
            stat = path.stat()
            if self._synced.get(stat.st_ino) != (stat.st_size, stat.st_mtime_ns):
                os.truncate(path, int(stat.st_size * faults.pick("kept", [0.0, 0.3, 0.7, 1.0])))
                lost.append(path.name)
        for one in reversed(self._renamed):
            if one.target.is_file() and faults.draw("rename") < 0.5:
                one.target.unlink()
                if one.before is not None:
                    one.target.write_bytes(one.before)
                lost.append(f"the name of {one.target.name}")
        self.format()
        return lost

    def _files(self) -> Iterator[Path]:
        for folder, _, names in os.walk(self.root):
            for name in names:
                if ".sqlite" not in name and not name.endswith(".tmp"):
                    yield Path(folder) / name
