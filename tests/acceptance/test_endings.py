"""How a run can end: every exit code, what is left behind, and that the same command goes on."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.kit import Cli, Result, losses, own_answer, read_csv, sandbox_server, write_csv

SLOW = {"batch_seconds": 1.5}


def folders(cli: Cli) -> set[str]:
    """Jobs on disk."""
    return (
        {path.name for path in (cli.folder / "batch_input").iterdir()}
        if (cli.folder / "batch_input").exists()
        else set()
    )


def wait_until(check: Any, seconds: float = 30.0) -> None:
    """Wait for something another process does."""
    deadline = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)


def job_phase(cli: Cli) -> str:
    """The phase of the newest job, as the ledger has it now."""
    path = cli.folder / "store" / "ledger.sqlite"
    if not path.exists():
        return ""
    try:
        with sqlite3.connect(path) as connection:
            row = connection.execute("SELECT phase FROM jobs ORDER BY created_at DESC LIMIT 1").fetchone()
    except sqlite3.OperationalError:  # the table is not there yet
        return ""
    return str(row[0]) if row else ""


def shard_states(cli: Cli) -> list[str]:
    """States of all shards."""
    with sqlite3.connect(cli.folder / "store" / "ledger.sqlite") as connection:
        return [row[0] for row in connection.execute("SELECT state FROM provider_batches ORDER BY round, shard")]


BAD_FILES: dict[str, tuple[str, bytes, str]] = {
    "missing columns": ("a.csv", b"DescriptionOfEvnt,other\nx,y\n", 'did you mean "DescriptionOfEvnt"'),
    "empty": ("a.csv", b"", "empty"),
    "header only": ("a.csv", b"DescriptionOfEvent,nfr_taxonomy\n", "no rows"),
    "doubled header": ("a.csv", b"DescriptionOfEvent,nfr_taxonomy,nfr_taxonomy\nx,y,z\n", "nfr_taxonomy"),
    "empty header": ("a.csv", b"DescriptionOfEvent,nfr_taxonomy,\nx,y,z\n", "column"),
    "ragged": ("a.csv", b"DescriptionOfEvent,nfr_taxonomy\nx,y\nx\nx,y,z\n", "rows 3, 4"),
    "nul": ("a.csv", b"DescriptionOfEvent,nfr_taxonomy\nx\x00,y\n", "NUL"),
    "html": ("a.csv", b"<!DOCTYPE html><html><body>no</body></html>", "html"),
    "xls": ("a.xls", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600), ".xls"),
    "wrong name": ("a.docx", b"x,y\n1,2\n", "csv"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_bad_file_is_refused_before_anything_is_written(cli: Cli, name: str) -> None:
    file_name, content, words = BAD_FILES[name]
    (cli.folder / file_name).write_bytes(content)
    result = cli.run(cli.folder / file_name)
    assert result.code == 2, result.err
    assert words.lower() in result.err.lower()
    assert file_name in result.err
    assert result.out == ""
    assert folders(cli) == set()


def test_a_file_at_the_limits_still_gets_its_output(cli: Cli) -> None:
    file = write_csv(cli.folder / "a.csv", losses(4))  # four columns, six with ours
    limits = {"BATCH_JOBS__INTAKE__MAX_COLUMNS": "4", "BATCH_JOBS__INTAKE__MAX_BYTES": str(file.stat().st_size)}
    result = cli.run(file, environ=limits)
    assert result.code == 0, result.err
    assert all(own_answer(row) for row in read_csv(Path(result.json["output"])))
    assert "summarize_status" in result.err  # the first rows are shown


def test_too_many_rows_and_bytes_are_refused(cli: Cli) -> None:
    file = write_csv(cli.folder / "a.csv", losses(30))
    for key, words in (("MAX_ROWS", "20"), ("MAX_BYTES", "20")):
        result = cli.run(file, environ={f"BATCH_JOBS__INTAKE__{key}": "20"})
        assert result.code == 2
        assert words in result.err
    assert folders(cli) == set()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--task", "summarise"), 'did you mean "summarize"'),
        (("--data-case", "exterrnal_loss"), 'did you mean "external_loss"'),
        (("--provider", "opneai"), 'did you mean "openai"'),
        (("--file", "nowhere.csv"), "nowhere.csv"),
        (("--sheet", "Q3"), "sheet"),
        (("--mode", "bacth"), "batch"),
        (("--detach", "--mode", "concurrent"), "--detach"),
    ],
)
def test_a_wrong_word_is_answered_with_the_right_one(cli: Cli, arguments: tuple[str, ...], words: str) -> None:
    file = write_csv(cli.folder / "a.csv", losses(3))
    result = cli.run(file, *arguments)
    assert result.code == 2, result.err
    assert words in result.err
    assert folders(cli) == set()


def test_a_wrong_command_names_the_nearest(cli: Cli) -> None:
    result = cli("stauts")
    assert result.code == 2
    assert 'did you mean "status"' in result.err


def test_a_bug_is_exit_1_and_says_that_it_is_one(cli: Cli) -> None:
    planted = "import batch_jobs.cli as c; c.COMMANDS['jobs'] = 'batch_jobs.cli.status:not_there'; c.main(['jobs'])"
    done = subprocess.run([sys.executable, "-c", planted], cwd=cli.folder, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "this is a bug" in done.stderr


def test_no_key_and_no_sandbox(cli: Cli) -> None:
    file = write_csv(cli.folder / "a.csv", losses(3))
    result = cli.run(file, environ={"OPENAI_API_KEY": ""})
    assert result.code == 2
    assert "OPENAI_API_KEY" in result.err
    assert "--sandbox" in result.err
    assert folders(cli) == set()


def test_parameters_that_a_provider_refuses_are_found_before_anything_is_sent(cli: Cli) -> None:
    file = write_csv(cli.folder / "a.csv", losses(3))
    for provider in ("anthropic", "openai"):
        environ = {f"BATCH_JOBS__PROVIDERS__{provider.upper()}__PARAMETERS__TEMPERATURE": "0.2"}
        result = cli.run(file, "--provider", provider, environ=environ)
        assert result.code == 2
        assert f"providers.{provider}.parameters.temperature" in result.err


def test_a_config_typo_is_answered_with_the_nearest_key(cli: Cli) -> None:
    config = json.loads((cli.folder / "config.json").read_text())
    config["poling"] = config.pop("polling")
    (cli.folder / "config.json").write_text(json.dumps(config))
    result = cli.run(write_csv(cli.folder / "a.csv", losses(3)))
    assert result.code == 2
    assert 'unknown key "poling"; did you mean "polling"' in result.err


def test_a_dry_run_leaves_nothing(cli: Cli) -> None:
    result = cli.run(write_csv(cli.folder / "a.csv", losses(300)), "--dry-run")
    assert result.code == 0
    assert result.json["items"] == 300
    assert "$" in result.err
    assert folders(cli) == set()
    assert cli("jobs", "--json").out.strip() == "[]"


def test_some_rows_failed_is_exit_3(cli: Cli, tmp_path: Path) -> None:
    rows = losses(40)
    rows[7]["DescriptionOfEvent"] += " please refuse this one"
    file = write_csv(cli.folder / "a.csv", rows)
    faults = [{"kind": "item_refused", "match": "please refuse this one"}]
    with sandbox_server(tmp_path / "s", {"batch_seconds": 0.2, "faults": faults}) as server:
        for mode in ("batch", "concurrent"):
            result = cli.run(file, "--new", "--mode", mode, environ=server.environ())
            assert result.code == 3, result.err
            assert (result.json["succeeded"], result.json["failed"], result.json["outcome"]) == (39, 1, "partial")
            assert "row 9" in result.err
            out = read_csv(Path(result.json["output"]))
            assert out[7]["summary"] == ""
            assert out[7]["summarize_status"].startswith("failed: refused")
            assert [row["summarize_status"] for row in out].count("ok") == 39
            (cli.folder / "store" / "call_cache.sqlite").unlink()


@pytest.mark.parametrize("mode", ["batch", "concurrent"])
def test_quota_pauses_the_job_and_resume_goes_on(cli: Cli, tmp_path: Path, mode: str) -> None:
    file = write_csv(cli.folder / "a.csv", losses(30))
    route = "create" if mode == "batch" else "call"
    faults = [{"kind": "quota_exhausted", "route": route, "times": 1}]
    with sandbox_server(tmp_path / "s", {"batch_seconds": 0.2, "faults": faults}) as server:
        environ = server.environ()
        settings = {**environ, "BATCH_JOBS__CONCURRENT__MAX_WORKERS": "1"}
        paused = cli.run(file, "--mode", mode, environ=settings)
        assert paused.code == 4, paused.err
        assert paused.json["phase"] == "paused"
        assert "batch-jobs resume" in paused.err
        done = cli("resume", paused.json["task_id"], "--json", environ=environ)
        assert done.code == 0, done.err
        assert done.json["succeeded"] == 30
        assert server.billed == 30


def test_a_refused_key_pauses_the_job(cli: Cli) -> None:
    file = write_csv(cli.folder / "a.csv", losses(5))
    result = cli.run(file, environ={"OPENAI_API_KEY": "invalid-key"})
    assert result.code == 4
    assert "invalid-key" not in result.err + result.out
    other = cli("resume", result.json["task_id"])
    assert other.code == 2  # another key: the job is resumed only with the account it began with
    assert "key" in other.err


def test_not_done_yet_is_exit_5_and_download_waits_for_done(cli: Cli, tmp_path: Path) -> None:
    file = write_csv(cli.folder / "a.csv", losses(30))
    with sandbox_server(tmp_path / "s", {"batch_seconds": 40}) as server:
        environ = server.environ()
        left = cli.run(file, "--detach", environ=environ)
        assert left.code == 0
        for more in ((), ("--download",)):
            result = cli("status", left.json["task_id"][:8], "--json", *more, environ=environ)
            assert result.code == 5, result.err
            assert result.json["status"] == "processing"
        cancelled = cli("cancel", left.json["task_id"], "--json", environ=environ)
        assert cancelled.code == 3, cancelled.err
        assert (cancelled.json["outcome"], cancelled.json["failed"]) == ("cancelled", 30)
        again = cli("cancel", left.json["task_id"], environ=environ)
        assert again.code == 5
    assert cli("status", "0" * 32).code == 2
    assert cli("status", "../../etc").code == 2


@pytest.mark.parametrize("mode", ["batch", "concurrent"])
def test_ctrl_c_keeps_everything_and_the_same_command_goes_on(cli: Cli, tmp_path: Path, mode: str) -> None:
    file = write_csv(cli.folder / "a.csv", losses(200))
    with sandbox_server(tmp_path / "s", {"batch_seconds": 1.5, "call_ms": 60}) as server:
        environ = {**server.environ(), "BATCH_JOBS__CONCURRENT__MAX_WORKERS": "4"}
        case = ("--task", "summarize", "--data-case", "external_loss", "--mode", mode, "--yes")
        process = cli.start("run", "--file", file, *case, environ=environ)
        if mode == "batch":
            wait_until(lambda: job_phase(cli) == "running" and "submitted" in shard_states(cli))
        else:
            wait_until(lambda: job_phase(cli) == "running" and server.billed > 20)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
        assert process.returncode == 130, err
        assert "nothing is lost" in err
        result = cli.run(file, "--mode", mode, environ=environ)
        assert result.code == 0, result.err
        assert "continues" in result.err
        assert result.json["succeeded"] == 200
        assert all(own_answer(row) for row in read_csv(Path(result.json["output"])))
        assert server.billed == 200


@pytest.mark.parametrize("mode", ["batch", "concurrent"])
def test_killed_half_way_the_same_command_goes_on(cli: Cli, tmp_path: Path, mode: str) -> None:
    file = write_csv(cli.folder / "a.csv", losses(300))
    with sandbox_server(tmp_path / "s", {"batch_seconds": 1.0, "call_ms": 40}) as server:
        environ = {
            **server.environ(),
            "BATCH_JOBS__PROVIDERS__OPENAI__LIMITS__MAX_REQUESTS": "100",
            "BATCH_JOBS__CONCURRENT__MAX_WORKERS": "4",
        }
        case = ("--task", "summarize", "--data-case", "external_loss", "--mode", mode, "--yes")
        process = cli.start("run", "--file", file, *case, environ=environ)
        if mode == "batch":
            wait_until(lambda: job_phase(cli) == "running" and "submitted" in shard_states(cli))
        else:
            wait_until(lambda: job_phase(cli) == "running" and server.billed > 50)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        result = cli.run(file, "--mode", mode, environ=environ)
        assert result.code == 0, result.err
        assert "continues" in result.err
        assert result.json["succeeded"] == 300
        assert all(own_answer(row) for row in read_csv(Path(result.json["output"])))
        calls = server.billed
        assert calls == 300 if mode == "batch" else 300 <= calls <= 308  # the calls in flight at the kill


def test_the_output_never_replaces_a_file_but_an_explicit_one_does(cli: Cli) -> None:
    file = write_csv(cli.folder / "a.csv", losses(4))
    (cli.folder / "a.summarize.csv").write_text("mine")
    first, second = cli.run(file), cli.run(file)
    assert Path(first.json["output"]).name == "a.summarize-2.csv"
    assert Path(second.json["output"]).name == "a.summarize-3.csv"
    assert (cli.folder / "a.summarize.csv").read_text() == "mine"
    again = cli("status", second.json["task_id"], "--download", "--json")
    assert again.json["output"] == second.json["output"]  # delivered already
    explicit = cli.run(file, "--output", cli.folder / "a.summarize.csv")
    assert explicit.code == 0
    assert "summarize_status" in (cli.folder / "a.summarize.csv").read_text()
    missing = cli.run(file, "--output", cli.folder / "no" / "a.csv")
    assert missing.code == 2


def test_rebuild_store_makes_the_same_folders_again(cli: Cli) -> None:
    assert cli.run(write_csv(cli.folder / "a.csv", losses(25)), "--mode", "batch").code == 0
    processed = cli.folder / "store" / "external_loss" / "processed"
    before = contents(processed)
    assert len(before) == 50
    for path in sorted(processed.rglob("*.json"))[:30]:
        path.unlink()
    result = cli("rebuild-store", "--json")
    assert result.code == 0, result.err
    assert result.json == {"filed": 25, "to_process": 0}
    assert contents(processed) == before


def test_rebuild_store_passes_over_a_job_that_never_came_to_a_plan(cli: Cli) -> None:
    done = cli.run(write_csv(cli.folder / "a.csv", losses(5)))
    assert done.code == 0
    with sqlite3.connect(cli.folder / "store" / "ledger.sqlite") as connection:
        connection.execute("UPDATE jobs SET plan = ?, outcome = 'cancelled'", (json.dumps({"result": {}}),))
    assert cli("rebuild-store", "--json").json == {"filed": 0, "to_process": 0}


def test_a_killed_run_leaves_no_render_worker_behind(cli: Cli) -> None:
    file = write_csv(cli.folder / "a.csv", losses(40_000))
    process = cli.start("run", "--file", file, "--task", "summarize", "--data-case", "external_loss", "--yes")
    wait_until(lambda: any(cli.folder.glob("batch_input/*/plan/index-*.parquet")))  # the workers are at work
    workers = children_of(process.pid)
    assert workers
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=30)  # ends only when nobody holds the pipes any more
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers))


def children_of(pid: int) -> list[int]:
    """The processes that a process has started and that live."""
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.json")}


def test_init_makes_a_project_that_works(cli: Cli, tmp_path: Path) -> None:
    made = cli("init", tmp_path / "fresh")
    assert made.code == 0, made.err
    again = cli("init", tmp_path / "fresh")
    assert again.code == 2
    fresh = Cli(tmp_path / "fresh", cli.environ)
    result: Result = fresh.run(Path("examples/external_loss.csv"), "--mode", "batch")
    assert result.code == 0, result.err
    assert result.json["rows"] == 200


def test_a_rehearsal_is_followed_up_without_saying_sandbox_again(cli: Cli) -> None:
    file = write_csv(cli.folder / "a.csv", losses(12))
    without_keys = Cli(cli.folder)
    left = without_keys.run(file, "--sandbox", "--detach")
    assert left.code == 0, left.err
    assert left.json["simulated"] is True
    done = without_keys("status", left.json["task_id"][:10], "--watch", "--json")
    assert done.code == 0, done.err
    assert done.json["succeeded"] == 12
    manifest = json.loads((cli.folder / "batch_output" / left.json["task_id"] / "manifest.json").read_text())
    assert manifest["job"]["1"]["simulated"] is True
    log = (cli.folder / "batch_output" / left.json["task_id"] / "job.log").read_text()
    assert "simulated" in log
    real = cli.run(file, "--mode", "batch")  # the same file for real: no simulated answer is taken for a real one
    assert (real.json["simulated"], real.json["sent"], real.json["from_cache"]) == (False, 12, 0)
