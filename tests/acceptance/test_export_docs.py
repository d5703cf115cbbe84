"""docs/export.md, followed to the letter: a done job's rows in every format, the same from both layouts and modes."""

from __future__ import annotations

import csv
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openpyxl
import pyarrow.parquet as pq
import pytest

from tests.acceptance import api_kit
from tests.acceptance.kit import Cli, Sandbox, losses, own_answer, sandbox_server, write_csv
from tests.conftest import REPOSITORY

PAGE = (REPOSITORY / "docs" / "export.md").read_text("utf-8")
FORMATS = ("csv", "tsv", "psv", "jsonl", "xlsx", "parquet")
REFUSED = 3
"""The row whose answer the sandbox refuses."""
FAULTS = {"batch_seconds": 0.3, "faults": [{"kind": "item_refused", "match": f"at Bank{REFUSED}:"}]}


@pytest.fixture(scope="module")
def refusing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    with sandbox_server(tmp_path_factory.mktemp("refusing"), FAULTS) as server:
        yield server


@pytest.fixture
def cli(project_folder: Path, refusing: Sandbox) -> Cli:
    config = json.loads((project_folder / "config.json").read_text("utf-8"))
    config["tasks"]["learning_outcome"]["output_columns"] = {"control": "control"}  # a field less than the answer has
    (project_folder / "config.json").write_text(json.dumps(config), "utf-8")
    return Cli(project_folder, refusing.environ())


def run(cli: Cli, file: Path, *more: str, layout: str = "folders") -> str:
    """A done job: its task_id."""
    case = ("--task", "learning_outcome", "--data-case", "external_loss", "--yes", "--json")
    done = cli("run", "--file", file, *case, *more, environ={"BATCH_JOBS__STORE__LAYOUT": layout})
    assert done.code == 3, done.err
    return str(done.json["task_id"])


def exported(cli: Cli, task_id: str, fmt: str, *more: str | Path) -> dict[str, Any]:
    done = cli("export", task_id[:12], "--format", fmt, "--json", *more)
    assert done.code == 0, done.err
    return done.json


def test_every_format_has_every_row_with_ids_and_the_whole_answer(cli: Cli, tmp_path: Path) -> None:
    rows = [{**row, "status": "=1+1"} for row in [*losses(6), losses(1)[0]]]
    task_id = run(cli, write_csv(tmp_path / "losses.csv", rows), "--mode", "batch")
    made = {fmt: exported(cli, task_id, fmt) for fmt in FORMATS}
    assert [Path(made[fmt]["path"]).name for fmt in FORMATS] == [
        f"losses.learning_outcome.export.{fmt}" for fmt in FORMATS
    ]
    columns = made["jsonl"]["columns"]
    shown = re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (`[^|]*) \|", PAGE.split("## Formats")[0], re.MULTILINE)))
    assert [*columns[:4], "status", *columns[-3:]] == shown
    assert columns == [*shown[:4], *rows[0], "learning_outcome", "control", "status_2", *shown[-3:]]

    typed = [json.loads(line) for line in Path(made["jsonl"]["path"]).read_text("utf-8").splitlines()]
    assert [{name: row[name] for name in rows[0]} for row in typed] == rows
    assert [row["row_number"] for row in typed] == list(range(2, 9))
    assert [row["item"] for row in typed] == [0, 1, 2, 3, 4, 5, 0]
    assert [row["outcome"] for row in typed] == ["succeeded"] * 3 + ["refused"] + ["succeeded"] * 3
    for number, row in enumerate(typed):
        answered = number != REFUSED
        assert (row["status_2"] == "ok") is answered
        assert (own_answer(row, "learning_outcome") and bool(row["control"])) if answered else row["control"] is None
        assert (cli.folder / "store/external_loss/processed" / row["identity"]).is_dir() is answered
    assert typed[REFUSED]["status_2"].startswith("failed: refused by the model")

    assert pq.read_table(made["parquet"]["path"]).to_pylist() == typed
    texts = [["" if value is None else str(value).replace("=1+1", "'=1+1") for value in row.values()] for row in typed]
    for fmt, delimiter in (("csv", ","), ("tsv", "\t"), ("psv", "|")):
        with Path(made[fmt]["path"]).open(newline="", encoding="utf-8") as handle:
            assert list(csv.reader(handle, delimiter=delimiter)) == [columns, *texts]
    sheet = openpyxl.load_workbook(made["xlsx"]["path"]).worksheets[0]
    cells = [["" if value is None else str(value) for value in row] for row in sheet.iter_rows(values_only=True)]
    assert cells == [columns, *texts]
    assert cli("check-store").code == 0


def test_the_same_job_gives_the_same_bytes_from_both_layouts_and_modes(cli: Cli, tmp_path: Path) -> None:
    file = write_csv(tmp_path / "losses.csv", losses(6))
    folders = run(cli, file, "--mode", "batch")
    packed = run(cli, file, "--mode", "concurrent", layout="packed")
    for fmt in ("csv", "xlsx", "parquet"):
        first = Path(exported(cli, folders, fmt)["path"])
        assert Path(exported(cli, packed, fmt)["path"]) == first  # found, not written again
        assert len(list(tmp_path.glob(f"*.export*.{fmt}"))) == 1
    taken = tmp_path / "losses.learning_outcome.export.csv"
    before = taken.read_bytes()
    taken.write_bytes(b"mine")
    assert Path(exported(cli, folders, "csv")["path"]).name == "losses.learning_outcome.export-2.csv"
    assert taken.read_bytes() == b"mine"
    assert exported(cli, folders, "csv", "--output", taken)["path"] == str(taken)
    assert taken.read_bytes() == before


def test_the_commands_of_the_page(cli: Cli, tmp_path: Path) -> None:
    config = json.loads((cli.folder / "config.json").read_text("utf-8"))
    done = cli.run(write_csv(tmp_path / "losses.csv", losses(6)), "--mode", "batch")
    assert (done.code, config["tasks"]["summarize"]["output_columns"]) == (3, {"summary": "summary"})
    commands = "".join(re.findall(r"^```bash\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)).splitlines()
    assert len(commands) == 5
    for command in commands:
        if command.startswith("curl"):
            asked = re.fullmatch(r'curl -OJ "localhost:8000(\S+)"', command.replace("TASK_ID", done.json["task_id"]))
            assert asked
            with api_kit.serving(cli.folder, config=cli.folder / "config.json", **cli.environ) as server:
                reply = server.get(asked[1])
            assert 'filename="losses.summarize.export.parquet"' in reply.headers["Content-Disposition"]
            assert reply.body == (tmp_path / "losses.summarize.export.parquet").read_bytes()
            continue
        if command.startswith("batch-jobs"):
            result = cli(*shlex.split(command.replace("TASK_ID", done.json["task_id"]))[1:])
            assert result.code == 0, result.err
            continue
        shell = ["bash", "-c", command.replace("python", shlex.quote(sys.executable), 1)]
        shown = subprocess.run(shell, cwd=cli.folder, capture_output=True, text=True, check=True, timeout=60).stdout
        assert re.search(r"succeeded +│ +5 │ +5 ", shown), shown
        assert re.search(r"refused +│ +1 │ +0 ", shown), shown
    assert (tmp_path / "losses.summarize.export.parquet").is_file()
    assert (cli.folder / "answers.csv").is_file()


def test_a_job_that_was_cancelled_before_it_was_planned(cli: Cli, tmp_path: Path) -> None:
    case = ("--task", "summarize", "--data-case", "external_loss", "--json")
    task_id = cli("stage", "ingest", "--file", write_csv(tmp_path / "losses.csv", losses(2)), *case).json["task_id"]
    assert cli("cancel", task_id).code == 3
    result = cli("export", task_id, "--format", "csv")
    assert (result.code, "was cancelled before it was planned: there is nothing to export" in result.err) == (5, True)


def test_what_can_not_be_exported(cli: Cli, tmp_path: Path) -> None:
    file = write_csv(tmp_path / "losses.csv", losses(2))
    planned = cli.run(file, "--mode", "batch", "--detach")
    assert planned.code == 0, planned.err
    task_id = planned.json["task_id"]
    for arguments, code, words in (
        ((task_id, "--format", "csv"), 5, "is not done yet"),
        ((task_id, "--format", "xml"), 2, "'csv', 'tsv', 'psv', 'jsonl', 'xlsx', 'parquet'"),
        ((task_id,), 2, "Missing option '--format'"),
        (("ffffffff", "--format", "csv"), 2, "there is no job ffffffff"),
    ):
        result = cli("export", *arguments)
        assert (result.code, words in result.err) == (code, True), result.err
    assert cli("status", task_id, "--watch").code == 0
    for target, words in ((tmp_path, "is a folder"), (tmp_path / "none" / "a.csv", "there is no folder")):
        result = cli("export", task_id, "--format", "csv", "--output", target)
        assert (result.code, words in result.err) == (2, True), result.err
    (kept,) = (cli.folder / "batch_input" / task_id / "prompt").iterdir()
    kept.unlink()
    result = cli("export", task_id, "--format", "csv", "--output", tmp_path / "a.csv")
    assert (result.code, "the prompt that the job was planned with is not there" in result.err) == (4, True)
    assert not list(tmp_path.glob("a.csv*")) and not list(tmp_path.glob(".*.tmp"))
