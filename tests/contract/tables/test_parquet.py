"""Parquet: every type as text, hostile files refused before they are unpacked, schema and metadata written back."""

from __future__ import annotations

import base64
import datetime as dt
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.parquet.encryption as pe
import pytest

from batch_jobs.errors import FileRefused
from batch_jobs.intake.recognise import open_table
from batch_jobs.output.table import write_table
from batch_jobs.table import Addition, FileKind, IntakeLimits, Table

LIMITS = IntakeLimits(max_bytes=2_000_000, max_rows=10_000, max_columns=50, max_cell_chars=1_000)
OURS = ["summary", "status"]
NOON = dt.datetime(2024, 1, 31, 12, 0, 0)  # noqa: DTZ001
TYPES: dict[str, tuple[Any, Any, str]] = {
    "text": ("é\n", pa.string(), "é\n"),
    "large_text": ("x", pa.large_string(), "x"),
    "whole": (-3, pa.int8(), "-3"),
    "unsigned": (2**64 - 1, pa.uint64(), "18446744073709551615"),
    "float": (0.1, pa.float64(), "0.1"),
    "decimal": (Decimal("1.10"), pa.decimal128(5, 2), "1.10"),
    "truth": (True, pa.bool_(), "true"),
    "day": (NOON.date(), pa.date32(), "2024-01-31"),
    "moment": (NOON, pa.timestamp("us"), "2024-01-31T12:00:00"),
    "in_zone": (NOON.replace(microsecond=500_000), pa.timestamp("ns", "Europe/Berlin"), "2024-01-31T12:00:00.5Z"),
    "time": (dt.time(1, 2, 3, 40), pa.time64("us"), "01:02:03.00004"),
    "span": (dt.timedelta(seconds=90), pa.duration("s"), "0:01:30"),
    "bytes": (b"abc", pa.binary(), "abc"),
    "list": ([1, None, 2], pa.list_(pa.int64()), "[1,null,2]"),
    "struct": ({"a": Decimal("1.0"), "b": NOON.date()}, None, '{"a":"1.0","b":"2024-01-31"}'),
    "map": ([("k", "v")], pa.map_(pa.string(), pa.string()), '[["k","v"]]'),
    "nothing": (None, pa.null(), ""),
}


def all_types() -> pa.Table:
    """A row of values, a row of nulls."""
    arrays = {name: pa.array([value, None], kind) for name, (value, kind, _) in TYPES.items()}
    arrays["category"] = pa.array(["p", None]).dictionary_encode()
    arrays["number_category"] = pa.array([5, None]).dictionary_encode()
    return pa.table(arrays).replace_schema_metadata({"owner": "risk"})


def opened(
    folder: Path, table: pa.Table | bytes, limits: IntakeLimits = LIMITS, name: str = "a.parquet", **how: Any
) -> Table:
    path = folder / "upload"
    if isinstance(table, bytes):
        path.write_bytes(table)
    else:
        pq.write_table(table, path, **how)
    return open_table(path, filename=name, sheet=None, limits=limits)


def refusal(folder: Path, table: pa.Table | bytes, limits: IntakeLimits = LIMITS, **how: Any) -> str:
    with pytest.raises(FileRefused) as caught:
        list(opened(folder, table, limits, **how).blocks(100))
    assert caught.value.message.startswith("a.parquet")
    assert caught.value.fix
    return caught.value.message


def written(folder: Path, table: Table, rows: int) -> Path:
    target = folder / "out.parquet"
    entries = (Addition([f"answer {number}", "" if number == 1 else "ok"]) for number in range(rows))
    assert write_table(folder / "upload", table.format, target, OURS, entries) == 0
    return target


def test_every_type_is_text_and_comes_back_as_it_was(tmp_path: Path) -> None:
    given = all_types()
    table = opened(tmp_path, given, compression="zstd")
    assert table.format.kind is FileKind.PARQUET
    assert table.columns == tuple(given.column_names)
    expected = (*(text for _, _, text in TYPES.values()), "p", "5")
    assert [tuple(row) for row in table.rows()] == [(1, expected), (2, ("",) * len(expected))]
    out = pq.ParquetFile(written(tmp_path, table, 2))
    found = out.read()
    assert found.schema.names == [*given.column_names, *OURS]
    for name in given.column_names:
        assert found.column(name).equals(pq.read_table(tmp_path / "upload").column(name)), name
        assert found.schema.field(name).equals(pq.read_schema(tmp_path / "upload").field(name), check_metadata=True)
    assert found.column("summary").to_pylist() == ["answer 0", "answer 1"]
    assert found.column("status").to_pylist() == ["ok", None]
    assert out.schema_arrow.metadata[b"owner"] == b"risk"
    assert out.metadata.row_group(0).column(0).compression == "ZSTD"


def test_row_groups_batches_and_blocks_do_not_move_a_row(tmp_path: Path) -> None:
    given = pa.table({"id": list(range(2_500)), "text": [f"row {number}" for number in range(2_500)]})
    table = opened(tmp_path, given, row_group_size=1_100)
    assert [row.number for row in table.rows()] == list(range(1, 2_501))
    assert [block.num_rows for block in table.blocks(900)] == [900, 900, 700]
    out = pq.ParquetFile(written(tmp_path, table, 2_500))
    assert [out.metadata.row_group(group).num_rows for group in range(out.num_row_groups)] == [1_100, 1_100, 300]
    assert all(line["summary"] == f"answer {line['id']}" for line in out.read().to_pylist())


def test_old_and_foreign_writers(tmp_path: Path) -> None:
    spark = {"type": "struct", "fields": [{"name": "at", "type": "timestamp", "nullable": True, "metadata": {}}]}
    key = b"org.apache.spark.sql.parquet.row.metadata"
    given = pa.table({"at": pa.array([NOON], pa.timestamp("ns"))})
    how: dict[str, Any] = {"use_deprecated_int96_timestamps": True, "store_schema": False, "compression": "none"}
    with pq.ParquetWriter(tmp_path / "spark", given.schema, **how) as writer:
        writer.write_table(given)
        writer.add_key_value_metadata({key: json.dumps(spark)})
    table = opened(tmp_path, (tmp_path / "spark").read_bytes())
    assert [row.cells for row in table.rows()] == [("2024-01-31T12:00:00",)]
    out = pq.ParquetFile(written(tmp_path, table, 1))
    assert out.schema.column(0).physical_type == "INT96"
    assert b"ARROW:schema" not in out.metadata.metadata
    assert out.metadata.row_group(0).column(0).compression == "UNCOMPRESSED"
    names = [field["name"] for field in json.loads(out.metadata.metadata[key])["fields"]]
    assert names == ["at", *OURS]


@pytest.mark.parametrize("rows", [0, 1, 3])
def test_answers_that_do_not_fit_the_rows_are_no_file(tmp_path: Path, rows: int) -> None:
    table = opened(tmp_path, pa.table({"a": ["x", "y"]}))
    with pytest.raises(ValueError, match=r"expected 2 cells|more entries"):
        written(tmp_path, table, rows)


def no_utf8() -> pa.Array:
    return pa.Array.from_buffers(
        pa.string(), 2, [None, pa.py_buffer(b"\0\0\0\0\1\0\0\0\2\0\0\0"), pa.py_buffer(b"a\xff")]
    )


@pytest.mark.parametrize(
    ("column", "words"),
    [
        (pa.array(["a", "b\0"]), "a NUL character"),
        (pa.array([b"a", b"\xff"]), "bytes that are no UTF-8"),
        (pa.array([[b"a"], [b"\xff"]]), "bytes that are no UTF-8"),
        (no_utf8(), "bytes that are no UTF-8"),
        (pa.array(["a", "é" * 1_001]), "more than 1,000 characters"),
        (pa.array([["a"], ["é" * 1_001]]), "more than 1,000 characters"),
    ],
)
@pytest.mark.parametrize("how", [{}, {"use_dictionary": False}])
def test_a_value_that_can_not_be_taken_is_named(
    tmp_path: Path, column: pa.Array, words: str, how: dict[str, Any]
) -> None:
    message = refusal(tmp_path, pa.table({"id": [1, 2], "text": column}), **how)
    assert message.startswith('a.parquet, row 2, column "text": ')
    assert words in message


def in_bytes(table: pa.Table, **how: Any) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, **how)
    return bytes(sink.getvalue().to_pybytes())


def test_broken_and_foreign_files(tmp_path: Path) -> None:
    whole = in_bytes(pa.table({"a": [f"text {number}" for number in range(500)]}))
    footer = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
    for content, words in (
        (whole[:-30], "was cut off"),
        (whole[:100], "was cut off"),
        (whole[:-8] + (1 << 30).to_bytes(4, "little") + b"PAR1", "was cut off"),
        (whole[:40] + bytes(60) + whole[100:], "can't be read"),
        (whole[:footer] + b"\xff" * 20 + whole[footer + 20 :], "can't be read"),
        (b"PARE" + whole[4:-4] + b"PARE", "is an encrypted Parquet file"),
        (b"id,text\n1,a\n", "is no Parquet file, though its name ends in .parquet"),
        (b'{"a": 1}\n', "is a JSON file"),
    ):
        assert words in refusal(tmp_path, content)
    for name in ("a.csv", "a.jsonl", "a.xlsx"):
        with pytest.raises(FileRefused, match=r"is a Parquet file. Rename it to .parquet"):
            opened(tmp_path, whole, name=name)
    with pytest.raises(FileRefused, match="a Parquet file has no sheets"):
        open_table(tmp_path / "upload", filename="a.parquet", sheet="Q3", limits=LIMITS)


class _Keys(pe.KmsClient):  # type: ignore[misc]
    def __init__(self, _: object) -> None:
        super().__init__()

    def wrap_key(self, key: bytes, _: str) -> bytes:
        return base64.b64encode(key)

    def unwrap_key(self, key: bytes, _: str) -> bytes:
        return base64.b64decode(key)


@pytest.mark.parametrize("plaintext_footer", [True, False])
def test_encrypted_columns_are_told_and_do_not_end_the_process(tmp_path: Path, plaintext_footer: bool) -> None:
    config = pe.EncryptionConfiguration("k", column_keys={"c": ["a"]}, plaintext_footer=plaintext_footer)
    keys = pe.CryptoFactory(_Keys).file_encryption_properties(pe.KmsConnectionConfig(), config)
    table = pa.table({"a": ["x"], "b": ["y"]})
    with pq.ParquetWriter(tmp_path / "secret", table.schema, encryption_properties=keys) as writer:
        writer.write_table(table)
    assert "is an encrypted Parquet file" in refusal(tmp_path, (tmp_path / "secret").read_bytes())


def test_columns_and_rows_over_the_limits(tmp_path: Path) -> None:
    wide = {f"c{number}": ["x"] for number in range(51)}
    for table, words in (
        (pa.table(wide), "has 51 columns, more than 50"),
        (pa.table({"s": [dict.fromkeys(wide, "x")]}), "has 51 columns, more than 50"),
        (pa.table({"a": ["x"] * 10_001}), "has 10,001 rows, more than 10,000"),
        (pa.table({"a": pa.array([], pa.string())}), "no rows"),
        (pa.table({}), "has no columns"),
        (pa.table([["x"], ["y"]], ["a", "a"]), 'column "a": is the name of more than one column'),
        (pa.table({" ": ["x"]}), "a column without a name"),
        (pa.table({"a": [f"{number:0900d}" for number in range(2_500)]}), "unpacks to more than the 2,000,000 bytes"),
    ):
        assert words in refusal(tmp_path, table, use_dictionary=False)


@pytest.mark.parametrize("repeated", [pa.array(["y" * 900]), pa.array([["y" * 900]])], ids=["flat", "nested"])
def test_a_value_stored_once_in_many_rows_is_counted_before_it_is_a_bomb(tmp_path: Path, repeated: pa.Array) -> None:
    table = pa.table({"a": pa.concat_arrays([repeated] * 9_000)})
    content = in_bytes(table)
    assert len(content) < 20_000
    assert "unpacks to more than the 2,000,000 bytes" in refusal(tmp_path, content)


def test_a_huge_value_in_the_dictionary_makes_small_batches(tmp_path: Path) -> None:
    """A batch of the usual size would take 20 GB."""
    column = pa.DictionaryArray.from_arrays(pa.array([0] * 2_000, pa.int32()), ["y" * 10_000_000])
    content = in_bytes(pa.table({"a": column}), store_schema=False)
    limits = IntakeLimits(max_bytes=100_000_000, max_rows=10_000, max_columns=50, max_cell_chars=1_000)
    assert 'row 1, column "a": the value has more than 1,000 characters' in refusal(tmp_path, content, limits)
