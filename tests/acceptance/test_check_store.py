"""check-store: a healthy root is clean, every kind of damage is named with its place, and nothing is changed."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.kit import Cli, Result, losses, sandbox_server, write_csv
from tests.acceptance.test_endings import job_phase, wait_until

ROWS = 12
OLD = 2 * 3600
Damage = Callable[["Root"], str]
"""Damages a root and returns a part of the place that must be named."""


class Root:
    """A project with one done job, and its files."""

    def __init__(self, cli: Cli, task_id: str) -> None:
        self.cli, self.task_id = cli, task_id
        self.store = cli.folder / "store"
        self.input = cli.folder / "batch_input" / task_id
        self.output = cli.folder / "batch_output" / task_id

    @property
    def plan(self) -> Path:
        return self.input / "plan"

    @property
    def shard(self) -> Path:
        return self.input / "round-0" / "shard-0000.jsonl"

    @property
    def filed(self) -> Path:
        return sorted((self.store / "external_loss" / "processed").iterdir())[0]

    def sql(self, statement: str, database: str = "ledger") -> None:
        connection = sqlite3.connect(self.store / f"{database}.sqlite")
        with connection:
            assert connection.execute(statement).rowcount > 0, statement
        connection.close()

    def check(self) -> Result:
        return self.cli("check-store", "--json")


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """A project with one done batch job, made once and copied for every test."""
    from tests.conftest import REPOSITORY

    folder = tmp_path_factory.mktemp("healthy") / "project"
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(REPOSITORY / "prompt_lib", folder / "prompt_lib", ignore=ignore)
    shutil.copy(REPOSITORY / "config.json", folder)
    sandbox = request.getfixturevalue("shared_sandbox")
    made = Cli(folder, sandbox.environ()).run(write_csv(folder / "a.csv", losses(ROWS)), "--mode", "batch")
    assert made.code == 0, made.err
    (folder / "task_id").write_text(made.json["task_id"])
    return folder


@pytest.fixture
def root(healthy: Path, tmp_path: Path) -> Root:
    folder = tmp_path / "project"
    shutil.copytree(healthy, folder)
    return Root(Cli(folder), (folder / "task_id").read_text())


def tree(folder: Path) -> dict[str, str]:
    """Every file below a folder by its hash, apart from what SQLite keeps beside a database."""
    files = (path for path in folder.rglob("*") if path.is_file() and not path.name.endswith(("-wal", "-shm")))
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def clean(result: Result) -> dict[str, int]:
    """Assert that nothing was found; returns what was checked."""
    assert (result.code, result.json["findings"]) == (0, []), result.out + result.err
    checked: dict[str, int] = result.json["checked"]
    return checked


@pytest.mark.parametrize("provider", ["openai", "anthropic", "gemini"])
@pytest.mark.parametrize("mode", ["batch", "concurrent"])
def test_a_healthy_root_is_clean_and_stays_as_it_is(cli: Cli, mode: str, provider: str) -> None:
    file = write_csv(cli.folder / "a.csv", [*losses(ROWS), *losses(3)])
    assert cli.run(file, "--mode", mode, "--provider", provider).code == 0
    before = tree(cli.folder)
    checked = clean(cli("check-store", "--json"))
    assert tree(cli.folder) == before
    assert (checked["jobs"], checked["items"], checked["answers"]) == (1, ROWS, ROWS)
    assert checked["folders"] == ROWS
    assert checked.get("shards", 0) == (mode == "batch")
    people = cli("check-store")
    assert people.code == 0
    assert "all agrees" in people.out


def test_a_root_without_jobs_is_clean_and_nothing_is_made(cli: Cli) -> None:
    before = tree(cli.folder)
    assert clean(cli("check-store", "--json")) == {"jobs": 0}
    assert tree(cli.folder) == before
    assert not (cli.folder / "store").exists()


def test_a_record_that_another_model_answered_later_is_right_too(cli: Cli) -> None:
    file = write_csv(cli.folder / "a.csv", losses(ROWS))
    for provider in ("openai", "gemini", "anthropic"):
        assert cli.run(file, "--mode", "batch", "--provider", provider).code == 0
    assert clean(cli("check-store", "--json"))["jobs"] == 3
    first, second = sorted((cli.folder / "store" / "external_loss" / "processed").rglob("summarize.json"))[:2]
    shutil.copy(first, second)  # another record's answer, which all three plans know
    found = cli("check-store", "--json")
    assert found.code == 3
    assert {finding["place"] for finding in found.json["findings"]} == {str(second)}


def test_failed_rows_and_rows_without_a_prompt_are_no_findings(cli: Cli, tmp_path: Path) -> None:
    rows = losses(ROWS)
    rows[3]["DescriptionOfEvent"] += " please refuse this one"
    rows[5]["DescriptionOfEvent"] = ""
    faults = [{"kind": "item_refused", "match": "please refuse this one"}, {"kind": "item_missing", "share": 0.3}]
    with sandbox_server(tmp_path / "s", {"batch_seconds": 0.2, "faults": faults}) as server:
        for mode in ("batch", "concurrent"):
            done = cli.run(write_csv(cli.folder / f"{mode}.csv", rows), "--mode", mode, environ=server.environ())
            assert done.code == 3, done.err
    checked = clean(cli("check-store", "--json"))
    assert checked["shards"] > 1  # the missing ones went into further rounds


def test_a_cancelled_job_and_a_job_under_way_are_no_findings(cli: Cli, tmp_path: Path) -> None:
    with sandbox_server(tmp_path / "s", {"batch_seconds": 60}) as server:
        environ = server.environ()
        for number in (0, 1):
            file = write_csv(cli.folder / f"{number}.csv", losses(ROWS, 100 * number))
            left = cli.run(file, "--detach", "--mode", "batch", environ=environ)
            assert left.code == 0, left.err
            assert clean(cli("check-store", "--json"))["shards"] == number + 1
            if number == 0:
                assert cli("cancel", left.json["task_id"], environ=environ).code == 3
    checked = clean(cli("check-store", "--json"))
    assert (checked["jobs"], checked["skipped"]) == (2, 0)
    body = next((cli.folder / "batch_input" / left.json["task_id"] / "plan").glob("bodies-*"))
    body.write_bytes(body.read_bytes().replace(b"Bank105", b"Bank999"))
    found = cli("check-store", "--json")
    assert found.code == 3
    assert [(finding["kind"], finding["place"]) for finding in found.json["findings"]] == [
        ("body", f"{body.parent}, item 5")
    ]


@pytest.mark.parametrize("mode", ["batch", "concurrent"])
def test_what_passes_in_a_running_or_killed_job_is_no_finding(cli: Cli, tmp_path: Path, mode: str) -> None:
    file = write_csv(cli.folder / "a.csv", losses(160))
    with sandbox_server(tmp_path / "s", {"batch_seconds": 1.0, "call_ms": 30}) as server:
        limits = {"BATCH_JOBS__PROVIDERS__OPENAI__LIMITS__MAX_REQUESTS": "30"}
        cli.environ = {**server.environ(), **limits, "BATCH_JOBS__CONCURRENT__MAX_WORKERS": "2"}
        case = ("--task", "summarize", "--data-case", "external_loss", "--mode", mode, "--yes")
        for kill_after in (1, 2, None):
            process = cli.start("run", "--file", file, *case)
            wait_until(lambda p=process: job_phase(cli) == "running" or p.poll() is not None)
            checks = 0
            while process.poll() is None and checks != kill_after:
                clean(cli("check-store", "--json"))
                checks += 1
            process.kill()
            process.communicate()
            clean(cli("check-store", "--json"))
    assert clean(cli("check-store", "--json"))["answers"] == 160


def test_a_job_that_a_process_works_on_is_skipped_and_named(root: Root) -> None:
    holder, ends = f"elsewhere:{os.getpid()}:x", time.time() + 600
    root.sql(f"UPDATE leases SET holder = '{holder}', expires_at = {ends}")
    root.shard.unlink()
    result = root.check()
    assert result.code == 0, result.out
    assert (result.json["checked"]["jobs"], result.json["checked"]["skipped"]) == (0, 1)
    assert root.task_id in result.err


def test_leftovers_are_listed_and_harmless(root: Root) -> None:
    folders = root.cli.folder / "batch_input", root.cli.folder / "batch_output"
    young, old = folders[0] / ("a" * 32), [folders[0] / f".incoming-{'b' * 32}", folders[1] / ("c" * 32)]
    for folder in (young, *old):
        folder.mkdir()
    for folder in old:
        os.utime(folder, (time.time() - OLD,) * 2)
    result = root.check()
    assert result.code == 0
    assert {finding["kind"] for finding in result.json["findings"]} == {"leftover"}
    assert [finding["place"] for finding in result.json["findings"]] == [str(folder) for folder in old]
    assert all("delete" in finding["fix"] for finding in result.json["findings"])


def delete(choose: Callable[[Root], Path]) -> Damage:
    """Remove a file or a folder."""

    def damage(root: Root) -> str:
        path = choose(root)
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        return str(path)

    return damage


def alter(choose: Callable[[Root], Path], change: Callable[[bytes], bytes]) -> Damage:
    """Rewrite a file."""

    def damage(root: Root) -> str:
        path = choose(root)
        path.write_bytes(change(path.read_bytes()))
        return str(path)

    return damage


def record(statement: str, place: str, database: str = "ledger") -> Damage:
    """Change a database."""

    def damage(root: Root) -> str:
        root.sql(statement, database)
        return place

    return damage


def cut(content: bytes) -> bytes:
    half = content[: len(content) // 2]
    return half.rstrip(b"}\n")  # half of a file may be whole lines, and nothing tells these from a whole file


def first_line_only(content: bytes) -> bytes:
    return content.splitlines(keepends=True)[0]


def other_digits(content: bytes) -> bytes:
    return content.replace(b"Bank3", b"Bank4")


def without_last_columns(content: bytes) -> bytes:
    return content.rstrip().rpartition(b",")[0] + b"\n"


def filed_result(root: Root) -> Path:
    return root.filed / "ai_results" / "summarize.json"


def edited_answer(content: bytes) -> bytes:
    document = json.loads(content)
    document["answer"]["summary"] = "somebody's own words"
    return json.dumps(document).encode()


def other_cost(content: bytes) -> bytes:
    document = json.loads(content)
    document["costs"]["1"]["cost_usd"] += 1
    return json.dumps(document).encode()


def forget_task(root: Root) -> str:
    path = root.cli.folder / "config.json"
    config: dict[str, Any] = json.loads(path.read_text())
    del config["tasks"]["summarize"]
    path.write_text(json.dumps(config))
    return "tasks.summarize"


def swap_items(root: Root) -> str:
    shutil.copy(root.input / "rows.parquet", root.plan / "rows.parquet")
    return "items.parquet"


def raw_file(root: Root) -> Path:
    return next((root.output / "round-0" / "shard-0000").glob("*.jsonl"))


def spoil_pages(content: bytes) -> bytes:
    return content[:4096] + bytes(len(content) - 4096)


SET = "UPDATE items SET"
DAMAGES: dict[str, tuple[str, Damage]] = {
    "upload gone": ("upload", delete(lambda root: root.input / "upload.csv")),
    "upload altered": ("upload", alter(lambda root: root.input / "upload.csv", other_digits)),
    "snapshot gone": ("snapshot", delete(lambda root: root.input / "rows.parquet")),
    "snapshot cut": ("snapshot", alter(lambda root: root.input / "rows.parquet", cut)),
    "prompt gone": ("prompt", delete(lambda root: root.input / "prompt")),
    "prompt altered": (
        "prompt",
        alter(lambda root: root.input / "prompt" / "summary_prompt.py", lambda content: content + b"\n"),
    ),
    "plan's rows gone": ("plan", delete(lambda root: root.plan / "rows.parquet")),
    "plan's items gone": ("plan", delete(lambda root: root.plan / "items.parquet")),
    "plan's items cut": ("plan", alter(lambda root: root.plan / "items.parquet", cut)),
    "plan's rows of another file": ("plan", swap_items),
    "shard gone": ("shard", delete(lambda root: root.shard)),
    "shard altered": ("shard", alter(lambda root: root.shard, other_digits)),
    "raw results gone": ("results", delete(lambda root: root.output / "round-0" / "shard-0000")),
    "one raw file gone": ("results", delete(raw_file)),
    "raw file cut": ("results", alter(raw_file, cut)),
    "output gone": ("output", delete(lambda root: root.output / "output.csv")),
    "output truncated": ("output", alter(lambda root: root.output / "output.csv", cut)),
    "output header only": ("output", alter(lambda root: root.output / "output.csv", first_line_only)),
    "output's last cell gone": ("output", alter(lambda root: root.output / "output.csv", without_last_columns)),
    "output altered": ("output", alter(lambda root: root.output / "output.csv", other_digits)),
    "manifest gone": ("manifest", delete(lambda root: root.output / "manifest.json")),
    "manifest corrupt": ("manifest", alter(lambda root: root.output / "manifest.json", cut)),
    "manifest's cost altered": ("manifest", alter(lambda root: root.output / "manifest.json", other_cost)),
    "folder gone": ("folder", delete(lambda root: root.filed)),
    "filed result gone": ("folder", delete(filed_result)),
    "filed result corrupt": ("folder", alter(filed_result, cut)),
    "filed result edited": ("folder", alter(filed_result, edited_answer)),
    "details gone": ("folder", delete(lambda root: root.filed / "meta_data" / "details.json")),
    "all folders gone": ("folder", delete(lambda root: root.store / "external_loss")),
    "answer deleted": ("answer", record("DELETE FROM answers WHERE rowid = 3", "call_cache.sqlite", "call_cache")),
    "answers all deleted": ("answer", record("DELETE FROM answers", "call_cache.sqlite, item 0", "call_cache")),
    "outcome removed": ("item", record(f"{SET} outcome = NULL WHERE item = 4", "item 4")),
    "outcome flipped": ("item", record(f"{SET} outcome = 'refused' WHERE item = 4", "item 4")),
    "outcomes flipped": (
        "item",
        record(f"{SET} outcome = 'refused', last_outcome = 'refused' WHERE item = 4", "item 4"),
    ),
    "outcome misspelt": ("item", record(f"{SET} outcome = 'fine' WHERE item = 4", "item 4")),
    "item removed": ("item", record("DELETE FROM items WHERE item = 4", "item 4")),
    "item added": (
        "plan",
        record(
            "INSERT INTO items SELECT task_id, 99, fingerprint, round, shard, attempts, known, merged_round, "
            "last_outcome, outcome, code, detail FROM items WHERE item = 4",
            "items.parquet",
        ),
    ),
    "fingerprint altered": ("item", record(f"{SET} fingerprint = randomblob(32) WHERE item = 4", "item 4")),
    "item in another shard": ("shard", record(f"{SET} shard = 7 WHERE item = 4", "shard-0000.jsonl, item 4")),
    "shard not merged": ("shard", record("UPDATE provider_batches SET state = 'submitted'", "-r0-s0")),
    "shard's state misspelt": ("shard", record("UPDATE provider_batches SET state = 'gone'", "ledger.sqlite")),
    "job's outcome flipped": ("job", record("UPDATE jobs SET outcome = 'partial'", "ledger.sqlite")),
    "job's phase misspelt": ("job", record("UPDATE jobs SET phase = 'over'", "ledger.sqlite")),
    "call removed": (
        "manifest",
        record("DELETE FROM calls WHERE call_id = (SELECT min(call_id) FROM calls)", "manifest.json"),
    ),
    "ledger gone": ("database", delete(lambda root: root.store / "ledger.sqlite")),
    "ledger damaged": ("database", alter(lambda root: root.store / "ledger.sqlite", spoil_pages)),
    "ledger no database": ("database", alter(lambda root: root.store / "ledger.sqlite", lambda _: b"not SQLite" * 99)),
    "cache gone": ("database", delete(lambda root: root.store / "call_cache.sqlite")),
    "cache damaged": ("database", alter(lambda root: root.store / "call_cache.sqlite", spoil_pages)),
    "schema of the future": ("database", record("UPDATE alembic_version SET version_num = '9999'", "ledger.sqlite")),
    "task unknown": ("config", forget_task),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_found_and_named_and_left_as_it_is(root: Root, name: str) -> None:
    kind, damage = DAMAGES[name]
    place = damage(root)
    before = tree(root.cli.folder)
    result = root.check()
    assert result.code == 3, result.out + result.err
    assert tree(root.cli.folder) == before
    found = result.json["findings"]
    named = [finding for finding in found if finding["kind"] == kind and place in finding["place"]]
    assert named, found
    assert all(finding["task_id"] == root.task_id for finding in named if kind != "database")
    assert all(finding["problem"] and finding["fix"] for finding in found)
    assert "Traceback" not in result.err


def test_many_findings_of_a_kind_are_counted(root: Root) -> None:
    root.sql("DELETE FROM answers", "call_cache")
    found = [finding for finding in root.check().json["findings"] if finding["kind"] == "answer"]
    assert len(found) == 11
    assert found[-1]["problem"] == f"and {ROWS - 10} more of this kind"


def test_what_rebuild_store_mends_is_clean_after_it(root: Root) -> None:
    shutil.rmtree(root.store / "external_loss")
    broken = root.check()
    assert broken.code == 3
    assert all("rebuild-store" in finding["fix"] for finding in broken.json["findings"])
    assert root.cli("rebuild-store").code == 0
    clean(root.check())


def test_an_xlsx_output_is_counted(cli: Cli) -> None:
    import openpyxl

    book = openpyxl.Workbook()
    sheet = book.worksheets[0]
    rows = losses(ROWS)
    sheet.append(list(rows[0]))
    for row in rows:
        sheet.append(list(row.values()))
    book.save(cli.folder / "a.xlsx")
    done = cli.run(cli.folder / "a.xlsx", "--mode", "batch")
    assert done.code == 0, done.err
    clean(cli("check-store", "--json"))
    output = cli.folder / "batch_output" / done.json["task_id"] / "output.xlsx"
    finished = openpyxl.load_workbook(output)
    finished.worksheets[0].delete_rows(5)
    finished.save(output)
    finding = cli("check-store", "--json").json["findings"][0]
    assert (finding["kind"], finding["place"]) == ("output", str(output))
    assert "11 rows" in finding["problem"]
