"""docs/python.md and docs/documents.md, followed to the letter: every block runs, the main one at every provider."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import click
import pytest

from batch_jobs.cli import cli as command_line
from batch_jobs.frames.extract import Options
from batch_jobs.frames.handle import JobHandle
from tests.acceptance.frames_kit import BACKENDS, pdf_of
from tests.acceptance.kit import QUICK, Cli, Sandbox, losses, read_csv, write_csv
from tests.conftest import REPOSITORY

PYTHON = (REPOSITORY / "docs" / "python.md").read_text("utf-8")
DOCUMENTS = (REPOSITORY / "docs" / "documents.md").read_text("utf-8")


def blocks(page: str, language: str) -> list[str]:
    """The code blocks of a page that are in some language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)


def named(page: str, name: str) -> str:
    """The file that a page shows under its name."""
    found = re.search(rf"^`{re.escape(name)}`, [^\n]*:\n\n```\w+\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    assert found, name
    return found[1]


class Here:
    """Runs blocks one after the other in this process, as cells of one notebook."""

    def __init__(self, folder: Path, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(folder)
        environ = {**QUICK, **sandbox.environ(), "XDG_CACHE_HOME": str(folder / "cache")}
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        self.names: dict[str, Any] = {"__name__": "__main__"}
        rehearsal = folder / "cache" / "batch-jobs" / "store" / "sandbox"
        rehearsal.mkdir(parents=True)
        shutil.copy(sandbox.state / "server.json", rehearsal)  # `sandbox=True` finds this one, and starts none

    def __call__(self, *blocks: str) -> None:
        for block in blocks:
            exec(compile(block, "docs", "exec"), self.names)


@pytest.fixture
def here(tmp_path: Path, shared_sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Here:
    return Here(tmp_path, shared_sandbox, monkeypatch)


def test_every_block_of_the_python_page_runs(here: Here, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_csv(tmp_path / "losses.csv", losses(12))
    first, *others = blocks(PYTHON, "python")
    assert 'backend="openai"' in first
    for backend in BACKENDS:
        here(first.replace('backend="openai"', f'backend="{backend}"'))
        assert set(here.names["answered"]["status"]) == {"ok"}
        assert here.names["answered"]["severity"].dtype == "Int64"
    for other in others:
        here(other)
        assert set(here.names["answered"]["status"]) == {"ok"}
    assert set(here.names["again"]["status"]) == set(here.names["rehearsed"]["status"]) == {"ok"}
    out = capsys.readouterr().out
    assert "12 requests, about $0.00" in out
    assert out.count("'attempt_count': 1") == 2
    (said,) = re.findall(r"print\(error\)\n    # (.*)", PYTHON)
    assert said in out
    assert (tmp_path / "cache" / "batch-jobs" / "store" / "ledger.sqlite").exists()


def test_every_argument_and_method_stands_on_the_page() -> None:
    in_tables = set(re.findall(r"`(\w+)(?:\(|`)", " ".join(re.findall(r"^\| ([^|]*) \|", PYTHON, re.MULTILINE))))
    methods = {name for name in vars(JobHandle) if not name.startswith("_") and callable(getattr(JobHandle, name))}
    assert in_tables - {"argument", "method"} == {"prompt", "mode", *Options.__annotations__} | methods - {"keep_rows"}


def test_commands_of_the_pages_parse() -> None:
    for command in [*blocks(PYTHON, "bash"), *blocks(DOCUMENTS, "bash")]:
        words = shlex.split(command)[1:]
        found = command_line.get_command(click.Context(command_line), words[0])
        assert found is not None
        found.parse_args(click.Context(found, resilient_parsing=True), words[1:])


def test_the_documents_page_from_its_task_to_its_file(cli: Cli, here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    config = json.loads((cli.folder / "config.json").read_text("utf-8"))
    config["tasks"].update(json.loads(named(DOCUMENTS, "config.json")))
    config["intake"]["chunk_chars"], config["intake"]["chunk_overlap_chars"] = 100, 0
    (cli.folder / "config.json").write_text(json.dumps(config), "utf-8")
    (cli.folder / "prompt_lib" / "findings.yaml").write_text(named(DOCUMENTS, "prompt_lib/findings.yaml"), "utf-8")
    pages = ["Bank1 lost 5 EUR. " + "It was noticed late. " * 6, "", "=Bank2 lost 7 EUR."]
    (cli.folder / "report.pdf").write_bytes(pdf_of(pages))
    (command,) = blocks(DOCUMENTS, "bash")
    done = cli(*shlex.split(command)[1:])
    assert done.code == 0, done.err
    assert "report.pdf: 3 pages, 3 chunks; no text on page 2 (blank, or scanned)" in done.out
    rows = read_csv(cli.folder / "report.findings.csv", "utf-8-sig")
    assert [(row["document"], row["page"], row["chunk"]) for row in rows] == [
        ("report.pdf", page, chunk) for page, chunk in (("1", "1"), ("1", "2"), ("3", "3"))
    ]
    assert rows[2]["text"] == "'=Bank2 lost 7 EUR."
    assert all(row["findings_status"] == "ok" and row["finding"] for row in rows)
    (kept,) = (cli.folder / "batch_input").glob("*/original.pdf")
    assert kept.read_bytes() == (cli.folder / "report.pdf").read_bytes()
    again = cli(*shlex.split(command)[1:], "--json")
    assert (again.code, again.json["sent"]) == (0, 0)
    assert cli("check-store").code == 0
    (script,) = blocks(DOCUMENTS, "python")
    (cli.folder / "letter.txt").write_text("Dear Sir,\n\nthe bank lost 9 EUR.\n", "utf-8")
    monkeypatch.chdir(cli.folder)
    here(script)
    findings = here.names["findings"]
    assert findings["status"].tolist() == ["ok"] * 3
    assert findings["page"].isna().tolist() == [False, False, True]
    assert findings.attrs["pages_without_text"] == {"report.pdf": [2]}


def test_a_data_case_for_tables_and_a_document_that_can_not_be_read_are_refused(cli: Cli) -> None:
    (cli.folder / "report.pdf").write_bytes(pdf_of(["Some text."]))
    result = cli.run(cli.folder / "report.pdf")
    assert result.code == 2
    assert "report.pdf: a document becomes a table of the columns document, page, chunk, text" in result.err
    assert "needs DescriptionOfEvent, nfr_taxonomy" in result.err
    assert cli("jobs", "--json").out == "[]\n"
