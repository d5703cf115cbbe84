"""docs/prompts.md, followed to the letter: a task without a line of Python, in both modes, at every provider."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.acceptance.kit import Cli, losses, own_answer, read_csv, write_csv
from tests.acceptance.pages import follow, page

PAGE = page("prompts.md")
ROWS = 40
CASE = ("--task", "severity", "--data-case", "external_loss", "--yes", "--json")


@pytest.fixture
def project(cli: Cli) -> Cli:
    """A project with the page's task."""
    follow(cli, "prompts.md", "prompt_lib/severity.yaml", "prompt_lib/severity.json")
    return cli


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write_csv(tmp_path / "losses.csv", losses(ROWS))


@pytest.mark.parametrize("mode", ["batch", "concurrent"])
@pytest.mark.parametrize("provider", ["openai", "anthropic", "gemini"])
def test_the_task_of_the_page_runs(project: Cli, file: Path, provider: str, mode: str) -> None:
    output = project.folder / "out.csv"
    result = project("run", "--file", file, *CASE, "--provider", provider, "--mode", mode, "--output", output)
    assert result.code == 0, result.err
    rows = read_csv(output)
    assert len(rows) == ROWS
    assert {row["severity"] for row in rows} <= {"low", "medium", "high"}
    assert all(row["severity_status"] == "ok" and own_answer(row, "why") for row in rows)


def test_prompt_and_schema_are_kept_with_the_job_and_a_changed_schema_asks_anew(project: Cli, file: Path) -> None:
    first = project("run", "--file", file, *CASE)
    assert (first.code, first.json["sent"]) == (0, ROWS)
    kept = project.folder / "batch_input" / first.json["task_id"] / "prompt"
    assert {path.name for path in kept.iterdir()} == {"severity.yaml", "severity.json"}
    assert project("run", "--file", file, *CASE).json["sent"] == 0
    schema = project.folder / "prompt_lib" / "severity.json"
    schema.write_text(schema.read_text("utf-8").replace('"high"', '"high", "extreme"'), "utf-8")
    assert project("run", "--file", file, *CASE).json["sent"] == ROWS
    assert project("check-store").code == 0


def test_a_placeholder_that_is_no_column_is_named_before_anything_is_kept(project: Cli, file: Path) -> None:
    prompt = project.folder / "prompt_lib" / "severity.yaml"
    prompt.write_text(prompt.read_text("utf-8").replace("{nfr_taxonomy}", "{nfr_taxnomy}"), "utf-8")
    result = project("run", "--file", file, *CASE)
    assert result.code == 2
    assert 'the prompt names what is no column: {nfr_taxnomy} (did you mean "nfr_taxonomy"?)' in result.err
    assert project("jobs", "--json").out == "[]\n"


def test_cells_are_clean_for_the_prompt_and_untouched_in_the_file(project: Cli, tmp_path: Path) -> None:
    found = re.search(r'^"clean": (\{.*\})$', PAGE, re.MULTILINE)
    assert found
    config = json.loads((project.folder / "config.json").read_text("utf-8"))
    config["tasks"]["severity"]["data_cases"]["external_loss"]["clean"] = json.loads(found[1])
    (project.folder / "config.json").write_text(json.dumps(config), "utf-8")
    plain = losses(2)
    messy = [
        {**row, "DescriptionOfEvent": f"  {row['DescriptionOfEvent'].replace(', ', chr(92) + ', ')}\n"} for row in plain
    ]
    rows = [*plain, *messy, {**plain[0], "nfr_taxonomy": " [None] "}, {**plain[0], "nfr_taxonomy": ""}]
    output = project.folder / "out.csv"
    result = project("run", "--file", write_csv(tmp_path / "messy.csv", rows), *CASE, "--output", output)
    assert (result.code, result.json["rows"], result.json["sent"]) == (0, 6, 3)
    written = read_csv(output)
    assert [{name: row[name] for name in rows[0]} for row in written] == rows
    assert [written[0]["why"], written[1]["why"]] == [written[2]["why"], written[3]["why"]]


def test_a_row_shows_what_the_data_case_says(project: Cli, file: Path) -> None:
    found = re.search(r'^"context": (\{.*?^\})$', PAGE, re.DOTALL | re.MULTILINE)
    assert found
    context = {**json.loads(found[1]), "max_cell_chars": 30}
    config = json.loads((project.folder / "config.json").read_text("utf-8"))
    config["tasks"]["severity"]["data_cases"]["external_loss"]["context"] = context
    (project.folder / "config.json").write_text(json.dumps(config), "utf-8")
    done = project("run", "--file", file, *CASE[:-1], "--mode", "batch")
    assert done.code == 0, done.err
    assert f"shortened     {ROWS} rows, in the prompt and not in your file" in done.err + done.out
    (shard,) = (project.folder / "batch_input").glob("*/round-0/shard-0000.jsonl")
    body = json.loads(shard.read_text("utf-8").splitlines()[0])["body"]
    text = next(message["content"] for message in body["messages"] if message["role"] == "user")
    shown = losses(1)[0]["DescriptionOfEvent"][:30]
    assert f"<data_points>\n- DescriptionOfEvent: {shown}…\n- nfr_taxonomy: Fraud\n</data_points>" in text


def test_a_file_without_a_column_that_is_shown_is_refused(project: Cli, file: Path) -> None:
    config = json.loads((project.folder / "config.json").read_text("utf-8"))
    config["tasks"]["severity"]["data_cases"]["external_loss"]["context"] = {"include": ["region"]}
    (project.folder / "config.json").write_text(json.dumps(config), "utf-8")
    result = project("run", "--file", file, *CASE)
    assert (result.code, '"region"' in result.err) == (2, True)
