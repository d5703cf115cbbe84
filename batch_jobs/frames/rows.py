"""From a DataFrame to the upload of a job: the columns that a prompt sees, as text, a line a row.

The frame itself is never changed. Rows that hold nothing, or what no request can carry, are not sent: each is told why.
"""

from __future__ import annotations

import csv
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from batch_jobs.config import nearest
from batch_jobs.errors import FileRefused, UserError
from batch_jobs.table import free_names

if TYPE_CHECKING:
    import pandas as pd

FRAME = "the DataFrame"
SHOWN_ROWS = 5
KEY = "row"
UPLOAD = "dataframe.csv"
MAX_NAME_CHARS = 1_000


@dataclass(frozen=True, slots=True)
class Chosen:
    """Which columns of a frame a job gets.

    Attributes:
        key: name of the upload's first column, the row's position from 0; none of the others has it.
        labels: name in the upload -> the frame's own label.
        shown: names of those that the prompt shows as data; a row in which all of them are empty is not sent.
    """

    key: str
    labels: dict[str, Hashable]
    shown: tuple[str, ...]


def shown_columns(
    frame: pd.DataFrame, text_col: str | Sequence[str] | Mapping[str, str] | None, without: str | None
) -> dict[str, str]:
    """The columns that a row shows, by name, and what each holds.

    Args:
        frame: the user's.
        text_col: one, several, or several with what they hold; None for all.
        without: the column that names the row, left out of all of them.

    Raises:
        UserError: one is not there, or the frame has none.
    """
    if isinstance(text_col, Mapping):
        given = {str(name): str(meaning) for name, meaning in text_col.items()}
    elif text_col is None:
        given = {str(label): "" for label in frame.columns if str(label) != without}
    else:
        several = isinstance(text_col, Iterable) and not isinstance(text_col, str)
        given = dict.fromkeys(map(str, text_col) if several else [str(text_col)], "")
    if not given:
        raise UserError("text_col: there is no column to show; give the names of one or more")
    return given


def choose(frame: pd.DataFrame, shown: Iterable[str], further: Iterable[str], id_col: str | None) -> Chosen:
    """Look the columns up in the frame.

    Args:
        frame: the user's.
        shown: names that a row shows.
        further: names that the prompt names itself.
        id_col: name of the column that names a row.

    Raises:
        FileRefused: one is not there, or more than one has the name.
    """
    by_name: dict[str, list[Hashable]] = {}
    for label in frame.columns:
        by_name.setdefault(str(label), []).append(label)
    wanted = [*([id_col] if id_col is not None else []), *shown, *further]
    labels = {name: _label_of(name, by_name) for name in wanted}
    (key,) = free_names([KEY], labels)
    return Chosen(key, labels, tuple(shown))


def _label_of(name: str, by_name: Mapping[str, Sequence[Hashable]]) -> Hashable:
    """The frame's own label of the one column that has this name."""
    found = by_name.get(name, ())
    if not found:
        fix = f"It has {', '.join(by_name)}" if by_name else "It has no columns"
        raise FileRefused(f"there is no such column{nearest(name, by_name)}", file=FRAME, column=name, fix=fix)
    if len(found) > 1:
        raise FileRefused("more than one column has this name", file=FRAME, column=name, fix="Rename one of them")
    if not name or name != name.strip().strip("\ufeff").strip() or _why_not(name, MAX_NAME_CHARS):
        raise FileRefused("this is no name that can be shown", file=FRAME, column=name, fix="Rename the column")
    return found[0]


def check_ids(frame: pd.DataFrame, id_col: str, label: Hashable) -> None:
    """Check that a column names each row, and each by another name.

    Raises:
        FileRefused: it does not; shows where.
    """
    column = frame[label]
    empty = column.isna() | (column.astype(object).map(str).str.strip() == "")
    if empty.any():
        problem = f"id_col has to be complete, and {int(empty.sum()):,} rows have none ({_at(frame, empty)})"
        raise FileRefused(problem, file=FRAME, column=id_col, fix="Fill it, or leave id_col out")
    doubled = column.map(str).duplicated(keep=False)
    if doubled.any():
        problem = f"id_col has to be unique, and {int(doubled.sum()):,} rows share theirs ({_at(frame, doubled)})"
        raise FileRefused(problem, file=FRAME, column=id_col, fix="Give each row its own, or leave id_col out")


def _at(frame: pd.DataFrame, mask: Any) -> str:
    labels = [repr(label) for label in frame.index[mask.to_numpy()][:SHOWN_ROWS]]
    more = ", ..." if int(mask.sum()) > SHOWN_ROWS else ""
    return f"index {', '.join(labels)}{more}"


def texts_of(frame: pd.DataFrame, chosen: Chosen) -> dict[str, list[str]]:
    """The chosen columns as text, by name; what is missing is empty."""
    texts = {}
    for name, label in chosen.labels.items():
        column = frame[label]
        missing = column.isna().tolist()
        texts[name] = ["" if gone else str(value) for value, gone in zip(column.tolist(), missing, strict=True)]
    return texts


def unsendable(texts: Mapping[str, Sequence[str]], chosen: Chosen, max_cell_chars: int) -> dict[int, str]:
    """Which rows no request can carry, by position, and why."""
    problems: dict[int, str] = {}
    for name, column in texts.items():
        for position, text in enumerate(column):
            why = _why_not(text, max_cell_chars)
            if why is not None:
                problems.setdefault(position, f'column "{name}" {why}')
    for position, cells in enumerate(zip(*(texts[name] for name in chosen.shown), strict=True)):
        if not any(cell and not cell.isspace() for cell in cells):
            problems[position] = "there is no text in column " + ", ".join(chosen.shown[:SHOWN_ROWS])
    return problems


def _why_not(text: str, max_cell_chars: int) -> str | None:
    if len(text) > max_cell_chars:
        return f"has {len(text):,} characters, more than the {max_cell_chars:,} that are taken (intake.max_cell_chars)"
    if "\0" in text:
        return "holds a NUL character"
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            return "holds half of a character (a lone surrogate)"
    return None


def write_upload(
    texts: Mapping[str, Sequence[str]], chosen: Chosen, problems: Mapping[int, str], rows: int, target: Path
) -> int:
    """Write the rows that can be sent as a table that intake takes; the one place that knows its format.

    Returns:
        How many were written.
    """
    written = 0
    with target.open("w", encoding="utf-8-sig", newline="") as handle:  # with its mark nobody has to guess the encoding
        writer = csv.writer(handle, quoting=csv.QUOTE_ALL, lineterminator="\n")
        writer.writerow([chosen.key, *texts])
        for position, cells in enumerate(zip(*texts.values(), strict=True)):
            if position not in problems:
                writer.writerow([str(position), *cells])
                written += 1
    assert written == rows - len(problems)
    return written
