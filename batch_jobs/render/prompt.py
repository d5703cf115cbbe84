"""A prompt: what the LLM has to answer, and the two texts of each row, whatever kind of file it was written in."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from batch_jobs.models import GroupMode
from batch_jobs.render.answers import OutputSchema
from batch_jobs.render.context import MANDATORY, ContextRules


@dataclass(frozen=True, slots=True)
class DataCaseView:
    """What a prompt function gets to know from config.json, as its `data_case`.

    Attributes:
        name: the data case's name (`external_loss`).
        description: what kind of table it is.
        mandatory_columns: column name -> what it holds, in config order.
        task_description: what the task is.
        context: how a row is shown where a prompt says {context}.
        grouping: what the rows of a group have to do with each other.
        group: the rows of the row's group, as a text that is the same for all of them; empty where nothing is grouped.
    """

    name: str
    description: str
    mandatory_columns: dict[str, str]
    task_description: str
    context: ContextRules = MANDATORY
    grouping: GroupMode = GroupMode.NONE
    group: str = ""


class Rendered(NamedTuple):
    """A row's texts.

    Attributes:
        fixed: the same for all rows; may be empty.
        text: the row's part.
        cut: characters of the row that were left out of it.
        shared: what is the same for all rows of its group, sent between the two; may be empty.
    """

    fixed: str
    text: str
    cut: int = 0
    shared: str = ""


@dataclass(frozen=True, slots=True)
class Prompt:
    """A loaded and checked prompt. Not picklable: each process loads its own.

    Attributes:
        path: where it was loaded from.
        sha256: of all that it consists of, in hex.
        output: what the LLM has to answer.
        render: makes a text, or (fixed part, row's part), or (fixed part, group's part, row's part), of
            `(data_case, row)`; call it through `rendered` below.
        files: all that it consists of.
        columns: that it names and the table must therefore have; a prompt module does not tell.
        placeholders: of the row's text, in order; None where that is left out, or written in Python.
    """

    path: Path
    sha256: str
    output: OutputSchema
    render: Callable[[DataCaseView, Mapping[str, str]], object]
    files: tuple[Path, ...]
    columns: tuple[str, ...] = ()
    placeholders: tuple[str, ...] | None = None


def rendered(prompt: Prompt, data_case: DataCaseView, row: Mapping[str, str]) -> Rendered:
    """Render one row.

    Args:
        prompt: the prompt.
        data_case: what config.json says about the table.
        row: column name -> cell, for this row alone.

    Raises:
        ValueError: the prompt returned something else than that.
        Exception: whatever the prompt itself raises; it is this row's failure.
    """
    result = prompt.render(data_case, row)
    parts = ("", result) if isinstance(result, str) else result
    if not isinstance(parts, Rendered):
        if not (isinstance(parts, tuple) and len(parts) in (2, 3) and all(isinstance(part, str) for part in parts)):
            raise ValueError(_wrong(prompt, data_case, result))
        if len(parts) == 2:
            parts = Rendered(*parts)
        elif data_case.grouping is GroupMode.CONTEXT:
            parts = Rendered(parts[0], parts[2], shared=parts[1])
        else:
            raise ValueError(_wrong(prompt, data_case, result))
    if not parts.text.strip():
        raise ValueError(f"{prompt.path.name} returned an empty text for this row")
    return parts


def _wrong(prompt: Prompt, data_case: DataCaseView, result: object) -> str:
    more = ", or (fixed, group_part, row_part)" if data_case.grouping is GroupMode.CONTEXT else ""
    return f"{prompt.path.name} returned {_kind(result)}; it must return a str or (fixed, row_part){more}"


def _kind(value: object) -> str:
    if isinstance(value, tuple):
        return f"a tuple of ({', '.join(type(part).__name__ for part in value)})"
    return type(value).__name__


def sha256_of_parts(*parts: bytes) -> str:
    """The hex sha256 of a prompt's files, its own first; of one file, it is that file's."""
    return hashlib.sha256(b"\0".join(parts)).hexdigest()
