"""Rows made so that a model's answer is a formula: what a job hands over holds none, in text tables and workbooks."""

from __future__ import annotations

import io
from collections.abc import Iterator

import openpyxl
import pytest

from tests.acceptance import api_kit
from tests.acceptance.api_kit import Server

STARTS = ("=", "+", "-", "@", "＝", "＋", "－", "＠", " =", "\u200e=", "\ufeff=", "\u202e=", "\u00a0@", "'=", "x=")
BODIES = ("cmd|' /C calc'!A0", 'HYPERLINK("http://127.0.0.1:9/","click here please")', "SUM(1+1)*cmd|' /C calc'!A0")
HARMLESS = {"'=", "x="}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with api_kit.serving(tmp_path_factory.mktemp("hostile-rows"), "--sandbox") as server:
        server.batches_take(0.1)
        yield server


def _rows() -> list[list[str]]:
    texts = [f"{start}{body} was reported by the desk" for start in STARTS for body in BODIES]
    return [[f"{number:04d}", text, "Fraud"] for number, text in enumerate(texts)]


def _summaries(server: Server, name: str, content: bytes) -> list[str]:
    task_id = server.start(name, content, mode="concurrent")
    assert server.done(task_id)["outcome"] == "complete"
    body = server.get(f"/jobs/{task_id}/download").body
    if name.endswith(".csv"):
        return [row[3] for row in api_kit.csv_rows(body)[1:]]
    sheet = openpyxl.load_workbook(io.BytesIO(body)).worksheets[0]
    assert {row[3].data_type for row in sheet.iter_rows(min_row=2)} == {"s"}
    return [str(row[3].value) for row in sheet.iter_rows(min_row=2)]


@pytest.mark.parametrize("kind", ["csv", "xlsx"])
def test_no_answer_of_a_job_is_a_formula(server: Server, kind: str) -> None:
    rows = [row for row in _rows() if kind == "csv" or row[1].startswith(("＝", " =", "'=", "x=", "\u200e", "@"))]
    content = api_kit.csv_bytes(rows) if kind == "csv" else api_kit.xlsx_bytes(rows)
    found = _summaries(server, f"formulas.{kind}", content)
    assert len(found) == len(rows)
    for (_, text, _), summary in zip(rows, found, strict=True):
        start = next(start for start in sorted(STARTS, key=len, reverse=True) if text.startswith(start))
        said = summary.removeprefix("'") if start != "'=" else summary
        assert said.rstrip(".").strip(" \ufeff\u00a0") in text, (text, summary)
        assert start in HARMLESS or summary.startswith("'"), (text, summary)
