"""`python -m benchmarks`: run the lines, print the table, write results.json and the page; non-zero when a bar fails.

A bar may be missed by a tenth: below that a shared machine can't tell a change from a disturbance.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import orjson

from benchmarks import report
from benchmarks.lines import Line, Outcome, failing, not_run
from benchmarks.measure import ProgramFailed
from benchmarks.stage import FULL_ROWS, ROOT, Stage
from benchmarks.topics import calls, groups, jobs, merging, peers, rendering, startup, stores, workbooks

LINES: tuple[Line, ...] = (
    *rendering.LINES,
    *groups.LINES,
    *merging.LINES,
    *stores.LINES,
    *jobs.LINES,
    *workbooks.LINES,
    *calls.LINES,
    *peers.LINES,
    *startup.LINES,
)
RESULTS = ROOT / "benchmarks" / "results.json"
PAGE = ROOT / "docs" / "performance.md"
EXIT_MISSED = 1
EXIT_USAGE = 2


def chosen(names: Sequence[str], *, large: bool) -> list[Line]:
    """The lines to run: those named, or all; the large ones only when asked for.

    Raises:
        ValueError: a name is not there; lists what is.
    """
    there = {line.name: line for line in LINES}
    for name in names:
        if name not in there:
            raise ValueError(f'there is no line "{name}" (there is: {", ".join(there)})')
    return [line for line in LINES if (line.name in names if names else large or not line.large)]


def run_lines(lines: Sequence[Line], stage: Stage) -> list[Outcome]:
    """Run lines one after the other; one that fails is an outcome too, and stops no other."""
    outcomes: list[Outcome] = []
    for line in lines:
        began = time.monotonic()
        try:
            found = list(line.run(stage))
        except ProgramFailed as error:
            found = [not_run(line.name, line.promise, str(error), broken=True)]
        for outcome in found:
            stage.say(f"{outcome.what}: {report.figure(outcome.figure, outcome.unit)} ({outcome.said})")
        stage.say(f"{line.name} took {time.monotonic() - began:.0f} s")
        outcomes += found
    return outcomes


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure the product against its bars.")
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="run this line; may be repeated")
    parser.add_argument("--large", action="store_true", help="also the job of 1,000,000 rows")
    parser.add_argument("--json", action="store_true", help="print the results as JSON instead of the table")
    parser.add_argument(
        "--rows", type=int, default=FULL_ROWS, metavar="N", help="scale all lines: N rows stand for %(default)s"
    )
    parser.add_argument("--repeats", type=int, default=3, help="how often each pair is run at most")
    parser.add_argument("--folder", type=Path, help="where the temporary folder is made: the disk that is measured")
    parser.add_argument("--dry", action="store_true", help="write no results.json and no page; so does --rows")
    parser.add_argument("--list", action="store_true", help="only list the lines")
    return parser


def _say(text: str) -> None:
    sys.stderr.write(f"  bench  {text}\n")
    sys.stderr.flush()


def _write(outcomes: Sequence[Outcome]) -> None:
    """results.json and the table of the page; lines that were not run stay as an earlier run left them."""
    all_of_them = report.kept(RESULTS, outcomes, [line.name for line in LINES])
    RESULTS.write_bytes(orjson.dumps(report.results(all_of_them), option=orjson.OPT_INDENT_2) + b"\n")
    page = report.put_between_markers(PAGE.read_text(encoding="utf-8"), report.markdown(all_of_them))
    PAGE.write_text(page, encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it all; 1 when a bar is missed by more than a tenth, or a line could not be run."""
    parser = _parser()
    given = parser.parse_args(arguments)
    try:
        lines = chosen(given.only, large=given.large)
    except ValueError as error:
        parser.error(str(error))
    if given.list:
        sys.stdout.write("".join(f"{line.name:10} {line.promise}\n" for line in lines))
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    with tempfile.TemporaryDirectory(prefix="batch-jobs-bench-", dir=given.folder) as folder:
        stage = Stage(Path(folder), given.rows, given.repeats, say=_say)
        try:
            told = report.about(given.rows, FULL_ROWS)
            outcomes = [replace(outcome, run=told) for outcome in run_lines(lines, stage)]
        finally:
            stage.close()
    if not given.dry and given.rows == FULL_ROWS:
        _write(outcomes)
    shown = orjson.dumps(report.results(outcomes), option=orjson.OPT_INDENT_2).decode() if given.json else None
    sys.stdout.write((shown or f"{report.plain(outcomes)}\n\n{report.summary(outcomes)}") + "\n")
    return EXIT_MISSED if failing(outcomes) else 0


if __name__ == "__main__":
    sys.exit(main())
