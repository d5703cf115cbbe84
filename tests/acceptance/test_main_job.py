"""The main job as a user runs it: every dialect, both modes, csv and xlsx, each row its own answer."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import Any

import openpyxl
import pytest

from tests.acceptance.kit import Cli, Sandbox, losses, own_answer, read_csv, write_csv
from tests.conftest import REPOSITORY

ROWS, FEW_ROWS = 2_000, 300
DIALECTS = ("openai", "anthropic", "gemini")
MockFile = Callable[[str, int], Path]


@pytest.fixture(scope="session")
def mock_file(tmp_path_factory: pytest.TempPathFactory) -> MockFile:
    """Mock rows as csv and as xlsx, made by the script that users have."""
    folder = tmp_path_factory.mktemp("mock")

    @lru_cache
    def make(kind: str, rows: int) -> Path:
        made = folder / f"losses-{rows}.{kind}"
        options = ["--rows", str(rows), "--seed", "11", "--format", kind, "--output", str(made)]
        script = REPOSITORY / "scripts" / "make_mock_data.py"
        subprocess.run([sys.executable, str(script), *options], check=True, capture_output=True)
        return made

    return make


@pytest.mark.parametrize(
    ("mode", "provider", "kind", "rows"),
    [
        *product(["batch"], DIALECTS, ["csv"], [ROWS]),
        *product(["batch"], DIALECTS, ["xlsx"], [FEW_ROWS]),
        *product(["concurrent"], DIALECTS, ["csv", "xlsx"], [FEW_ROWS]),
        ("concurrent", "openai", "xlsx", ROWS),
    ],
)
def test_every_row_gets_its_own_answer(
    cli: Cli, mock_file: MockFile, mode: str, provider: str, kind: str, rows: int
) -> None:
    source, output = mock_file(kind, rows), cli.folder / f"out.{kind}"
    result = cli.run(source, "--provider", provider, "--mode", mode, "--output", output)
    assert result.code == 0, result.err
    document = result.json
    assert (document["rows"], document["succeeded"], document["failed"]) == (rows, rows, 0)
    assert document["sent"] == document["items"] < rows  # equal rows share one item
    assert document["mode"] == mode
    assert document["cost_usd"] > 0
    check_cells(source, output, kind)


def check_cells(source: Path, output: Path, kind: str) -> None:
    """Input cells unchanged and in order, and each answer made of its own row's words."""
    before, after = table(source, kind), table(output, kind)
    assert after[0] == [*before[0], "summary", "summarize_status"]
    assert len(after) == len(before)
    text = before[0].index("DescriptionOfEvent")
    for old, new in zip(before[1:], after[1:], strict=True):
        assert new[:-2] == old
        assert new[-1] == "ok"
        assert str(new[-2]).lstrip("'") and same_words(str(new[-2]), str(old[text])), new[-2]


def same_words(answer: str, text: str) -> bool:
    """The sandbox answers with sentences of the row itself."""
    plain = " ".join(text.split())
    return " ".join(answer.lstrip("'").split())[:60] in plain


def table(path: Path, kind: str) -> list[list[Any]]:
    """All cells: text of a csv, typed values of an xlsx."""
    if kind == "csv":
        rows = read_csv(path)
        return [list(rows[0]), *(list(row.values()) for row in rows)]
    book = openpyxl.load_workbook(path)
    return [list(row) for row in book.worksheets[0].iter_rows(values_only=True)]


def test_the_responses_endpoint_works_too(cli: Cli) -> None:
    file = write_csv(cli.folder / "few.csv", losses(30))
    environ = {"BATCH_JOBS__PROVIDERS__OPENAI__ENDPOINT": "/v1/responses"}
    for mode in ("batch", "concurrent"):
        output = cli.folder / f"{mode}.csv"
        result = cli.run(file, "--mode", mode, "--output", output, "--new", environ=environ)
        assert result.code == 0, result.err
        assert all(own_answer(row) for row in read_csv(output))


def test_a_second_run_sends_nothing_and_new_rows_alone_are_sent(cli: Cli, shared_sandbox: Sandbox) -> None:
    file = write_csv(cli.folder / "losses.csv", losses(120))
    assert cli.run(file, "--mode", "batch").json["sent"] == 120
    calls = shared_sandbox.billed
    again = cli.run(file, "--mode", "batch")
    assert again.code == 0
    assert (again.json["sent"], again.json["from_cache"], again.json["succeeded"]) == (0, 120, 120)
    assert shared_sandbox.billed == calls
    longer = write_csv(cli.folder / "longer.csv", losses(220))
    third = cli.run(longer, "--mode", "concurrent")
    assert (third.json["sent"], third.json["from_cache"], third.json["succeeded"]) == (100, 120, 220)
    assert all(own_answer(row) for row in read_csv(Path(third.json["output"])))


def test_detached_and_fetched_by_the_script_the_next_morning(cli: Cli) -> None:
    file = write_csv(cli.folder / "losses.csv", losses(90))
    limits = {"BATCH_JOBS__PROVIDERS__OPENAI__LIMITS__MAX_REQUESTS": "40"}
    left = cli.run(file, "--detach", environ=limits)
    assert left.code == 0, left.err
    assert left.json["status"] == "processing"
    script = [sys.executable, str(REPOSITORY / "scripts" / "job_status.py")]
    options = ["--task_id", left.json["task_id"], "--download", "--json", "--output", "fetched.csv"]
    code = 5
    while code == 5:
        done = subprocess.run(
            [*script, *options],
            cwd=cli.folder,
            env=_environ(cli),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        code = done.returncode
    assert code == 0, done.stderr
    assert all(own_answer(row) for row in read_csv(cli.folder / "fetched.csv"))
    assert creates_of(cli, left.json["task_id"]) == [1, 1, 1]


def _environ(cli: Cli) -> dict[str, str]:
    from tests.acceptance.kit import clean_environ

    return clean_environ(cli.environ)


def creates_of(cli: Cli, task_id: str) -> list[int]:
    """Create POSTs per shard, as the ledger counts them."""
    import sqlite3

    with sqlite3.connect(cli.folder / "store" / "ledger.sqlite") as connection:
        query = "SELECT creates FROM provider_batches WHERE task_id = ? ORDER BY round, shard"
        return [row[0] for row in connection.execute(query, (task_id,))]
