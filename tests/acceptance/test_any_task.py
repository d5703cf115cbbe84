"""docs/any-task.md, followed to the letter on 500 rows: a written schema, groups and a judge, in both modes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.kit import Cli, Sandbox, losses, own_answer, read_csv, sandbox_server, write_csv
from tests.acceptance.pages import follow, page
from tests.conftest import REPOSITORY

ROWS, GROUPS = 500, 3
SHARE = 0.1
CASE = ("--task", "compare", "--data-case", "external_loss")


@pytest.fixture
def strict(tmp_path: Path) -> Iterator[Sandbox]:
    """A sandbox whose judge rejects a known share of first answers."""
    behaviour = {"batch_seconds": 0.2, "reject_share": SHARE, "reject_first_only": True}
    with sandbox_server(tmp_path / "strict", behaviour) as server:
        yield server


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write_csv(tmp_path / "losses.csv", losses(ROWS))


@pytest.mark.parametrize("provider", ["openai", "anthropic", "gemini"])
def test_a_task_without_python(cli: Cli, strict: Sandbox, file: Path, tmp_path: Path, provider: str) -> None:
    follow(cli, "any-task.md", "prompt_lib/compare.yaml")
    cli = Cli(cli.folder, strict.environ())
    written = cli("stage", "schema", *CASE, "--file", file, "--provider", provider)
    assert written.code == 0, written.err
    schema = (cli.folder / "prompt_lib" / "compare_schema.py").read_text("utf-8")
    assert "BaseModel" in schema and 'extra="forbid"' in schema
    rejected = set[int]()
    for number, mode in enumerate(("batch", "concurrent"), 1):
        root = tmp_path / mode
        root.mkdir()
        where = ("--root", root, "--output", root / "out.csv", "--provider", provider, "--mode", mode)
        result = cli("run", "--file", file, *CASE, "--yes", "--json", *where)
        assert result.code == 0, result.err
        rows = read_csv(root / "out.csv")
        assert [row["id"] for row in rows] == [row["id"] for row in losses(ROWS)]
        assert all(row["compare_status"] == "ok" and own_answer(row, "comparison") for row in rows)
        again = result.json["verdicts"]["accepted_again"]
        assert result.json["verdicts"] == {"accept": ROWS, "accepted_again": again}
        said = strict.ask("verdicts")
        assert (said["accept"], said["reject"]) == (number * ROWS, number * again)
        rejected.add(again)
        assert SHARE / 2 < again / ROWS < 2 * SHARE
        assert cli("check-store", "--root", root).code == 0
    assert len(rejected) == 1  # the same answers, the same verdicts
    _look_closer(cli, root, result.json["task_id"])


def _look_closer(cli: Cli, root: Path, task_id: str) -> None:
    """The export and the report of the page."""
    exported = cli("export", task_id, "--format", "jsonl", "--output", root / "all.jsonl", "--root", root)
    assert exported.code == 0, exported.err
    rows = [json.loads(line) for line in (root / "all.jsonl").read_text("utf-8").splitlines()]
    assert [row["group_key"] for row in rows] == [row["nfr_taxonomy"] for row in losses(ROWS)]
    assert {row["verdict"] for row in rows} == {"accept"}
    assert all(0.7 <= row["score"] <= 1 for row in rows)
    assert cli("report", task_id, "--root", root).code == 0
    report = (root / "batch_output" / task_id / "report.md").read_text("utf-8")
    assert f"| accept | {ROWS} | 100 % |" in report


def test_the_page_names_every_page_of_a_capability() -> None:
    named = set(re.findall(r"\]\((\w[\w-]*\.md)\)", page("any-task.md")))
    apart = {"any-task.md", "backup.md", "cli.md", "configuration.md", "decisions.md", "failures.md"}
    apart |= {"performance.md", "reliability.md"}
    assert named == {path.name for path in (REPOSITORY / "docs").glob("*.md")} - apart
