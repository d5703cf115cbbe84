"""Write a workbook back: the user's own parts, byte for byte, with our columns in the one worksheet.

Only that worksheet's part is inflated and streamed; styles, charts, tables, filters and other sheets stay packed.
"""

from __future__ import annotations

import copy
import zipfile
from array import array
from collections.abc import Iterable, Sequence
from pathlib import Path

from batch_jobs.intake.xlsx_package import Package
from batch_jobs.intake.xlsx_walk import HeaderWalk
from batch_jobs.intake.xlsx_workbook import read_workbook, shared_sizes
from batch_jobs.intake.xlsx_zip import add_packed
from batch_jobs.output.xlsx_insert import CellInsert
from batch_jobs.table import TableFormat

_ZIP64_FROM_BYTES = 1_000_000_000  # our cells may double a part


def write_xlsx(
    upload: Path, fmt: TableFormat, target: Path, columns: Sequence[str], cells: Iterable[Sequence[str]]
) -> int:
    """Write `target`: the workbook with our columns right of the table, in constant memory.

    Header cells take the style of the table's last header. Data cells take none, as the neighbour's number format
    and alignment mean another thing, but keep the style of a formatted empty cell that stands in their place.
    Excel tables and filters keep their range. Blank rows stay untouched but for their `spans` hint.

    Args:
        upload: the kept original, already accepted by `open_xlsx`.
        fmt: what `open_xlsx` found.
        target: a path to write to; the caller renames and syncs it. Left half-written when this raises.
        columns: names of our columns.
        cells: ours, one sequence of `len(columns)` texts per data row, in the order of `XlsxTable.rows()`.

    Returns:
        Number of our cells that were cut to the 32,767 characters that Excel holds.

    Raises:
        ValueError: `cells` has not exactly one entry of the right length per data row.
        FileRefused: the upload is not what `open_xlsx` accepted; no room for the columns.
    """
    package = Package(upload, filename=upload.name)
    workbook = read_workbook(package)
    part = workbook.pick(fmt.sheet, upload.name).part
    sizes = shared_sizes(package, workbook.shared_strings)
    cut = 0
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as out:
        for info in package.entries:
            if info is part:
                cut = _write_sheet(package, part, sizes, out, columns, cells)
            else:
                add_packed(package, info, out)
    return cut


def _write_sheet(
    package: Package,
    part: zipfile.ZipInfo,
    sizes: array[int],
    out: zipfile.ZipFile,
    columns: Sequence[str],
    cells: Iterable[Sequence[str]],
) -> int:
    header = HeaderWalk(package, part, sizes)
    header.run()
    entry = copy.copy(part)
    entry.extra = b""
    entry.compress_type = zipfile.ZIP_DEFLATED
    with out.open(entry, "w", force_zip64=part.file_size > _ZIP64_FROM_BYTES) as sink:
        insert = CellInsert(
            package,
            part,
            sizes,
            width=header.width,
            header_style=header.header_style,
            columns=columns,
            cells=cells,
            sink=sink,
        )
        insert.write()
    return insert.cut
