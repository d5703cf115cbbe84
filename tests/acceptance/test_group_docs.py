"""docs/groups.md, followed to the letter: both modes of groups, in both modes of sending, at every provider."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.acceptance.kit import Cli, Result, losses, own_answer, read_csv, write_csv
from tests.acceptance.pages import follow, page

PAGE = page("groups.md")
ROWS = 24
KINDS = ("Fraud", "Cyber", "Execution")


@pytest.fixture
def project(cli: Cli) -> Cli:
    """A project with the page's two tasks."""
    follow(cli, "groups.md", "prompt_lib/pattern.yaml", "prompt_lib/compare.yaml")
    return cli


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write_csv(tmp_path / "losses.csv", losses(ROWS))


def run(project: Cli, file: Path, task: str, *more: str | Path) -> Result:
    result = project("run", "--file", file, "--task", task, "--data-case", "external_loss", "--yes", *more)
    assert result.code == 0, result.err
    return result


def change(project: Cli, task: str, **grouping: Any) -> None:
    config = json.loads((project.folder / "config.json").read_text("utf-8"))
    config["tasks"][task]["data_cases"]["external_loss"]["grouping"].update(grouping)
    (project.folder / "config.json").write_text(json.dumps(config), "utf-8")


def sent(project: Cli) -> list[str]:
    """The lines of all requests, as they were sent."""
    found = [*project.folder.glob("batch_input/*/round-0/*.jsonl"), *project.folder.glob("batch_input/*/calls.jsonl")]
    return [line for path in found for line in path.read_text("utf-8").splitlines()]


def events_in(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"Event (\d+) at", text)]


@pytest.mark.parametrize("mode", ["batch", "concurrent"])
@pytest.mark.parametrize("provider", ["openai", "anthropic", "gemini"])
def test_one_answer_a_group(project: Cli, file: Path, provider: str, mode: str) -> None:
    more = ("--provider", provider, "--mode", mode)
    result = run(project, file, "pattern", *more, "--json")
    assert (result.json["rows"], result.json["items"]) == (ROWS, 3)
    rows = read_csv(file.with_name("losses.pattern.csv"))
    assert [{name: row[name] for name in losses(1)[0]} for row in rows] == losses(ROWS)
    assert all(row["pattern_status"] == "ok" for row in rows)
    answers = {row["nfr_taxonomy"]: row["pattern"] for row in rows}
    assert len(set(answers.values())) == 3
    assert all(row["pattern"] == answers[row["nfr_taxonomy"]] for row in rows)
    assert sorted(tuple(events_in(line)) for line in sent(project)) == [tuple(range(n, ROWS, 3)) for n in range(3)]


@pytest.mark.parametrize("mode", ["batch", "concurrent"])
@pytest.mark.parametrize("provider", ["openai", "anthropic", "gemini"])
def test_one_answer_a_row_in_sight_of_its_group(project: Cli, file: Path, provider: str, mode: str) -> None:
    change(project, "compare", max_rows_per_group=5)
    result = run(project, file, "compare", "--provider", provider, "--mode", mode)
    assert "groups        3 by nfr_taxonomy: each row sees its group\nleft out      9 rows of 3 groups" in result.out
    rows = read_csv(file.with_name("losses.compare.csv"))
    assert len(rows) == ROWS
    assert all(row["compare_status"] == "ok" and own_answer(row, "why") for row in rows)
    lines = sent(project)
    own = [events_in(line)[-1] for line in lines]
    shown = [events_in(line)[:-1] for line in lines]
    assert shown == [list(range(number % 3, 15, 3)) for number in own], "the group's first five, and no other's"
    in_order = [*range(0, ROWS, 3), *range(1, ROWS, 3), *range(2, ROWS, 3)]
    assert own == in_order if mode == "batch" else sorted(own) == sorted(in_order)


def test_a_line_a_group_can_be_had_besides(project: Cli, file: Path) -> None:
    task_id = run(project, file, "pattern", "--json").json["task_id"]
    answers = {row["nfr_taxonomy"]: row["pattern"] for row in read_csv(file.with_name("losses.pattern.csv"))}
    for _ in range(2):
        again = project("status", task_id, "--download", "--output-shape", "groups")
        assert again.code == 0, again.err
        groups = read_csv(file.with_name("losses.pattern.groups.csv"))
        own = {"rows": f"{ROWS // 3}", "pattern_status": "ok"}
        assert groups == [{"nfr_taxonomy": kind, **own, "pattern": answers[kind]} for kind in KINDS]
    assert len(list(file.parent.glob("losses.pattern*"))) == 2
    assert project("check-store").code == 0


def test_a_second_run_and_a_changed_cap(project: Cli, file: Path) -> None:
    """What was answered is known; another cap is another question; and what a group showed can't be changed unseen."""
    case = ("compare", "--mode", "batch", "--json")
    first = run(project, file, *case).json
    assert (first["items"], first["sent"]) == (ROWS, ROWS)
    assert run(project, file, *case).json["sent"] == 0
    change(project, "compare", max_rows_per_group=2)
    assert run(project, file, *case).json["sent"] == ROWS
    groups = project.folder / "batch_input" / first["task_id"] / "plan" / "groups.parquet"
    table = pq.read_table(groups)
    texts = table.column("text").to_pylist()
    pq.write_table(table.set_column(6, "text", pa.array([texts[1], *texts[1:]])), groups)
    damaged = project("check-store")
    assert damaged.code != 0
    assert "groups.parquet, group 0" in damaged.out
    manifest = json.loads((project.folder / "batch_output" / first["task_id"] / "manifest.json").read_bytes())
    (job,) = manifest["job"].values()
    assert (job["plan"]["grouped"]["groups"], job["plan"]["grouped"]["left_out_rows"]) == (3, 0)


def test_what_is_wrong_is_said_before_anything_is_kept(project: Cli, file: Path) -> None:
    def refused(task: str, *more: str) -> str:
        result = project("run", "--file", file, "--task", task, "--data-case", "external_loss", "--yes", *more)
        assert result.code == 2, result.err
        return result.err

    assert "--output-shape groups is for jobs with one answer a group" in refused("compare", "--output-shape", "groups")
    change(project, "pattern", columns=["nfr taxonmy"])
    change(project, "compare", columns=["nfr taxonmy"])
    assert 'grouped by what is no column: "nfr taxonmy" (did you mean "nfr_taxonomy"?)' in refused("pattern")
    change(project, "pattern", columns=["id"])
    assert "pattern.yaml: {nfr_taxonomy} differs from row to row, and with group_output" in refused("pattern")
    change(project, "compare", columns=["note"])
    assert "compare.yaml: {nfr_taxonomy} differs from row to row, so it has to stand behind" in refused("compare")
    change(project, "compare", columns=["nfr_taxonomy"])
    prompt = project.folder / "prompt_lib" / "compare.yaml"
    text = prompt.read_text("utf-8")
    prompt.write_text(text.replace("{group}\n", ""), "utf-8")
    assert "compare.yaml: never shows {group}, and grouping.mode of the data case is" in refused("compare")
    prompt.write_text(text.replace("{context}\n", ""), "utf-8")
    assert "compare.yaml: shows nothing of the row itself behind {group}: add {context}" in refused("compare")
    change(project, "compare", columns=[])
    assert 'grouping: mode "row_output_with_group_context" needs "columns"' in refused("compare")
    change(project, "compare", columns=["note"], mode="group")
    assert "grouping.mode: Input should be 'none', 'group_output' or" in refused("compare")
    assert not list(project.folder.glob("batch_input/*"))


def test_the_pages_python_prompt_and_groups_of_a_workbook(project: Cli, tmp_path: Path) -> None:
    from openpyxl import Workbook, load_workbook

    found = re.search(r"^```python\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    assert found
    model = "from typing import Literal\n\nfrom pydantic import BaseModel\n\n\nclass Standing(BaseModel):\n"
    module = f"{model}    standing: Literal['milder', 'worse']\n    reason: str\n\n\n{found[1]}"
    (project.folder / "prompt_lib" / "compare_prompt.py").write_text(module, "utf-8")
    config = json.loads((project.folder / "config.json").read_text("utf-8"))
    config["tasks"]["compare"]["prompt"] = "compare_prompt.py"
    (project.folder / "config.json").write_text(json.dumps(config), "utf-8")
    book, rows = Workbook(), losses(6)
    sheet = book.active
    assert sheet is not None
    for line in (list(rows[0]), *(list({**row, "nfr_taxonomy": "=1+1"}.values()) for row in rows)):
        sheet.append(line)
        for cell in sheet[sheet.max_row]:
            cell.data_type = "s"
    book.save(tmp_path / "losses.xlsx")
    run(project, tmp_path / "losses.xlsx", "compare", "--mode", "concurrent")
    assert all(Counter(events_in(line)) == Counter([*range(6), events_in(line)[-1]]) for line in sent(project))
    run(project, tmp_path / "losses.xlsx", "pattern", "--mode", "concurrent", "--output-shape", "groups")
    groups = load_workbook(tmp_path / "losses.pattern.groups.xlsx").active
    assert groups is not None
    lines = [[cell.value for cell in line] for line in groups.iter_rows()]
    assert [line[:2] for line in lines] == [["nfr_taxonomy", "rows"], ["'=1+1", "6"]]
