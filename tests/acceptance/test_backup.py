"""docs/backup.md by its own commands: back up while a job is under way, restore elsewhere, check, finish the job."""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from tests.acceptance.kit import (
    Cli,
    Result,
    Sandbox,
    clean_environ,
    losses,
    own_answer,
    read_csv,
    sandbox_server,
    write_csv,
)
from tests.acceptance.test_endings import job_phase, shard_states, wait_until
from tests.conftest import REPOSITORY

ROWS = 200
WORKERS = 4
PAGE = (REPOSITORY / "docs" / "backup.md").read_text(encoding="utf-8")


def commands(heading: str, number: int = 0) -> str:
    """A block of commands below a heading of the page."""
    section = re.split(r"^## ", PAGE, flags=re.MULTILINE)
    text = next(part for part in section if part.startswith(heading))
    return str(re.findall(r"```bash\n(.*?)```", text, re.DOTALL)[number])


def shell(cli: Cli, block: str, **variables: str | Path) -> Result:
    """Run a block as somebody would paste it, with `python3` and `batch-jobs` on the path; it ends at a failure."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environ = clean_environ({**cli.environ, "PATH": path, **{name: str(value) for name, value in variables.items()}})
    command = ["bash", "-e", "-c", block]
    done = subprocess.run(
        command, check=False, env=environ, cwd=cli.folder, capture_output=True, text=True, timeout=120
    )
    return Result(done.returncode, done.stdout, done.stderr)


def known_to(cache: Path) -> int:
    """Answers that a call cache holds."""
    connection = sqlite3.connect(cache)
    number = connection.execute("SELECT count(*) FROM answers").fetchone()[0]
    connection.close()
    return int(number)


def under_way(cli: Cli, server: Sandbox, mode: str) -> subprocess.Popen[str]:
    """A job of 200 rows that has got to the middle."""
    case = ("--task", "summarize", "--data-case", "external_loss", "--mode", mode, "--yes")
    process = cli.start("run", "--file", write_csv(cli.folder / "a.csv", losses(ROWS)), *case)
    states = ["merged", *["submitted"] * 4]
    if mode == "batch":
        wait_until(lambda: job_phase(cli) == "running" and sorted(shard_states(cli)) == states)
    else:
        wait_until(lambda: job_phase(cli) == "running" and server.billed > ROWS // 4)
    return process


@pytest.mark.parametrize("mode", ["batch", "concurrent"])
def test_a_backup_while_running_is_restored_checked_and_finished(cli: Cli, tmp_path: Path, mode: str) -> None:
    with sandbox_server(tmp_path / "s", {"batch_seconds": 6, "call_ms": 60}) as server:
        cli.environ = {
            **server.environ(),
            "BATCH_JOBS__PROVIDERS__OPENAI__LIMITS__MAX_REQUESTS": "50",
            "BATCH_JOBS__CONCURRENT__MAX_WORKERS": str(WORKERS),
        }
        earlier = cli.run(write_csv(cli.folder / "done.csv", losses(10, start=1_000)), "--mode", mode)
        assert earlier.code == 0, earlier.err
        process = under_way(cli, server, mode)
        backup, restored = tmp_path / "backup", tmp_path / "restored"
        made = shell(cli, commands("Back up"), PROJECT=cli.folder, BACKUP=backup)
        assert made.code == 0, made.err
        assert process.poll() is None, "the job was to be under way"
        assert shell(cli, commands("Back up"), PROJECT=cli.folder, BACKUP=backup).code != 0  # never written over
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        paid, known = server.billed, known_to(backup / "store" / "call_cache.sqlite")

        back = shell(cli, commands("Restore"), BACKUP=backup, RESTORED=restored)
        assert back.code == 0, back.out + back.err
        assert "all agrees" in back.out
        assert "skipped" not in back.out
        check_finished(Cli(restored, cli.environ), cli, tmp_path / "out.csv")

        if mode == "batch":
            assert server.billed == ROWS + 10  # every batch was known to the backup: none is paid twice
            assert server.ask("creates")["total"] == 5
        else:  # only what was answered after the cache's copy is asked again, and what was in flight at the kill
            asked_again = ROWS + 10 - known
            assert asked_again <= server.billed - paid <= asked_again + WORKERS


def check_finished(restored: Cli, old: Cli, output: Path) -> None:
    """Let the restored root finish its job, by the page's command; every row gets its own answer."""
    (task_id,) = {job["task_id"] for job in json.loads(restored("jobs", "--json").out) if job["status"] != "done"}
    resume = commands("Restore", 1).strip().replace('"${TASK_ID:?}"', f'"{task_id}" --output "{output}"')
    done = shell(restored, resume)
    assert done.code == 0, done.out + done.err
    rows = read_csv(output)
    assert len(rows) == ROWS
    assert all(own_answer(row) for row in rows)
    checked = restored("check-store", "--json")
    assert (checked.code, checked.json["findings"]) == (0, []), checked.out
    assert checked.json["checked"]["answers"] == ROWS + 10
