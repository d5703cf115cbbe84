"""Copy a zip entry from one container to another without inflating it, byte for byte.

Python's zipfile can't do that by itself; its directory is told about the entry by the attributes it keeps.
"""

from __future__ import annotations

import copy
import zipfile

from batch_jobs.intake.xlsx_package import Package

_UTF8_NAME = 0x800


def add_packed(package: Package, info: zipfile.ZipInfo, target: zipfile.ZipFile, *, name: str | None = None) -> None:
    """Append an entry's compressed bytes, with a local header that states its sizes (no data descriptor).

    Args:
        package: the source.
        info: the entry in the source.
        target: open for writing, with no entry being written.
        name: the entry's name in the target; the same when not given.
    """
    file = target.fp
    assert file is not None
    entry = copy.copy(info)
    entry.filename = name or info.filename
    entry.flag_bits &= _UTF8_NAME
    entry.extra = b""
    file.seek(target.start_dir)
    entry.header_offset = file.tell()
    file.write(entry.FileHeader(zip64=False))
    for chunk in package.packed(info):
        file.write(chunk)
    target.filelist.append(entry)
    target.NameToInfo[entry.filename] = entry
    target.start_dir = file.tell()
