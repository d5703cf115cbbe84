"""The packed layout from the command line: run, query, unpack, check, rebuild."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.acceptance.kit import Cli, Result, losses, write_csv
from tests.conftest import REPOSITORY

ROWS = 12
PACKED = {"BATCH_JOBS__STORE__LAYOUT": "packed"}
Damage = Callable[[Path], None]


@pytest.fixture
def job(cli: Cli) -> tuple[Path, str]:
    """A done job that was packed: its segment and its task_id."""
    rows = [*losses(ROWS), *losses(3)]
    done = cli.run(write_csv(cli.folder / "a.csv", rows), "--mode", "batch", environ=PACKED)
    assert done.code == 0, done.err
    (segment,) = (cli.folder / "store" / "external_loss" / "processed").iterdir()
    assert segment.name == f"summarize-{done.json['task_id']}.parquet"
    return segment, done.json["task_id"]


def test_the_query_of_the_readme(cli: Cli, job: tuple[Path, str]) -> None:
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    (line,) = re.findall(r"^python (-c \"import duckdb.*)$", readme, re.MULTILINE)
    command = ["bash", "-c", f"{shlex.quote(sys.executable)} {line}"]
    shown = subprocess.run(command, cwd=cli.folder, capture_output=True, text=True, check=True, timeout=60)
    assert re.search(r"│ Cyber +│ Event 1 at Bank1: ", shown.stdout), shown.stdout


def test_unpack_writes_folders_that_other_programs_find(cli: Cli, job: tuple[Path, str]) -> None:
    segment, task_id = job
    whole = cli("unpack", task_id[:12], "--json")
    assert whole.code == 0, whole.err
    assert whole.json == {"unpacked": ROWS, "folders": [str(segment.parent)]}
    folders = [path for path in segment.parent.iterdir() if path.is_dir()]
    assert len(folders) == ROWS
    for folder in folders:
        details = json.loads((folder / "meta_data" / "details.json").read_bytes())
        answer = json.loads((folder / "ai_results" / "summarize.json").read_bytes())["answer"]
        assert details["DescriptionOfEvent"].split()[1] in answer["summary"]
    again = cli("unpack", "--identity", folders[0].name)
    assert (again.code, "1 result into" in again.out) == (0, True)
    assert cli("check-store").code == 0
    shutil.rmtree(folders[0])
    assert cli("rebuild-store", "--json").json == {"filed": ROWS, "to_process": 0}
    assert [path.name for path in segment.parent.iterdir()] == [segment.name]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ([], 2, "nothing is selected: give a TASK_ID, --identity or --limit"),
        (["--identity", "short"], 2, "64 characters"),
        (["--identity", "0" * 64], 2, "there is no packed result of identity 000"),
        (["ffffffff"], 2, "there is no job ffffffff"),
        (["--limit", "0"], 2, "--limit"),
    ],
)
def test_a_selection_that_can_not_be_is_refused(cli: Cli, arguments: list[str], code: int, words: str) -> None:
    result = cli("unpack", *arguments)
    assert (result.code, words in result.err) == (code, True), result.err
    assert "Traceback" not in result.err


def rewritten(change: Callable[[list[dict[str, object]]], list[dict[str, object]]]) -> Damage:
    """A whole Parquet file with other lines."""

    def damage(segment: Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        table = pq.read_table(segment)
        pq.write_table(pa.Table.from_pylist(change(table.to_pylist()), table.schema), segment)

    return damage


def cut(segment: Path) -> None:
    segment.write_bytes(segment.read_bytes()[:900])


def edit(segment_lines: list[dict[str, object]]) -> list[dict[str, object]]:
    segment_lines[4]["answer"] = '{"summary":"somebody\'s own words"}'
    return segment_lines


def swap_details(segment_lines: list[dict[str, object]]) -> list[dict[str, object]]:
    segment_lines[4]["details"] = segment_lines[5]["details"]
    return segment_lines


DAMAGES: dict[str, tuple[Damage, str]] = {
    "gone": (lambda segment: segment.unlink(), "is not there"),
    "cut": (cut, "can't be read"),
    "an answer edited": (rewritten(edit), "was changed (answer)"),
    "details of another row": (rewritten(swap_details), "was changed (details)"),
    "a line gone": (rewritten(lambda lines: lines[:4] + lines[5:]), "is missing, or not in its place"),
    "two lines swapped": (rewritten(lambda lines: [lines[1], lines[0], *lines[2:]]), "not in its place"),
    "a line twice": (rewritten(lambda lines: [*lines, lines[-1]]), "is no result of the job"),
    "no line left": (rewritten(lambda _: []), "is missing, or not in its place"),
}


def check(cli: Cli) -> Result:
    return cli("check-store", "--json")


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_found_and_mended(cli: Cli, job: tuple[Path, str], name: str) -> None:
    segment, task_id = job
    healthy = check(cli)
    assert (healthy.code, healthy.json["findings"]) == (0, []), healthy.out
    assert healthy.json["checked"]["packed"] == ROWS
    before = segment.read_bytes()
    damage, words = DAMAGES[name]
    damage(segment)
    found = check(cli)
    assert found.code == 3, found.out
    (finding,) = found.json["findings"]
    assert (finding["kind"], finding["task_id"]) == ("segment", task_id)
    assert str(segment) in finding["place"]
    assert words in finding["problem"]
    assert "rebuild-store" in finding["fix"]
    assert cli("rebuild-store").code == 0
    assert segment.read_bytes() == before
    assert check(cli).code == 0


def test_what_still_waits_for_a_done_job_is_a_harmless_leftover(cli: Cli, job: tuple[Path, str]) -> None:
    segment, _ = job
    waiting = segment.parent.parent / "to_process" / segment.name
    waiting.parent.mkdir(exist_ok=True)
    shutil.copy(segment, waiting)
    found = check(cli)
    assert (found.code, found.json["findings"][0]["kind"]) == (0, "leftover")
    assert found.json["findings"][0]["place"] == str(waiting)
