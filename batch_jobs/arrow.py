"""Arrow columns from Python values, without pandas where there are few.

`pyarrow.array` imports pandas at its first call, to ask whether what it was given is a Series: 0.3 s and 40 MB, which
is much of a small job and nothing of a large one. It converts texts six times faster than the builder, though.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Any

FEW = 10_000


def texts(values: Sequence[str | None]) -> Any:
    """A string column."""
    import pyarrow as pa

    if len(values) >= FEW:
        return pa.array(values, pa.string())
    from pyarrow.lib import StringBuilder

    builder = StringBuilder()
    builder.append_values(values)
    return builder.finish()


def integers(values: Sequence[int]) -> Any:
    """An int64 column."""
    import pyarrow as pa

    return pa.Array.from_buffers(pa.int64(), len(values), [None, pa.py_buffer(array("q", values))])


def digests(values: Sequence[bytes | None]) -> Any:
    """A binary column."""
    import pyarrow as pa

    if len(values) >= FEW:
        return pa.array(values, pa.binary())
    ends, total, there = array("i", [0]), 0, 0
    for position, value in enumerate(values):
        total += len(value or b"")
        ends.append(total)
        there |= (value is not None) << position
    validity = there.to_bytes(len(values) // 8 + 1, "little")
    data = b"".join(value for value in values if value is not None)
    return pa.Array.from_buffers(
        pa.binary(), len(values), [pa.py_buffer(validity), pa.py_buffer(ends), pa.py_buffer(data)]
    )
