"""From a job's answers back to the DataFrame: the same rows, with the answer's fields as typed columns and a status."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from batch_jobs.lifecycle.answers import RowAnswer
from batch_jobs.render.answers import ModelOutput
from batch_jobs.render.field_types import types_of
from batch_jobs.storage.files import atomic_file
from batch_jobs.table import free_names

if TYPE_CHECKING:
    import pandas as pd
    from pydantic import BaseModel

OK = "ok"
STATUS = "status"
DTYPES = {"string": "str", "integer": "Int64", "number": "Float64", "boolean": "boolean"}
"""pandas' own types that can hold a missing value; anything else is a column of objects."""


def status_of(reason: str | None) -> str:
    """What the status column says."""
    return OK if reason is None else f"failed: {reason}"


def with_answers(
    frame: pd.DataFrame,
    answers: Iterable[RowAnswer],
    problems: Mapping[int, str],
    schema: Mapping[str, Any],
    model: type[BaseModel] | None = None,
) -> pd.DataFrame:
    """Put the answers beside their rows.

    Args:
        frame: the user's; it stays as it is.
        answers: each with its row's position as its first cell.
        problems: rows that were not sent, by position.
        schema: of the answers.
        model: checks each answer once more and fills in its defaults, where the schema came from a pydantic model.

    Returns:
        A frame with the same rows, index, columns and types, and the new columns behind them.
    """
    fields = list(schema["properties"])
    values: dict[str, list[object]] = {name: [None] * len(frame) for name in fields}
    status = ["failed: it was not sent"] * len(frame)
    for position, why in problems.items():
        status[position] = status_of(why)
    output = None if model is None else ModelOutput.of(model)
    for given in answers:
        position, reason, answer = int(given.row), given.reason, given.answer
        if reason is None and output is not None:
            answer, reason = checked(answer, output)
        status[position] = status_of(reason)
        for name in fields if reason is None else ():
            values[name][position] = answer.get(name)
    return _beside(frame, {name: typed(values[name], kind_of(schema, name)) for name in fields}, status)


def _beside(frame: pd.DataFrame, columns: Mapping[str, Any], status: Sequence[str]) -> pd.DataFrame:
    import pandas as pd

    result = frame.copy(deep=False)
    values = [*columns.values(), pd.array(list(status), dtype="str")]
    for name, column in zip(free_names([*columns, STATUS], map(str, frame.columns)), values, strict=True):
        result[name] = column
    return result


def checked(answer: Mapping[str, Any], output: ModelOutput) -> tuple[dict[str, Any], str | None]:
    """Read an answer as the user's own model; what it refuses is that row's failure."""
    try:
        found = output.read(json.dumps(answer))
    except ValueError as error:
        return {}, f"invalid answer ({error})"
    return {**answer, **(found if isinstance(found, dict) else {})}, None  # a field with an alias goes by the alias


def kind_of(schema: Mapping[str, Any], field: str) -> str | None:
    """The one JSON type that a field's values have, null aside; None where there is no such."""
    kinds = types_of(schema, field) - {"null"}
    return kinds.pop() if len(kinds) == 1 else None


def typed(values: list[object], kind: str | None) -> Any:
    """Values as a column of their type; those that do not fit into it (2**64) make it one of objects."""
    import numpy as np
    import pandas as pd

    if kind in DTYPES:
        try:
            column: Any = pd.array(cast(Any, values), dtype=cast(Any, DTYPES[kind]))
            return column
        except (TypeError, ValueError, OverflowError):
            pass
    objects = np.empty(len(values), dtype=object)
    for position, value in enumerate(values):  # at once, lists would become a dimension
        objects[position] = value
    return objects


def keep_frame(frame: pd.DataFrame, target: Path) -> bool:
    """Keep a frame for another process, if it can be had back exactly as it is.

    Returns:
        Whether it is kept. Parquet can't hold objects of mixed types, doubled column names, and the like.
    """
    import pandas as pd

    try:
        with atomic_file(target) as handle:
            frame.to_parquet(handle)
        pd.testing.assert_frame_equal(pd.read_parquet(target), frame, check_freq=False, check_exact=True)
    except (AssertionError, TypeError, ValueError, NotImplementedError):  # pyarrow's errors are among them
        target.unlink(missing_ok=True)
        return False
    return True


def kept_frame(source: Path) -> pd.DataFrame | None:
    """A frame that was kept; None where it could not be."""
    import pandas as pd

    return pd.read_parquet(source) if source.exists() else None
