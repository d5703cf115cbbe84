"""Put cells into a worksheet's XML while it streams by: every other byte is repeated as it was.

The walk that intake used says where rows end and which are blank, so an answer can't land on another row.
"""

from __future__ import annotations

import re
import zipfile
from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import IO

from batch_jobs.intake.text import column_letter
from batch_jobs.intake.xlsx_package import Package
from batch_jobs.intake.xlsx_walk import MAX_SHEET_COLUMNS, SheetWalk, column_number
from batch_jobs.output.xlsx_cells import cell_xml, fitted

_SPANS = re.compile(rb"""\sspans\s*=\s*("[^"]*"|'[^']*')""")
_REF = re.compile(rb"""(\sref\s*=\s*["'])([A-Z]{1,3}[0-9]+)(?::([A-Z]{1,3})([0-9]+))?(?=["'])""")


class CellInsert(SheetWalk):
    """A walk that writes what it reads, plus our cells at the end of row 1 and of each data row.

    Attributes:
        cut: number of our cells that were too long for Excel.
    """

    def __init__(
        self,
        package: Package,
        part: zipfile.ZipInfo,
        sizes: array[int],
        *,
        width: int,
        header_style: str | None,
        columns: Sequence[str],
        cells: Iterable[Sequence[str]],
        sink: IO[bytes],
    ) -> None:
        """Prepare to write.

        Args:
            package: the upload's container.
            part: the worksheet's part.
            sizes: of the shared strings.
            width: of the table, without our columns.
            header_style: for our header cells.
            columns: our headers.
            cells: ours, one sequence per data row.
            sink: where the new part goes.
        """
        super().__init__(package, part, sizes, width=width)
        if width + len(columns) > MAX_SHEET_COLUMNS:
            package.refuse(f"has no room for {len(columns)} more columns", "Delete columns that are not needed")
        self.cut = 0
        self._columns = columns
        self._new_style = header_style
        self._entries = iter(cells)
        self._out = _Splice(sink)
        self._dimension_at: int | None = None
        self._insert_at: int | None = None  # before the first styled empty cell right of the table
        self._resume_at = 0  # behind those whose place ours take
        self._styles: dict[int, str] = {}  # of those

    def write(self) -> None:
        """Write the whole part.

        Raises:
            ValueError: `cells` has not exactly one entry of the right length per data row.
        """
        self.run(self._spliced(self.package.chunks(self.part)))
        self._out.finish()
        if next(self._entries, None) is not None:
            raise ValueError("more entries to append than the upload has rows")

    def _spliced(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        for chunk in chunks:
            self._out.take(chunk)
            yield chunk
            self._out.flush(self._dimension_at if self._insert_at is None else self._insert_at)

    def dimension_opened(self) -> None:
        """Remember where the tag starts."""
        self._dimension_at = self.parser.CurrentByteIndex

    def dimension_closed(self) -> None:
        """Widen `ref` to our last column (18.3.1.35)."""
        start, end = self._dimension_at, self._tag_end("dimension")
        if start is None:
            return
        tag = self._out.between(start, end)
        self._out.copy_to(start)
        self._out.write(_REF.sub(self._wider, tag, count=1))
        self._out.skip_to(end)
        self._dimension_at = None

    def row_opened(self) -> None:
        """Drop the `spans` hint, which our cells would make wrong (18.3.1.73: optimization only)."""
        self._insert_at = None
        self._styles.clear()
        start = self.parser.CurrentByteIndex
        found = self._out.search(_SPANS, start)
        if found is not None:
            self._out.copy_to(found[0])
            self._out.skip_to(found[1])

    def spare_opened(self) -> None:
        """Remember where ours go: before the first cell right of the table."""
        if self._insert_at is None:
            self._insert_at = self._resume_at = self.parser.CurrentByteIndex

    def spare_closed(self, style: str | None) -> None:
        """Mark a cell in our columns as replaced; its style is kept."""
        if self.column <= self.width + len(self._columns):
            self._resume_at = self._tag_end("c")
            if style is not None:
                self._styles[self.column] = style

    def row_closed(self, blank: bool) -> None:
        """Write our cells, if the row is the header or a data row."""
        insert_at, self._insert_at = self._insert_at, None
        if blank:
            return
        if insert_at is None:
            insert_at = self._resume_at = self.parser.CurrentByteIndex
        self._out.copy_to(insert_at)
        self._out.write(self._written())
        self._out.skip_to(self._resume_at)

    def _written(self) -> bytes:
        texts = self._columns if self.row == 1 else self._entry()
        default = self._new_style if self.row == 1 else None
        first = self.width + 1
        return b"".join(
            cell_xml(self.prefix, column, self.row, self._fitted(text), self._styles.get(column, default))
            for column, text in enumerate(texts, first)
        )

    def _entry(self) -> Sequence[str]:
        entry = next(self._entries, None)
        if entry is None or len(entry) != len(self._columns):
            found = "no entry" if entry is None else f"{len(entry)} cells"
            raise ValueError(f"row {self.row}: expected {len(self._columns)} cells to append, got {found}")
        return entry

    def _fitted(self, text: str) -> str:
        short = fitted(text)
        self.cut += short is not text
        return short

    def _tag_end(self, name: str) -> int:
        """Offset behind the element that is closing: expat stands at `</name>`, or behind `<name/>`."""
        at = self.parser.CurrentByteIndex
        found = self._out.search(
            re.compile(rb"</" + re.escape(self.prefix + name).encode() + rb"\s*>"), at, at_start=True
        )
        return at if found is None else found[1]

    def _wider(self, ref: re.Match[bytes]) -> bytes:
        start, before = ref[1], ref[2]
        ours = self.width + len(self._columns)
        letters, row = ref[3] or before.rstrip(b"0123456789"), ref[4] or before.lstrip(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ")
        last = column_letter(max(ours, column_number(letters.decode())) - 1)
        return start + before + b":" + last.encode() + row


class _Splice:
    """The bytes between expat and the sink; places are offsets in the part as it was."""

    def __init__(self, sink: IO[bytes]) -> None:
        self._sink = sink
        self._buffer = b""
        self._base = 0  # offset of the buffer's first byte
        self._at = 0  # offset up to which everything is written or dropped
        self._ready: list[bytes] = []

    def take(self, chunk: bytes) -> None:
        """Add what expat is going to see."""
        self._buffer += chunk

    def between(self, start: int, end: int) -> bytes:
        """Bytes that are still held."""
        return self._buffer[start - self._base : end - self._base]

    def search(self, pattern: re.Pattern[bytes], start: int, *, at_start: bool = False) -> tuple[int, int] | None:
        """Place of the pattern in the tag that starts at `start`, or right there."""
        begin = start - self._base
        if at_start:
            found = pattern.match(self._buffer, begin)
        else:
            found = pattern.search(self._buffer, begin, self._buffer.find(b">", begin))
        return None if found is None else (found.start() + self._base, found.end() + self._base)

    def copy_to(self, offset: int) -> None:
        """Let everything before the offset through."""
        self._ready.append(self._buffer[self._at - self._base : offset - self._base])
        self._at = offset

    def skip_to(self, offset: int) -> None:
        """Drop everything before the offset."""
        self._at = offset

    def write(self, data: bytes) -> None:
        """Put our own bytes here."""
        self._ready.append(data)

    def flush(self, keep_from: int | None) -> None:
        """Pass on what no later event can point into: an unfinished tag starts at the last `<`."""
        last = self._base + self._buffer.rfind(b"<")
        upto = max(self._at, last if keep_from is None else min(last, keep_from))
        self.copy_to(upto)
        self._sink.write(b"".join(self._ready))
        self._ready.clear()
        self._buffer = self._buffer[upto - self._base :]
        self._base = upto

    def finish(self) -> None:
        """Pass on the rest."""
        self.copy_to(self._base + len(self._buffer))
        self._sink.write(b"".join(self._ready))
