"""One render worker's share: a range of the snapshot's row groups in, request bodies and their index out.

Rows don't travel between processes: a worker reads its own range and writes its own files.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path
from typing import IO, Any

from batch_jobs.arrow import digests, integers, texts
from batch_jobs.models import SHEET_ROW, Request
from batch_jobs.render.cleaning import cleaner
from batch_jobs.render.prompt import DataCaseView, rendered
from batch_jobs.render.prompts import kept_prompt
from batch_jobs.render.spec import Beginning, RenderSpec, identity
from batch_jobs.storage.files import adopt, store_errors
from providers.connect import codec_for

ERROR_CHARS = 300
NEWEST_COLUMN = "cut"
"""Of the index: a file without it was made by an older version."""


def bodies_path(plan: Path, segment: int) -> Path:
    """One segment of rendered bodies, equal ones once: what most begin with alike, then each one's own bytes."""
    return plan / f"bodies-{segment:05d}.bin"


def index_path(plan: Path, segment: int) -> Path:
    """Parquet beside a segment, a line a row: row, number, identity, fingerprint, error, cut, and where its body lies.

    That is `offset` and `length` of its own bytes, after the first `shared` bytes of the file.
    """
    return plan / f"index-{segment:05d}.parquet"


def remove_bodies(plan: Path) -> None:
    """Drop what only served to make the shards: rows.parquet and items.parquet say the rest; one left is harmless."""
    for path in [*plan.glob("bodies-*"), *plan.glob("index-*")]:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


def render_segment(spec: RenderSpec, segment: int, first_row: int) -> int:
    """Render one row group of the snapshot; done already is done.

    Args:
        spec: what to render with.
        segment: number of the row group.
        first_row: the row number of its first row.

    Returns:
        Rows rendered.
    """
    import pyarrow.parquet as pq

    target = index_path(spec.plan, segment)
    if target.exists():
        done = pq.read_metadata(target)
        if NEWEST_COLUMN in done.schema.names:  # else an older version made it
            return int(done.num_rows)
    with store_errors(target):
        return _write_segment(spec, segment, first_row, target)


def _write_segment(spec: RenderSpec, segment: int, first_row: int, target: Path) -> int:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with pq.ParquetFile(spec.snapshot) as snapshot:
        rows = snapshot.read_row_group(segment, use_threads=False)  # each thread would keep a heap of its own
    bodies = bodies_path(spec.plan, segment)
    temp = bodies.with_suffix(".tmp")
    with temp.open("wb") as handle:
        index = _render_rows(spec, rows.to_pydict(), first_row, handle)
    adopt(temp, bodies)
    temp = target.with_suffix(".tmp")
    columns = {**index, "segment": integers([segment] * rows.num_rows).cast(pa.int32())}
    pq.write_table(pa.Table.from_arrays(list(columns.values()), list(columns)), temp)
    adopt(temp, target)
    return int(rows.num_rows)


def _render_rows(spec: RenderSpec, table: dict[str, list[Any]], first_row: int, handle: IO[bytes]) -> dict[str, Any]:
    """Render rows into `handle`; returns the index, column by column."""
    numbers = table.pop(SHEET_ROW)
    made = _bodies(spec, list(table), table)
    first = list(islice(made, 2))
    beginning = Beginning(spec.fingerprint_prefix(), _alike([body for _, body, _, _ in first if body]))
    handle.write(beginning.text)
    written = len(beginning.text)
    places: dict[bytes | None, tuple[int, int, int]] = {None: (0, 0, 0)}
    identities, calls, errors, cuts = list[str](), list[bytes | None](), list[str | None](), list[int]()
    for row_identity, body, error, cut in chain(first, made):
        call, shared, own = beginning.split(body) if body else (None, 0, b"")
        identities.append(row_identity)
        calls.append(call)
        errors.append(error)
        cuts.append(cut)
        if call not in places:
            places[call] = written, len(own), shared
            handle.write(own)
            written += len(own)
    offsets, lengths, shares = zip(*(places[call] for call in calls), strict=True)
    return {
        "row": integers(range(first_row, first_row + len(numbers))),
        "number": integers(numbers),
        "identity": texts(identities),
        "fingerprint": digests(calls),
        "offset": integers(offsets),
        "length": integers(lengths),
        "shared": integers(shares),
        "error": texts(errors),
        "cut": integers(cuts),
    }


def _alike(bodies: list[bytes]) -> bytes:
    """What two bodies begin with alike; nothing when there are not two."""
    if len(bodies) < 2:
        return b""
    one, other = bodies
    length = next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    return one[:length]


def _bodies(
    spec: RenderSpec, names: list[str], table: dict[str, list[Any]]
) -> Iterator[tuple[str, bytes, str | None, int]]:
    """Yield (identity, body, error, characters cut off) a row; a prompt that raises on a row is that row's failure."""
    prompt = kept_prompt(spec.prompt_folder, spec.prompt_file)
    codec = codec_for(spec.dialect, spec.endpoint)
    schema, schema_name = prompt.output.schema, prompt.output.name
    view = view_of(spec)
    clean = cleaner(spec.cleaning)
    for values in zip(*table.values(), strict=True):
        row = dict(zip(names, values, strict=True))
        who = identity([row[name] for name in spec.identity_columns])
        if clean is not None:
            row = {name: clean(cell) for name, cell in row.items()}
        try:
            fixed, text, cut = rendered(prompt, view, row)
            body = codec.encode_body(Request(fixed, text, schema, schema_name, spec.model, spec.parameters))
        except (Exception, SystemExit) as error:  # the users' own code: whatever it raises belongs to this row
            yield who, b"", _said(error), 0
            continue
        yield who, body, None, cut


def view_of(spec: RenderSpec) -> DataCaseView:
    """What a prompt gets to know of the table."""
    return DataCaseView(
        name=spec.data_case,
        description=spec.data_case_description,
        mandatory_columns=spec.mandatory_columns,
        task_description=spec.task_description,
        context=spec.context,
    )


def _said(error: BaseException) -> str:
    """An error in a line that any file can hold: half a character pair becomes an escape."""
    text = f"{type(error).__name__}: {error}"[:ERROR_CHARS]
    return text.encode("utf-8", "backslashreplace").decode()[:ERROR_CHARS]
