"""docs/tables.md, followed to the letter: JSON Lines and Parquet in and out, from the command line and over HTTP."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.acceptance.kit import Cli, losses, own_answer, read_csv, write_csv
from tests.conftest import REPOSITORY

PAGE = (REPOSITORY / "docs" / "tables.md").read_text("utf-8")
ROWS = 12


def test_the_commands_and_the_file_of_the_page(cli: Cli) -> None:
    given, back = re.findall(r"^```json\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    (commands,) = re.findall(r"^```bash\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    (cli.folder / "losses.jsonl").write_text(given, "utf-8")
    rows = [{"DescriptionOfEvent": row["DescriptionOfEvent"], "nfr_taxonomy": "Cyber"} for row in losses(2)]
    write_csv(cli.folder / "losses.csv", rows)
    table = pa.Table.from_pylist([{**row, "amount": 1.5} for row in rows]).replace_schema_metadata({"owner": "risk"})
    pq.write_table(table, cli.folder / "losses.parquet")
    for command in commands.splitlines():
        done = cli(*shlex.split(command.removesuffix(" --sandbox"))[1:])  # the one that all tests share
        assert done.code == 0, done.err
    assert (cli.folder / "losses.summarize.jsonl").read_text("utf-8") == back
    found = pq.read_table(cli.folder / "losses.summarize.parquet")
    assert found.select(table.column_names).equals(table)
    assert found.schema.metadata[b"owner"] == b"risk"
    summaries = [row["summary"] for row in read_csv(cli.folder / "losses.summarize.csv")]
    assert found.column("summary").to_pylist() == summaries
    assert cli("check-store").code == 0


@pytest.mark.parametrize(
    ("kind", "mode", "layout"),
    [("jsonl", "batch", "packed"), ("ndjson", "concurrent", "folders"), ("parquet", "concurrent", "folders")],
)
def test_both_ways_and_both_layouts(cli: Cli, tmp_path: Path, kind: str, mode: str, layout: str) -> None:
    rows = [{**row, "note": "two\nlines\r\nand more", "summary": "mine"} for row in losses(ROWS)]
    file = tmp_path / f"losses.{kind}"
    if kind != "parquet":
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    else:
        pq.write_table(pa.Table.from_pylist(rows), file, row_group_size=5)
    done = cli.run(file, "--mode", mode, environ={"BATCH_JOBS__STORE__LAYOUT": layout})
    assert done.code == 0, done.err
    written = tmp_path / f"losses.summarize.{kind}"
    if kind != "parquet":
        lines = written.read_text("utf-8").splitlines()
        assert all(line.startswith(json.dumps(row)[:-1]) for row, line in zip(rows, lines, strict=True))
        found = [json.loads(line) for line in lines]
    else:
        found = pq.read_table(written).to_pylist()
    assert [{name: row[name] for name in rows[0]} for row in found] == rows
    assert all(row["summarize_status"] == "ok" and own_answer(row, "summary_2") for row in found)
    assert cli("check-store").code == 0
    output = next((cli.folder / "batch_output").glob(f"*/output.{kind}"))
    output.write_bytes(output.read_bytes()[:-40])
    damaged = cli("check-store", "--json")
    assert (damaged.code, damaged.json["findings"][0]["kind"]) == (3, "output")


def test_what_can_not_be_taken_is_named_and_nothing_is_kept(cli: Cli, tmp_path: Path) -> None:
    for name, content, words in (
        ("a.jsonl", b'{"DescriptionOfEvent": "x"}\n{"DescriptionOfEvent": NaN}\n', "row 2: holds NaN"),
        ("a.jsonl", b'{"DescriptionOfEvnt": "x"}\n', 'a.jsonl: mandatory columns are missing: "DescriptionOfEvent"'),
        ("a.jsonl", b'{"__sheet_row__": 1, "DescriptionOfEvent": "x", "nfr_taxonomy": "y"}\n', "this name is reserved"),
        ("a.jsonl", b'{"DescriptionOfEvent": "x", "nfr_taxonomy": "y", "nfr_taxonomy": "z"}\n', "twice in one object"),
        ("a.parquet", b"PAR1 and no more", "was cut off"),
    ):
        (tmp_path / name).write_bytes(content)
        result = cli.run(tmp_path / name)
        assert (result.code, words in result.err) == (2, True), result.err
    assert cli("jobs", "--json").out == "[]\n"
    assert not list((cli.folder / "batch_input").iterdir())
