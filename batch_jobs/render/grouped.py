"""One render worker's share of a job with groups: a range of the ordered rows in, bodies and their index out.

What the bodies of a group begin with alike (the fixed part, then the group's own) is written once, before them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import IO, Any, NamedTuple

import orjson

from batch_jobs.arrow import digests, integers, texts
from batch_jobs.models import GroupMode, Request
from batch_jobs.render.cleaning import cleaner
from batch_jobs.render.group_table import GroupReader, ShownGroup
from batch_jobs.render.grouping import cells_of
from batch_jobs.render.ordering import ordered_rows
from batch_jobs.render.prompt import DataCaseView, rendered
from batch_jobs.render.prompts import kept_prompt
from batch_jobs.render.spec import Beginning, RenderSpec, identity
from batch_jobs.render.worker import said, view_of, write_segment
from providers.connect import codec_for


def render_grouped(spec: RenderSpec, segment: int, first_row: int) -> int:  # noqa: ARG001
    """Render one range of the ordered rows; done already is done.

    Args:
        spec: what to render with.
        segment: number of the range.
        first_row: not looked at: each row knows its own number.

    Returns:
        Rows rendered.
    """
    return write_segment(spec.plan, segment, lambda handle: _render(spec, segment, handle), grouped=True)


class _Asked(NamedTuple):
    """What is asked for a row.

    Attributes:
        alike: the bytes that the bodies of its group begin with.
        error: why there is no body.
        cut: characters that were left out.
    """

    body: bytes
    alike: int
    error: str | None
    cut: int


class _Bodies:
    """Writes bodies into a segment's file: what they begin with alike once, and equal ones once."""

    def __init__(self, prefix: bytes, handle: IO[bytes]) -> None:
        self._prefix, self._handle = prefix, handle
        self._written = self._shared_at = 0
        self._beginning = Beginning(prefix, b"")
        self._places: dict[bytes | None, tuple[int, int, int, int]] = {None: (0, 0, 0, 0)}

    def add(self, asked: _Asked) -> tuple[bytes | None, tuple[int, int, int, int]]:
        """Write a body; returns its fingerprint, and its offset, own length, shared length and where that lies."""
        if not asked.body:
            return None, self._places[None]
        if asked.body[: asked.alike] != self._beginning.text:
            self._begin(asked.body[: asked.alike])
        call, shared, own = self._beginning.split(asked.body)
        if call not in self._places:
            self._places[call] = self._written, len(own), shared, self._shared_at
            self._write(own)
        return call, self._places[call]

    def _begin(self, text: bytes) -> None:
        self._beginning, self._shared_at = Beginning(self._prefix, text), self._written
        self._write(text)

    def _write(self, data: bytes) -> None:
        self._handle.write(data)
        self._written += len(data)


def _render(spec: RenderSpec, segment: int, handle: IO[bytes]) -> dict[str, Any]:
    """Render a range into `handle`; returns the index, column by column."""
    table = ordered_rows(spec, segment)
    numbers = [column.to_pylist() for column in table.columns[:3]]
    names, cells = _names(spec), [column.to_pylist() for column in table.columns[3:]]
    bodies, calls, places = _Bodies(spec.fingerprint_prefix(), handle), list[bytes | None](), list[tuple[int, ...]]()
    identities, errors, cuts = list[str](), list[str | None](), list[int]()
    with contextlib.closing(GroupReader(spec.plan)) as groups:
        ask = _asker(spec, groups)
        for group, *values in zip(numbers[0], *cells, strict=True):
            row = dict(zip(names, values, strict=True))
            asked = ask(group, row)
            call, place = bodies.add(asked)
            identities.append(identity([row[name] for name in spec.identity_columns]))
            calls.append(call)
            places.append(place)
            errors.append(asked.error)
            cuts.append(asked.cut)
    return {
        "row": integers(numbers[1]),
        "number": integers(numbers[2]),
        "identity": texts(identities),
        "fingerprint": digests(calls),
        **dict(zip(("offset", "length", "shared", "shared_at"), map(integers, zip(*places, strict=True)), strict=True)),
        "error": texts(errors),
        "cut": integers(cuts),
        "group": integers(numbers[0]),
    }


def _names(spec: RenderSpec) -> list[str]:
    import pyarrow.parquet as pq

    names: list[str] = pq.read_schema(spec.snapshot).names[1:]
    return names


Ask = Callable[[int, dict[str, str]], _Asked]


def _asker(spec: RenderSpec, groups: GroupReader) -> Ask:
    """What makes a row's request of its group and its cells."""
    assert spec.grouping is not None
    encode = _encoder(spec)
    if spec.grouping.mode is GroupMode.CONTEXT:
        clean = cleaner(spec.cleaning)

        def of_row(group: int, row: dict[str, str]) -> _Asked:
            return encode(groups.get(group), row if clean is None else {name: clean(row[name]) for name in row})

        return of_row
    columns, last = spec.grouping.columns, [(-1, _Asked(b"", 0, None, 0))]

    def of_group(group: int, _: dict[str, str]) -> _Asked:
        if last[0][0] != group:
            shown = groups.get(group)
            last[0] = group, encode(shown, _GroupRow(zip(columns, cells_of(shown.key), strict=True)))
        return last[0][1]

    return of_group


class _GroupRow(dict[str, str]):
    """The row of a group that is asked about as a whole: what all its rows have in common."""

    def __missing__(self, name: str) -> str:
        raise KeyError(f"{name}: a group has only {', '.join(self)}; what its rows say is data_case.group")


def _encoder(spec: RenderSpec) -> Callable[[ShownGroup, Mapping[str, str]], _Asked]:
    assert spec.grouping is not None
    prompt, codec = kept_prompt(spec.prompt_folder, spec.prompt_file), codec_for(spec.dialect, spec.endpoint)
    schema, schema_name = prompt.output.schema, prompt.output.name
    plain = replace(view_of(spec), grouping=spec.grouping.mode)
    known: list[tuple[ShownGroup | None, DataCaseView]] = [(None, plain)]

    def encode(shown: ShownGroup, row: Mapping[str, str]) -> _Asked:
        if known[0][0] is not shown:
            known[0] = shown, replace(plain, group=shown.text)
        try:
            fixed, text, cut, shared = rendered(prompt, known[0][1], row)
            parts = fixed, text, schema, schema_name, spec.model, spec.parameters, shared, shown.rows
            body = codec.encode_body(Request(*parts))
        except (Exception, SystemExit) as error:  # the users' own code: whatever it raises belongs to this row
            return _Asked(b"", 0, said(error), 0)
        return _Asked(body, _alike(body, shared or fixed), None, cut + shown.cut)

    return encode


def _alike(body: bytes, last: str) -> int:
    """How much of a body its group's bodies begin with: all down to the end of this text."""
    text = orjson.dumps(last)[1:-1]
    found = body.find(text) if text else -1
    return found + len(text) if found >= 0 else 0
