"""Columns made by hand are the very ones that pyarrow makes, few or many; and they are made without pandas."""

from __future__ import annotations

import subprocess
import sys

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batch_jobs import arrow
from batch_jobs.arrow import digests, integers, line_breaks, texts
from tests.contract.tables.lines import lines_of

ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]))


@settings(deadline=None)  # the first one loads what it compares with
@given(st.lists(st.none() | ANY_TEXT, max_size=40))
def test_texts(values: list[str | None]) -> None:
    made = texts(values)
    made.validate(full=True)
    assert made.equals(pa.array(values, pa.string()))


@settings(deadline=None)  # the first one loads what it compares with
@given(st.lists(st.none() | st.binary(max_size=40), max_size=40))
def test_digests(values: list[bytes | None]) -> None:
    made = digests(values)
    made.validate(full=True)
    assert made.equals(pa.array(values, pa.binary()))


@settings(deadline=None)  # the first one loads what it compares with
@given(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=40))
def test_integers(values: list[int]) -> None:
    made = integers(values)
    made.validate(full=True)
    assert made.equals(pa.array(values, pa.int64()))


@pytest.mark.parametrize("count", [7, 8, 9, 20_000])
def test_many(count: int) -> None:
    words = [None if number % 7 == 0 else f"cell {number} ü" for number in range(count)]
    calls = [None if word is None else word.encode() for word in words]
    assert texts(words).to_pylist() == words
    assert digests(calls).to_pylist() == calls
    assert integers(range(count)).to_pylist() == list(range(count))


def test_a_column_over_the_limit_comes_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrow, "MOST_BYTES", 10)
    words = [None, "abcd", "éé", "", "abcdefgh", None, "x"]
    made = texts(words)
    assert made.num_chunks == 2
    assert made.to_pylist() == words


def test_no_values_load_pandas() -> None:
    code = "import sys; from batch_jobs.arrow import *; n = 20_000; "
    code += "texts([chr(97)] * n), digests([b'a'] * n), integers([1] * n)"
    code += "; sys.exit('pandas' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@given(st.lists(st.lists(st.text("a\r\né,"), min_size=2, max_size=2), max_size=20))
def test_line_breaks(rows: list[list[str]]) -> None:
    table = pa.table({"a": pa.array([row[0] for row in rows], pa.string()), "b": [row[1] for row in rows]})
    assert [1 + breaks for breaks in line_breaks(table.cast(pa.schema([("a", pa.string()), ("b", pa.string())])))] == [
        lines_of(row) for row in rows
    ]
