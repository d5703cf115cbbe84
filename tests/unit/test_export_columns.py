"""Names and kinds of an export's columns: the user's own stay, ours step aside; types by the answer's schema."""

from __future__ import annotations

from typing import Any

import pytest

from batch_jobs.lifecycle.export_rows import FIRST, LAST, columns_of, kind_of
from batch_jobs.models import Mode, Parameters
from batch_jobs.output.export import ValueKind
from batch_jobs.render.answers import JsonOutput
from batch_jobs.storage.jobs import Job
from batch_jobs.table import FileKind, TableFormat


def job_with(*columns: str) -> Job:
    return Job(
        task_id="a" * 32,
        task="t",
        data_case="d",
        provider="openai",
        dialect="openai",
        endpoint=None,
        model="m",
        parameters=Parameters(),
        mode=Mode.BATCH,
        account="x",
        simulated=True,
        file_name="a.csv",
        file_sha256="",
        suffix=".csv",
        format=TableFormat(FileKind.TEXT),
        columns=columns,
        output_columns={},
        rows=1,
        created_at=0.0,
    )


def answer(**fields: Any) -> JsonOutput:
    return JsonOutput({"type": "object", "properties": fields, "$defs": DEFS}, "A")


DEFS = {"Severity": {"enum": ["low", "high"]}, "Loop": {"$ref": "#/$defs/Loop"}}


def test_the_columns_and_their_order() -> None:
    columns = columns_of(job_with("id", "text"), answer(summary={"type": "string"}, sure={"type": "number"}))
    assert [column.name for column in columns] == [*FIRST, "id", "text", "summary", "sure", *LAST]
    assert columns[-5].kind is ValueKind.NUMBER


def test_a_name_of_the_file_stays_and_ours_get_the_next_number_that_is_free() -> None:
    columns = columns_of(job_with("item", "item_2", "status", "summary"), answer(summary={}, outcome={}))
    names = [column.name for column in columns]
    assert names == [
        *("row_number", "item_3", "identity", "group_key"),
        *("item", "item_2", "status", "summary"),
        *("summary_2", "outcome"),
        *("status_2", "outcome_2", "verdict", "score"),
    ]


@pytest.mark.parametrize(
    ("field", "kind"),
    [
        ({"type": "string"}, ValueKind.TEXT),
        ({"type": "integer"}, ValueKind.INTEGER),
        ({"type": ["integer", "null"]}, ValueKind.INTEGER),
        ({"type": ["integer", "number"]}, ValueKind.NUMBER),
        ({"type": ["string", "integer"]}, ValueKind.JSON),
        ({"anyOf": [{"type": "boolean"}, {"type": "null"}]}, ValueKind.BOOLEAN),
        ({"enum": ["a", None]}, ValueKind.TEXT),
        ({"enum": ["a", 1]}, ValueKind.JSON),
        ({"const": True}, ValueKind.BOOLEAN),
        ({"$ref": "#/$defs/Severity"}, ValueKind.TEXT),
        ({"$ref": "#/$defs/Loop"}, ValueKind.JSON),
        ({"type": "array", "items": {"type": "string"}}, ValueKind.JSON),
        ({"type": "null"}, ValueKind.JSON),
        ({}, ValueKind.JSON),
        (True, ValueKind.JSON),
    ],
)
def test_the_kind_of_a_field(field: object, kind: ValueKind) -> None:
    assert kind_of({"type": "object", "properties": {"x": field}, "$defs": DEFS}, "x") is kind
