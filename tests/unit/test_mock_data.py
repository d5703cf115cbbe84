"""The mock data: the same for the same seed, as varied as real tables, and readable in both formats.

Rows are looked at directly; the command line is run as a process.
"""

from __future__ import annotations

import csv
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime
from decimal import Decimal
from pathlib import Path

import pytest
from openpyxl import load_workbook

from scripts.make_mock_data import DATA_CASES, Event, events, main, write_csv

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "make_mock_data.py"
MANY = list(events(5_000, 1, "external_loss"))
COLUMNS = [
    *("event_id", "event_date", "business_line", "country"),
    *("amount_eur", "DescriptionOfEvent", "nfr_taxonomy", "comment"),
]


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, encoding="utf-8", check=False)


def read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, strict=True))


class TestEvents:
    def test_equal_seeds_give_equal_rows(self) -> None:
        assert list(events(300, 5, "external_loss")) == list(events(300, 5, "external_loss"))
        assert list(events(300, 5, "external_loss")) != list(events(300, 6, "external_loss"))

    def test_a_short_run_is_the_beginning_of_a_long_one(self) -> None:
        assert list(events(100, 1, "external_loss")) == MANY[:100]

    def test_about_two_percent_are_reported_twice_and_all_others_are_unique(self) -> None:
        first: dict[str, Event] = {}
        repeated = [event for event in MANY if first.setdefault(event.DescriptionOfEvent, event) is not event]
        assert 0.01 < len(repeated) / len(MANY) < 0.03
        for event in repeated:
            original = first[event.DescriptionOfEvent]
            assert event.nfr_taxonomy == original.nfr_taxonomy
            assert event.event_id != original.event_id
            assert event.comment == "reported again"

    def test_each_new_event_names_its_own_reference(self) -> None:
        for event in MANY:
            if event.comment != "reported again":
                assert f"-{event.event_id})" in event.DescriptionOfEvent

    @pytest.mark.parametrize("data_case", DATA_CASES)
    def test_descriptions_have_the_length_of_real_ones(self, data_case: str) -> None:
        lengths = [len(event.DescriptionOfEvent) for event in events(3_000, 2, data_case)]
        assert min(lengths) >= 200
        assert max(lengths) <= 700

    def test_ids_are_unique_with_leading_zeros(self) -> None:
        assert [event.event_id for event in MANY] == [f"{number:07d}" for number in range(1, 5_001)]

    def test_mandatory_cells_are_filled_and_optional_ones_partly(self) -> None:
        assert all(event.DescriptionOfEvent and event.nfr_taxonomy for event in MANY)
        for name in ("country", "amount_eur", "comment"):
            empty = sum(getattr(event, name) in (None, "") for event in MANY)
            assert 0.02 < empty / len(MANY) < 0.6, name

    @pytest.mark.parametrize(
        "piece", ['"', "\n", "\n\n", ";", "|", ",", "ü", "é", "ß", "«", "{name}", "</data_points>"]
    )
    def test_descriptions_hold_what_breaks_careless_readers(self, piece: str) -> None:
        assert any(piece in event.DescriptionOfEvent for event in MANY[:200])

    @pytest.mark.parametrize("comment", ["NA", "1e5", "007", "-5% fee, =see note", "first line\nsecond line", ""])
    def test_comments_hold_words_that_look_like_something_else(self, comment: str) -> None:
        assert any(event.comment == comment for event in MANY[:20])

    def test_the_data_cases_differ_in_whose_loss_it_is(self) -> None:
        external, internal = (" ".join(e.DescriptionOfEvent for e in events(50, 1, case)) for case in DATA_CASES)
        assert "our " in internal.lower() and "INT-" in internal and "EXT-" not in internal
        assert "our office" not in external.lower() and "EXT-" in external and "INT-" not in external


class TestFiles:
    @pytest.mark.parametrize("data_case", DATA_CASES)
    def test_csv_reads_back_as_the_events(self, tmp_path: Path, data_case: str) -> None:
        target = tmp_path / "a.csv"
        assert main(["--rows", "50", "--seed", "3", "--data-case", data_case, "--output", str(target)]) == 0
        rows = read(target)
        assert list(rows[0]) == COLUMNS
        for row, event in zip(rows, events(50, 3, data_case), strict=True):
            assert list(row.values()) == ["" if cell is None else str(cell) for cell in event]

    def test_xlsx_keeps_ids_as_text_and_amounts_as_numbers(self, tmp_path: Path) -> None:
        target = tmp_path / "a.xlsx"
        assert main(["--rows", "60", "--seed", "3", "--output", str(target)]) == 0
        book = load_workbook(target)
        header, *rows = book["events"].iter_rows()
        assert [cell.value for cell in header] == COLUMNS
        for row, event in zip(rows, events(60, 3, "external_loss"), strict=True):
            number, day, *_, amount, text, taxonomy, comment = row
            assert (number.value, number.data_type) == (event.event_id, "s")
            assert isinstance(day.value, datetime) and day.value.date() == event.event_date
            assert (None if amount.value is None else Decimal(str(amount.value))) == event.amount_eur
            assert (text.value, taxonomy.value, comment.value or "") == event[5:]
            assert "f" not in {cell.data_type for cell in row}
        book.close()

    def test_csv_is_written_as_the_rows_come(self, tmp_path: Path) -> None:
        target = tmp_path / "a.csv"
        sizes: list[int] = []

        def watched() -> Iterator[Event]:
            for event in MANY:
                sizes.append(target.stat().st_size)
                yield event

        write_csv(watched(), target)
        assert sizes[0] == 0 and 0 < sizes[2_500] < target.stat().st_size

    def test_the_example_is_what_the_script_makes(self, tmp_path: Path) -> None:
        assert main(["--rows", "200", "--seed", "4", "--output", str(tmp_path / "a.csv")]) == 0
        assert (tmp_path / "a.csv").read_bytes() == (ROOT / "examples" / "external_loss.csv").read_bytes()


class TestCommandLine:
    def test_prints_the_path_and_one_line(self, tmp_path: Path) -> None:
        done = run(tmp_path, "--rows", "12")
        path, summary = done.stdout.splitlines()
        assert (done.returncode, done.stderr) == (0, "")
        assert path == "external_loss_12.csv"
        assert summary == f"12 rows of external_loss, seed 4, {(tmp_path / path).stat().st_size:,} bytes"
        assert [item.name for item in tmp_path.iterdir()] == [path]

    def test_help_names_every_option(self, tmp_path: Path) -> None:
        done = run(tmp_path, "--help")
        assert done.returncode == 0
        for option in ("--rows N", "--seed S", "--format {csv,xlsx}", "--output PATH", "--data-case", "example: "):
            assert option in done.stdout

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (["--rows", "0"], "--rows 0: must be 1 or more"),
            (["--rows", "many"], "argument --rows: invalid int value: 'many'"),
            (["--rows", "2000000", "--format", "xlsx"], "holds 1,048,575 data rows at most; use --format csv"),
            (["--output", "a.txt"], "--output a.txt: the name must end in .csv or .xlsx"),
            (["--output", "a"], "--output a: the name must end in .csv or .xlsx"),
            (["--output", "a", "--format", "csv"], "--output a: the name must end in .csv"),
            (["--output", "a.csv", "--format", "xlsx"], "--output a.csv: the name must end in .xlsx"),
            (["--data-case", "other"], "argument --data-case: invalid choice: 'other'"),
            (["--output", "nowhere/a.csv"], "nowhere/a.csv can't be written: No such file or directory"),
            (["--output", "file/a.csv"], "file/a.csv can't be written: Not a directory"),
            (["--output", "dir.csv"], "dir.csv can't be written: Is a directory"),
        ],
    )
    def test_refuses_with_a_reason_and_leaves_nothing(self, tmp_path: Path, arguments: list[str], said: str) -> None:
        (tmp_path / "file").touch()
        (tmp_path / "dir.csv").mkdir()
        done = run(tmp_path, *arguments)
        assert done.returncode == 2
        assert said in done.stderr
        assert "Traceback" not in done.stderr
        assert sorted(item.name for item in tmp_path.rglob("*")) == ["dir.csv", "file"]
