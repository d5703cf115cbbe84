"""JSON Lines: read to the digit, refused by line, written back byte for byte with our keys in each object."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from batch_jobs.errors import FileRefused
from batch_jobs.intake.recognise import open_table
from batch_jobs.output.table import write_table
from batch_jobs.table import Addition, FileKind, IntakeLimits, Table

LIMITS = IntakeLimits(max_bytes=30_000_000, max_rows=1_000, max_columns=50, max_cell_chars=1_000)
OURS = ["summary", 'status "x"']


def opened(folder: Path, content: bytes, limits: IntakeLimits = LIMITS, name: str = "a.jsonl") -> Table:
    path = folder / "upload"
    path.write_bytes(content)
    return open_table(path, filename=name, sheet=None, limits=limits)


def cells(table: Table) -> list[tuple[str, ...]]:
    return [row.cells for row in table.rows()]


def written(folder: Path, table: Table, ours: list[list[str]], columns: list[str] = OURS) -> bytes:
    target = folder / "out"
    entries = [Addition([json.dumps(cell) for cell in each], lines=7) for each in ours]
    assert write_table(folder / "upload", table.format, target, columns, entries) == 0
    return target.read_bytes()


def test_columns_are_the_keys_of_all_lines_and_cells_their_json_text(tmp_path: Path) -> None:
    lines = (
        b'{"id": 007, "x": 1}\n'.replace(b"007", b"7")
        + b'{"text": "a\\nb \\u00e9\\ud83d\\ude00", "id": -1.50e+3, "big": 123456789012345678901234567890}\r\n'
        + b' {"id": null, "ok": true, "no": false, "list": [1, "x", {"a" : 1.10, "b": null}], "none": {}} \n'
        + b"{}"
    )
    table = opened(tmp_path, lines)
    assert table.format.kind is FileKind.JSONL
    assert table.format.describe() == "JSON Lines"
    assert table.columns == ("id", "x", "text", "big", "ok", "no", "list", "none")
    assert cells(table) == [
        ("7", "1", "", "", "", "", "", ""),
        ("-1.50e+3", "", "a\nb é😀", "123456789012345678901234567890", "", "", "", ""),
        ("", "", "", "", "true", "false", '[1,"x",{"a":1.10,"b":null}]', "{}"),
        ("", "", "", "", "", "", "", ""),
    ]
    assert [row.number for row in table.rows()] == [1, 2, 3, 4]
    assert [block.num_rows for block in table.blocks(3)] == [3, 1]


def test_ndjson_is_another_name_of_jsonl(tmp_path: Path) -> None:
    """Whatever the reader says of a file, it says under both names; its own bytes decide all else."""
    table = opened(tmp_path, b'{"id": 1}\r\n', name="A.NDJSON")
    assert (table.format.kind, cells(table)) == (FileKind.JSONL, [("1",)])
    with pytest.raises(FileRefused, match="a JSON Lines file has no sheets"):
        open_table(tmp_path / "upload", filename="a.ndjson", sheet="Q3", limits=LIMITS)
    for content in (b"id,text\n1,a\n", b'[{"id": 1}]', b"PAR1\x15\x04PAR1", b"PK\x03\x04 cut", b"<html>", b""):
        said = []
        for name in ("a.jsonl", "a.ndjson"):
            with pytest.raises(FileRefused) as caught:
                opened(tmp_path, content, name=name)
            said.append(caught.value.message.replace(name, "a"))
        assert said[0] == said[1]


NESTED = b'{"a":' + b"[" * 3_000 + b"]" * 3_000 + b"}"


@pytest.mark.parametrize(
    ("content", "row", "words"),
    [
        (b'{"a":1}\n\n{"a":2}\n', 2, "the line is blank"),
        (b'{"a":1}\n  \t\n', 2, "the line is blank"),
        (b'{"a":1}\n{"a":\n', 2, "expecting value at character 6"),
        (b'{"a":1}\n{"a":1} {"a":2}\n', 2, "extra data at character 9"),
        (b'{\n  "a": 1\n}\n', 1, "Write one whole JSON object on each line"),
        (b"id,text\n1,a\n", 1, "is no JSON object"),
        (b'[{"a":1}]\n', 1, "is a JSON list and no JSON Lines"),
        (b'{"a":1}\n[1]\n', 2, "is a list and no JSON object"),
        (b'{"a":1}\n"x"\n', 2, "is a text and no JSON object"),
        (b'{"a":1}\n17\n', 2, "is a number and no JSON object"),
        (b'{"a":1}\nnull\n', 2, "is null and no JSON object"),
        (b'{"a":1}\n{"a":NaN}\n', 2, "holds NaN, which is no JSON. Write null instead"),
        (b'{"a":1}\n{"a":-Infinity}\n', 2, "holds -Infinity, which is no JSON"),
        (b'{"a":1}\n{"a":1,"b":2,"a":3}\n', 2, 'has the key "a" twice'),
        (b'{"a":1}\n{"a":{"b":1,"b":2}}\n', 2, 'has the key "b" twice'),
        (b'\xef\xbb\xbf{"a":1}\n', 1, "byte order mark"),
        ('{"a":1}\n'.encode("utf-16"), 1, "byte order mark"),
        (b'{"a":1}\n{"a":"\xff"}\n', 2, "byte 0xFF at position 7 is not valid UTF-8"),
        (b'{"a":1}\n{"a":"\\ud800"}\n', 2, "half a character"),
        (b'{"a":1}\n{"\\udc00":1}\n', 2, "half a character"),
        (b'{"a":1}\n{"b":"x\\u0000y"}\n', 2, "NUL character"),
        (b'{"a":1}\n{"a":"x\ty"}\n', 2, "invalid control character"),
        (b'{"a":1}\n' + NESTED, 2, "nested too deep"),
        (b'{"a":1}\n' + NESTED.replace(b"[" * 2_000, b"").replace(b"]" * 2_000, b""), 2, "nested too deep"),
        (b'{"a":1}\n{" ":1}\n', 2, "a key without a name"),
        (b'{"a":1}\n{"' + b"k" * 1_001 + b'":1}\n', 2, "is too long"),
        (b'{"a":1}\n{"a":"' + b"x" * 1_001 + b'"}\n', 2, "more than 1,000 characters"),
        (b'{"a":1}\n{"a":"' + b"x" * (17 << 20) + b'"}\n', 2, "the line has more than 16,777,216 bytes"),
        (json.dumps({f"k{n}": n for n in range(51)}).encode(), 1, "more than 50 different keys"),
    ],
)
def test_a_line_that_can_not_be_taken_is_named(tmp_path: Path, content: bytes, row: int, words: str) -> None:
    with pytest.raises(FileRefused) as caught:
        list(opened(tmp_path, content).blocks(10))
    assert caught.value.message.startswith(f"a.jsonl, row {row}")
    assert words in caught.value.message
    assert caught.value.fix


def test_what_is_wrong_with_the_whole_file(tmp_path: Path) -> None:
    for content, words in (
        (b"{}\n{}\n", "has no keys"),
        (b'{"a":1}\n' * 1_001, "has more than 1,000 rows. Split it into files of 1,000 rows"),
        (b"PAR1 and so on PAR1", "is a Parquet file. Rename it to .parquet"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "is an image"),
        (b"<html><body>", "is a web page"),
    ):
        with pytest.raises(FileRefused) as caught:
            opened(tmp_path, content)
        assert words in caught.value.message
    for name in ("a.csv", "a.xlsx", "a.json"):
        with pytest.raises(FileRefused, match=r"is a JSON file.*rename it to .jsonl"):
            opened(tmp_path, b'{"a": 1}\n', name=name)
    with pytest.raises(FileRefused, match="a JSON Lines file has no sheets"):
        open_table(tmp_path / "upload", filename="a.jsonl", sheet="Q3", limits=LIMITS)


def test_objects_that_share_hardly_a_key_are_refused_before_they_become_a_huge_table(tmp_path: Path) -> None:
    limits = IntakeLimits(max_bytes=10**9, max_rows=10**6, max_columns=1_000, max_cell_chars=1_000)
    wide = json.dumps({f"k{n}": n for n in range(1_000)}).encode()
    with pytest.raises(FileRefused, match="hardly one that two of them share"):
        opened(tmp_path, wide + b"\n" + b"{}\n" * 5_000, limits)


def test_ours_are_written_as_the_file_is(tmp_path: Path) -> None:
    table = opened(tmp_path, b'{"a": 1.10 }\n  {"a" :"\\u00e9"}\t\r\n{}\n{ }')
    assert written(tmp_path, table, [["x", "ok"], ["é\n", "ok"], ["", ""], ["z", "ok"]]) == (
        b'{"a": 1.10, "summary": "x", "status \\"x\\"": "ok" }\n'
        b'  {"a" :"\\u00e9", "summary": "\\u00e9\\n", "status \\"x\\"": "ok"}\t\r\n'
        b'{"summary": "", "status \\"x\\"": ""}\n'
        b'{"summary": "z", "status \\"x\\"": "ok" }'
    )
    compact = opened(tmp_path, b'{"a":1}\n')
    assert written(tmp_path, compact, [["x", "ok"]]) == b'{"a":1,"summary":"x","status \\"x\\"":"ok"}\n'


@pytest.mark.parametrize("entries", [[], [["x", "ok"]] * 2, [["x"]]])
def test_answers_that_do_not_fit_the_lines_are_no_file(tmp_path: Path, entries: list[list[str]]) -> None:
    with pytest.raises(ValueError, match=r"line 1: expected 2|more entries"):
        written(tmp_path, opened(tmp_path, b'{"a":1}\n'), entries)


text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=6,
)
keys = text.filter(lambda key: bool(key.strip()) and key not in OURS)
objects = st.lists(st.dictionaries(keys, values, max_size=4), min_size=1, max_size=6).filter(any)
styles = st.fixed_dictionaries(
    {"ensure_ascii": st.booleans(), "separators": st.sampled_from([(",", ":"), (", ", ": "), (" ,", " :\t")])}
)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=objects, style=styles, end=st.sampled_from(["\n", "\r\n", " \n"]), last=st.booleans(), data=st.data())
def test_round_trip(
    tmp_path: Path, rows: list[dict[str, object]], style: dict[str, object], end: str, last: bool, data: st.DataObject
) -> None:
    lines = [json.dumps(row, **style) for row in rows]  # type: ignore[arg-type]
    content = (end.join(lines) + (end if last else "")).encode()
    table = opened(tmp_path, content)
    assert list(table.columns) == list(dict.fromkeys(key for row in rows for key in row))
    for row, found in zip(rows, cells(table), strict=True):
        for name, cell in zip(table.columns, found, strict=True):
            value = row.get(name)
            if value is None or isinstance(value, str):
                assert cell == (value or "")
            else:
                assert json.loads(cell) == value
                assert cell == json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    ours = data.draw(st.lists(st.lists(text, min_size=2, max_size=2), min_size=len(rows), max_size=len(rows)))
    result = written(tmp_path, table, ours)
    both = [{**row, **dict(zip(OURS, mine, strict=True))} for row, mine in zip(rows, ours, strict=True)]
    assert [list(json.loads(line).items()) for line in result.splitlines() if line] == [list(b.items()) for b in both]
    for line, before in zip(result.split(b"\n"), content.split(b"\n"), strict=True):
        kept = before.rstrip().removesuffix(b"}").rstrip()
        assert line.startswith(kept)
        assert line.endswith(before[len(kept) :])
