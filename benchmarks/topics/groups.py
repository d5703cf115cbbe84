"""A job with groups: what its plan takes on disk, where each row's request shows ten rows of its group."""

from __future__ import annotations

import csv
import json
from pathlib import Path

from benchmarks.lines import Line, Outcome, Side, Unit, at_most
from benchmarks.samples import row_details
from benchmarks.stage import DATA_CASE, PRODUCT, TASK, Stage, packed_environ

GROUPED_ROWS = 20_000
ROWS_A_GROUP = 100
SHOWN_ROWS = 10
MOST_MEGABYTES = 25.0
PROMPT = """\
schema:
  type: object
  properties: {summary: {type: string, minLength: 1}}
  required: [summary]
system: |
  {task_description} {data_description}
  {columns}
  Answer with one JSON object of this schema: {llm_schema}
user: |
  The events of the branch:
  {group}
  The one to speak of:
  {context}
"""


def groups_line(stage: Stage) -> list[Outcome]:
    """The plan folder of 20,000 rows in 200 groups, whose rows are scattered over the file."""
    rows, project = stage.rows(GROUPED_ROWS), stage.project("grouped")
    _ask_by_group(project)
    given = {"project": project, "file": _table(project / "grouped.csv", rows)}
    sample = stage.program("product", "plan", given, environ={**stage.server.environ, **packed_environ()})
    plan = project / "batch_input" / str(sample.report["task_id"]) / "plan"
    taken, repeated = _bytes_of(plan), _requests_bytes(plan)
    stage.drop(project)
    what = f"plan folder, {rows:,} rows in groups of {ROWS_A_GROUP}"
    note = f"the requests alone are {repeated / 1e6:.0f} MB, {repeated / rows / 1e3:.1f} KB a row"
    product = Side(PRODUCT, sample.seconds, rows, sample.peak_bytes)
    limit = at_most(MOST_MEGABYTES * rows / GROUPED_ROWS)
    return [Outcome("groups", what, Unit.MEGABYTES, taken / 1e6, limit, product, note=note)]


def _ask_by_group(project: Path) -> None:
    (project / "prompt_lib" / "grouped.yaml").write_text(PROMPT, "utf-8")
    config = json.loads((project / "config.json").read_text("utf-8"))
    task = config["tasks"][TASK]
    task["prompt"] = "grouped.yaml"
    task["data_cases"][DATA_CASE]["grouping"] = {
        "mode": "row_output_with_group_context",
        "columns": ["branch"],
        "max_rows_per_group": SHOWN_ROWS,
    }
    (project / "config.json").write_text(json.dumps(config), "utf-8")


def _table(path: Path, rows: int) -> Path:
    """Rows of all groups in turn: the file's order brings none of a group together."""
    groups = max(rows // ROWS_A_GROUP, 1)
    with path.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.DictWriter(handle, ["branch", *row_details(0)])
        writer.writeheader()
        writer.writerows({"branch": f"branch {number % groups}", **row_details(number)} for number in range(rows))
    return path


def _bytes_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _requests_bytes(plan: Path) -> int:
    from batch_jobs.render.items import read_lengths

    return sum(read_lengths(plan))


LINES = (Line("groups", "plan folder, 20,000 rows in 200 groups, 5 KB a request: <= 25 MB in all", groups_line),)
