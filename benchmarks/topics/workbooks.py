"""An xlsx in and out again, against the bare libraries that read and write the same cells."""

from __future__ import annotations

from datetime import date, datetime, time
from pathlib import Path

from benchmarks.lines import Line, Outcome, Unit, at_most
from benchmarks.measure import fastest
from benchmarks.stage import DATA_CASE, PRODUCT, SEED, Stage, side

WORKBOOK_ROWS = 100_000
MORE_COLUMNS = ("reviewed", "score")


def workbook_line(stage: Stage) -> list[Outcome]:
    """Intake to the snapshot and output with two columns more, against calamine and xlsxwriter: whole processes."""
    rows, into = stage.rows(WORKBOOK_ROWS), stage.folder / "workbook"
    into.mkdir()
    given = {"file": _workbook(stage, rows), "into": into}
    mine, floor = stage.alternate(
        lambda: stage.program("product", "workbook", given), lambda: stage.program("floors", "workbook", given)
    )
    stage.drop(into)
    product, other = side(PRODUCT, fastest(mine), rows), side("floor", fastest(floor), rows)
    what = f"xlsx in and out, {rows:,} rows x 10 columns: time"
    return [Outcome("xlsx", what, Unit.TIMES, product.seconds / other.seconds, at_most(2), product, other)]


def _workbook(stage: Stage, rows: int) -> Path:
    """A workbook as Excel writes it (shared strings), 10 columns: text, dates, numbers and booleans."""
    import xlsxwriter

    from scripts.make_mock_data import Event, events

    path = stage.folder / f"losses-{rows}.xlsx"
    if path.exists():
        return path
    stage.say(f"making {path.name}")
    with xlsxwriter.Workbook(path) as book:
        sheet = book.add_worksheet("events")
        days = book.add_format({"num_format": "yyyy-mm-dd"})
        sheet.write_row(0, 0, [*Event._fields, *MORE_COLUMNS])
        for number, event in enumerate(events(rows, SEED, DATA_CASE), 1):
            for column, value in enumerate([*event, number % 3 == 0, number / 8]):
                if isinstance(value, date):
                    sheet.write_datetime(number, column, datetime.combine(value, time()), days)
                elif isinstance(value, str):
                    sheet.write_string(number, column, value)
                else:
                    sheet.write(number, column, value)
    return path


LINES = (Line("xlsx", "xlsx, 100,000 rows in and out: <= 2 x calamine + xlsxwriter", workbook_line),)
