"""docs/together.md, followed to the letter: several rows in one request, in both modes, at every provider."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.acceptance.kit import Cli, Sandbox, losses, own_answer, read_csv, write_csv
from tests.acceptance.pages import follow

ROWS, TOGETHER = 42, 5
CASE = ("--task", "summarize_together", "--data-case", "external_loss", "--yes", "--json")


@pytest.fixture
def project(cli: Cli) -> Cli:
    follow(cli, "together.md")
    return cli


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write_csv(tmp_path / "losses.csv", losses(ROWS))


@pytest.mark.parametrize("mode", ["batch", "concurrent"])
@pytest.mark.parametrize("provider", ["openai", "anthropic", "gemini"])
def test_the_task_of_the_page_runs(project: Cli, changing: Sandbox, file: Path, provider: str, mode: str) -> None:
    cli, output = Cli(project.folder, changing.environ()), project.folder / "out.csv"
    before = changing.billed
    result = cli("run", "--file", file, *CASE, "--provider", provider, "--mode", mode, "--output", output)
    assert result.code == 0, result.err
    rows = read_csv(output)
    assert [row["id"] for row in rows] == [row["id"] for row in losses(ROWS)]
    assert all(row["summarize_together_status"] == "ok" and own_answer(row) for row in rows)
    assert changing.billed - before == -(-ROWS // TOGETHER)
    assert cli("check-store").code == 0
    again = cli("run", "--file", file, *CASE, "--provider", provider, "--mode", mode, "--output", output)
    assert (again.json["sent"], changing.billed - before) == (0, -(-ROWS // TOGETHER))


@pytest.mark.parametrize("mode", ["batch", "concurrent"])
@pytest.mark.parametrize("kind", ["pack_missing", "pack_foreign", "pack_doubled", "pack_invalid", "item_truncated"])
def test_a_row_that_goes_wrong_goes_alone(project: Cli, changing: Sandbox, file: Path, kind: str, mode: str) -> None:
    fault = {"kind": kind, "match": "results", "times": 3}
    changing.put_behaviour({"batch_seconds": 0.1, "faults": [fault]})
    cli, output = Cli(project.folder, changing.environ()), project.folder / "out.csv"
    before = changing.billed
    result = cli("run", "--file", file, *CASE, "--mode", mode, "--output", output)
    assert result.code == 0, result.err
    rows = read_csv(output)
    assert all(row["summarize_together_status"] == "ok" and own_answer(row) for row in rows)
    again = {3}
    if kind == "item_truncated":
        again = {3 * TOGETHER, 2 * TOGETHER + ROWS % TOGETHER}  # of all three, or of the last one, too
    bundles = -(-ROWS // TOGETHER)
    assert changing.billed - before - bundles in again
    assert cli("check-store").code == 0


def test_the_plan_says_what_it_saves(project: Cli, file: Path) -> None:
    result = project("run", "--file", file, *CASE[:-1], "--dry-run")
    assert "9 requests of up to 5 rows: about " in result.out
    config = json.loads((project.folder / "config.json").read_text("utf-8"))
    config["tasks"]["summarize_together"]["rows_per_request"] = 101
    (project.folder / "config.json").write_text(json.dumps(config), "utf-8")
    refused = project("run", "--file", file, *CASE)
    assert (refused.code, "tasks.summarize_together.rows_per_request" in refused.err) == (2, True)
