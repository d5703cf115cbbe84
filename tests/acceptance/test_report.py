"""docs/report.md, followed on a job with failures and hostile rows: the facts, the page, and that no cell is markup."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from html import unescape
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.browser import Browser, Page, running
from tests.acceptance.kit import Cli, losses, sandbox_server, write_csv
from tests.acceptance.pages import follow
from tests.conftest import REPOSITORY, _end_sandbox

DOCS = (REPOSITORY / "docs" / "report.md").read_text("utf-8")
KNOWN, ROWS = 5, 65
CALLED, CALL_MS, SLOW_SECONDS = 40, 20, 1.5
HOSTILE = (
    "<script>document.title='owned'</script> Payment one was lost.",
    '"><img src=http://evil.invalid/x onerror="console.log(\'owned\')"> Payment two was lost.',
    "</dd></dl><style>body{display:none}</style> {{ 7*7 }} {% raw %} Payment three was lost.",
    "| [click](http://evil.invalid/) ![x](http://evil.invalid/y) <!-- --> `code` www.evil.invalid Payment four.",
    "# heading\n\n- item \u202e reversed $x^2$ &lt;b&gt; Payment five was lost." + " long" * 300,
)
FAULTS = [
    {"kind": "item_refused", "match": "Event 7 at"},
    {"kind": "item_error", "match": "Event 20 at", "status": 400, "message": "request 11 has <b>no</b> policy | a$b$"},
    {"kind": "item_error", "match": "Event 30 at", "status": 400, "message": "request 12 has <b>no</b> policy | a$b$"},
    {"kind": "item_truncated", "match": "Event 40 at", "times": 1},
]
LIMITS = {"BATCH_JOBS__PROVIDERS__OPENAI__LIMITS__MAX_REQUESTS": "25"}


@dataclass(frozen=True)
class Told:
    """One job and what was told of it."""

    cli: Cli
    task_id: str
    folder: Path
    html: str
    markdown: str


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Told]:
    """A job of 65 rows, judged and reported: five known before, the others hostile, three that fail."""
    folder = tmp_path_factory.mktemp("report") / "project"
    shutil.copytree(REPOSITORY / "prompt_lib", folder / "prompt_lib", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(REPOSITORY / "config.json", folder)
    hostile = [
        {**row, "DescriptionOfEvent": f"{row['DescriptionOfEvent']} {HOSTILE[place % len(HOSTILE)]}"}
        for place, row in enumerate(losses(ROWS - KNOWN, start=KNOWN))
    ]
    with sandbox_server(folder.parent / "s", {"batch_seconds": 0.3, "faults": FAULTS}) as server:
        cli = Cli(folder, {**server.environ(), **LIMITS})
        assert cli.run(write_csv(folder / "first.csv", losses(KNOWN)), "--mode", "concurrent").code == 0
        file = write_csv(folder / "<i>losses<i> $&.csv", [*losses(KNOWN), *hostile])
        done = cli.run(file, "--mode", "batch")
    assert (done.code, done.json["failed"], done.json["from_cache"]) == (3, 3, KNOWN), done.err
    task_id = done.json["task_id"]
    assert f"report        how it went, in one page: batch-jobs report {task_id[:12]}" in done.err
    _judge(folder / "store" / "ledger.sqlite", task_id)
    (command,) = re.findall(r"^```bash\n(.*)\n```$", DOCS, re.MULTILINE)
    written = cli(*shlex.split(command.replace("TASK_ID", task_id))[1:])
    assert written.code == 0, written.err
    output = folder / "batch_output" / task_id
    yield Told(cli, task_id, output, (output / "report.html").read_text(), (output / "report.md").read_text())
    _end_sandbox(folder)


@pytest.fixture(scope="module")
def at_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Told]:
    """A judged job of 40 rows by single calls, one of which takes long; reported."""
    folder = tmp_path_factory.mktemp("at_once") / "project"
    shutil.copytree(REPOSITORY / "prompt_lib", folder / "prompt_lib", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(REPOSITORY / "config.json", folder)
    slow = {"kind": "slow_reply", "route": "call", "match": "Event 7 at", "times": 1, "seconds": SLOW_SECONDS}
    with sandbox_server(folder.parent / "s", {"call_ms": CALL_MS, "faults": [slow]}) as server:
        cli = Cli(folder, server.environ())
        follow(cli, "judge.md", "prompt_lib/severity_judged.yaml", "prompt_lib/strict_judge.yaml")
        case = ("--task", "severity_judged", "--data-case", "external_loss", "--mode", "concurrent", "--yes", "--json")
        done = cli("run", "--file", write_csv(folder / "losses.csv", losses(CALLED)), *case)
    assert done.code == 0, done.err
    task_id = done.json["task_id"]
    assert cli("report", task_id).code == 0
    output = folder / "batch_output" / task_id
    yield Told(cli, task_id, output, (output / "report.html").read_text(), (output / "report.md").read_text())
    _end_sandbox(folder)


def _judge(ledger: Path, task_id: str) -> None:
    """What a judge leaves in the ledger."""
    with sqlite3.connect(ledger) as connection:
        query = "SELECT item FROM items WHERE task_id = ? AND outcome = 'succeeded' ORDER BY item"
        for place, (item,) in enumerate(connection.execute(query, (task_id,)).fetchall()):
            said = ("reject", 0.3, "say <u>who</u> acted", 1) if place % 10 == 0 else ("accept", 1.0, None, 0)
            names = "task_id, item, step, verdict, score, feedback, repairs"
            connection.execute(
                f"INSERT INTO drafts ({names}) VALUES (?, ?, 'judge', ?, ?, ?, ?)", (task_id, item, *said)
            )


def plain(html: str) -> str:
    """A page's text."""
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]*>", " ", html.partition("<body>")[2])))


def test_the_page_and_the_text_say_what_happened(told: Told) -> None:
    text = plain(told.html)
    assert "62 of 65 rows were answered (95.4 %); 3 have no answer. It cost" in text
    for line in (
        "answered 57 87.7 %",
        "answered before, nothing was sent 5 7.7 %",
        "provider error 2 3.1 %",
        "refused by the model 1 1.5 %",
        "request 11 has <b>no</b> policy | a$b$ 2 3.1 % 22",
        "answered before 5 requests, for 5 rows: nothing was sent for them",
        "1 call paid for; 0 rows ended so",
        "59 once, 1 twice",
        "less (50 %).",
        "2026-11-21, litellm 1.106.2 price list",
        "reject 7",
        "reject, score 0.30: say <u>who</u> acted",
        "max output tokens 4096",
    ):
        assert line in text, line
    assert told.html.count("<article") == 20
    assert told.html.count('<article class="failed">') == 3
    assert told.html.count("<svg ") == 4
    assert "62 of 65 rows were answered (95.4 %)" in told.markdown
    assert "| provider error | 2 | 3.1 % |" in told.markdown
    assert told.markdown.count("\n### Row ") == 20


def test_written_again_it_is_the_same_wherever_it_is(told: Told, tmp_path: Path) -> None:
    again = told.cli("report", told.task_id[:8], "--output", tmp_path / "new", "--json")
    assert (again.code, again.json["done"]) == (0, True), again.err
    assert again.json["html"] == str(tmp_path / "new" / "report.html")
    elsewhere = (tmp_path / "new" / "report.html").read_text()
    links = re.findall(r'<a href="([^"]+)"', elsewhere)
    assert len(links) >= 9
    assert all((tmp_path / "new" / link).exists() for link in links)
    assert told.cli("report", told.task_id).code == 0
    assert (told.folder / "report.html").read_text() == told.html
    assert (told.folder / "report.md").read_text() == told.markdown
    assert re.sub(r'<a href="[^"]+"', "", elsewhere) == re.sub(r'<a href="[^"]+"', "", told.html)


def test_no_cell_is_markup(told: Told) -> None:
    tags = set(re.findall(r"<([a-z][a-z0-9]*)", told.html.partition("<body>")[2]))
    assert not tags & {"script", "img", "style", "iframe", "link", "object", "form", "u", "image", "foreignobject"}
    assert "onerror" not in re.sub(r">[^<]*<", "><", told.html)
    assert "<script>document.title='owned'</script>" in plain(told.html)
    assert "{{ 7*7 }} {% raw %}" in plain(told.html)
    assert "&lt;script&gt;" in told.markdown
    body = re.sub(r"^- .*?\]\(<.*>\)$", "", told.markdown, flags=re.MULTILINE)  # our own links
    assert not re.search(r"(?<!\\)[\[\]]|<(?!!-- batch-jobs)|(?<!\\)://|(?<!\\)\$|www\.|(?<!\\)`(?!``)(?<!``)", body)
    assert not [line for line in body.splitlines() if line.startswith("| ") and "| [" in line]
    assert len({line.count(" | ") for line in body.splitlines() if line.startswith("| provider")}) <= 2


def test_single_calls_are_told_by_how_long_they_took(told: Told, at_once: Told) -> None:
    (said,) = re.findall(r'<p class="note" id="latency-text">(.*?)</p>', at_once.html)
    times = r"half took up to [\d.]+ m?s, 19 of 20 up to [\d.]+ m?s, the slowest ([\d.]+ m?s)\."
    told_of = re.fullmatch(rf"40 calls for answers: {times} 40 calls for verdicts: {times}", said)
    assert told_of is not None, said
    slowest, unit = told_of[1].split()
    assert (float(slowest) >= SLOW_SECONDS, unit) == (True, "s")
    assert f"How long calls took: {said}" in at_once.markdown
    assert "| seconds | calls for answers | calls for verdicts |" in at_once.markdown
    assert "seconds of a call," not in at_once.html + at_once.markdown
    assert "How long calls took" not in told.html + told.markdown


def test_what_the_judge_cost_stands_by_itself(at_once: Told) -> None:
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in at_once.markdown.splitlines()]
    lines = {row[1]: row for row in cells if len(row) == 8 and row[2] == "succeeded"}
    assert {kind: row[3] for kind, row in lines.items()} == {"answers": "40", "verdicts": "40"}
    (total,) = [row for row in cells if row[:1] == ["all"] and len(row) == 8]
    paid = [float(row[7].lstrip("\\$")) for row in (*lines.values(), total)]
    assert min(paid) > 0
    assert paid[2] == pytest.approx(paid[0] + paid[1], abs=1e-4)


def test_where_a_call_is_not_a_row_calls_are_counted_over_time(told: Told, at_once: Told) -> None:
    assert "80 calls: half of them after" in at_once.html
    assert "Calls over time" in at_once.html
    assert "- all calls: after" in at_once.markdown
    assert "Answers over time" in told.html
    assert "- all answers: after" in told.markdown


def test_the_manifest_tells_counts_hashes_and_files(told: Told) -> None:
    (job,) = json.loads((told.folder / "manifest.json").read_text())["job"].values()
    items = {"total": 65, "from_cache": 5, "to_run": 60, "ok": 62, "failed": {"refused": 1, "errored": 2}, "open": 0}
    assert job["counts"]["items"] == items
    reasons = {"refused by the model": 1, "provider error": 2}
    assert job["counts"]["rows"] == {"total": 65, "answered": 62, "failed": 3, "reasons": reasons}
    assert job["parameters"]["max_output_tokens"] == 4096
    assert set(job["config_sha256"]) == {"task", "provider"}
    assert all(re.fullmatch(r"[0-9a-f]{64}", digest) for digest in job["config_sha256"].values())
    assert job["workers"]["processes"] >= 1
    assert all((told.folder / path).exists() for path in job["files"].values())
    kept = json.loads((told.folder / job["files"]["config"]).read_text())
    assert list(kept["task"]) == ["summarize"]
    assert list(kept["task"]["summarize"]["data_cases"]) == ["external_loss"]
    assert told.cli("check-store").code == 0


def test_what_is_not_a_report_stays(told: Told, tmp_path: Path) -> None:
    (tmp_path / "report.md").write_text("my own")
    refused = told.cli("report", told.task_id, "--output", tmp_path)
    assert (refused.code, "is there and is no report" in refused.err) == (2, True)
    assert [path.name for path in tmp_path.iterdir()] == ["report.md"]
    assert (tmp_path / "report.md").read_text() == "my own"
    for output, words in ((tmp_path / "report.md", "takes a folder"), (tmp_path / "a" / "b", "there is no folder")):
        refused = told.cli("report", told.task_id, "--output", output)
        assert (refused.code, words in refused.err) == (2, True), refused.err
    assert "which job?" in told.cli("report").err
    assert told.cli("report", "abcdef").code == 2


def test_a_job_under_way_is_marked_as_such(told: Told) -> None:
    file = write_csv(told.cli.folder / "slow.csv", losses(4, start=900))
    with sandbox_server(told.cli.folder.parent / "slow", {"batch_seconds": 600}) as server:
        cli = Cli(told.cli.folder, server.environ())
        task_id = cli.run(file, "--detach").json["task_id"]
        written = cli("report", task_id)
    assert written.code == 0, written.err
    text = plain((told.cli.folder / "batch_output" / task_id / "report.html").read_text())
    assert "Under way: 0 of 4 rows are answered, 4 are still to come." in text
    assert "The job is not done: these are the figures so far." in text


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with running() as browser:
        yield browser


OUTSIDE = """[...document.querySelectorAll('body *')].filter(e => !e.closest('.wide, svg') && e.getClientRects().length)
  .filter(e => e.tagName != 'CAPTION' && e.getBoundingClientRect().right > innerWidth + 1)
  .map(e => e.outerHTML.slice(0, 90))"""
CHARTS = """[...document.querySelectorAll('svg.chart')].map(svg => { const box = svg.getBoundingClientRect();
  const texts = [...svg.querySelectorAll('text')].map(text => text.getBoundingClientRect());
  const inside = texts.filter(t => t.left >= box.left - 2 && t.right <= box.right + 2 && t.bottom <= box.bottom + 2);
  return {width: box.width, height: box.height, texts: texts.length, inside: inside.length,
    role: svg.getAttribute('role'),
    drawn: [...svg.querySelectorAll('path')].filter(path => path.getBoundingClientRect().width > 0).length,
    named: svg.getAttribute('aria-labelledby').split(' ').every(id => document.getElementById(id)),
    told: document.getElementById(svg.getAttribute('aria-describedby')).textContent}; })"""
TABLES = """[...document.querySelectorAll('table')].every(table => table.caption && table.tHead.rows[0].cells.length &&
  [...table.rows].every(row => row.cells.length == table.tHead.rows[0].cells.length && row.cells[0].scope))"""
LABELS = """[...document.querySelector('svg[aria-labelledby=latency-title]').querySelectorAll('text')]
  .map(text => text.getBoundingClientRect()).filter((box, _, all) => Math.abs(box.top - all[0].top) < 2)
  .map(box => [box.left, box.right, box.top]).sort((one, other) => one[0] - other[0])"""
"""Left, right and top of each label of the axis of times; its first text is one of them."""
AXIS = """[...document.querySelector('svg[aria-labelledby=latency-title]').querySelectorAll('text')]
  .filter(text => text.textContent == '0').map(text => text.getBoundingClientRect().bottom).at(-1) - 4"""
"""Where the 0 of the axis of calls ends."""
IDS = "(all => all.length == new Set(all).size)([...document.querySelectorAll('[id]')].map(element => element.id))"


def looked_at(browser: Browser, told: Told, width: int, *, dark: bool = False) -> Page:
    page = browser.page()
    page.open((told.folder / "report.html").as_uri(), width, dark=dark)
    return page


@pytest.mark.parametrize("width", [1280, 390])
def test_a_browser_shows_the_page_as_it_is_meant(browser: Browser, told: Told, width: int) -> None:
    page = looked_at(browser, told, width)
    assert page.said == []
    assert page.requests == [(told.folder / "report.html").as_uri()]
    assert page.value("document.title") == "<i>losses<i> $&.csv: summarize"
    assert page.value("document.documentElement.scrollWidth") == width
    assert page.value(OUTSIDE) == []
    charts: list[dict[str, Any]] = page.value(CHARTS)
    assert len(charts) == 4
    for chart in charts:
        assert (chart["role"], chart["named"], bool(chart["told"])) == ("img", True, True)
        assert chart["width"] > 0.35 * width
        assert chart["height"] > 100
        assert chart["drawn"] > 3
        assert chart["texts"] == chart["inside"] > 4
    assert page.value(TABLES) is True
    assert page.value(IDS) is True
    assert page.value("document.querySelectorAll('script, img').length") == 0


@pytest.mark.parametrize("width", [1280, 390])
def test_a_browser_shows_how_long_calls_took(browser: Browser, at_once: Told, width: int) -> None:
    page = looked_at(browser, at_once, width)
    assert page.said == []
    assert (page.value("document.documentElement.scrollWidth"), page.value(OUTSIDE)) == (width, [])
    charts: list[dict[str, Any]] = page.value(CHARTS)
    (chart,) = [chart for chart in charts if "calls for verdicts" in chart["told"]]
    assert (chart["role"], chart["named"], chart["texts"] - chart["inside"]) == ("img", True, 0)
    assert chart["drawn"] > 8
    labels: list[list[float]] = page.value(LABELS)
    assert len(labels) >= 3
    assert all(left[1] < right[0] for left, right in pairwise(labels)), labels
    assert all(label[2] > page.value(AXIS) for label in labels)


def test_the_page_is_dark_where_the_reader_s_system_is(browser: Browser, told: Told) -> None:
    colours = "[document.body, document.querySelector('svg.chart text')].map(e => getComputedStyle(e))"
    look = f"(([body, text]) => [body.backgroundColor, body.color, text.fill])({colours})"
    light = looked_at(browser, told, 1280).value(look)
    dark = looked_at(browser, told, 1280, dark=True).value(look)
    assert all(one != other for one, other in zip(light, dark, strict=True)), (light, dark)


def test_the_browser_would_have_seen_it(browser: Browser, tmp_path: Path) -> None:
    """What the tests above rely on: a page that logs, loads and is too wide is noticed."""
    page, file = browser.page(), tmp_path / "bad.html"
    policy = "<meta http-equiv='Content-Security-Policy' content=\"default-src 'none'; script-src 'unsafe-inline'\">"
    file.write_text(f"{policy}<script>console.warn('seen')</script><img src='x.png'><hr style='width:2000px'>")
    page.open(file.as_uri(), 390)
    assert any("seen" in json.dumps(said) for said in page.said)
    assert any("Content Security Policy" in json.dumps(said) for said in page.said)
    file.write_text("<img src='x.png'><p style='width:2000px'>wide</p>")
    page = browser.page()
    page.open(file.as_uri(), 1280)
    assert len(page.requests) == 2
    assert page.value(OUTSIDE) != []
