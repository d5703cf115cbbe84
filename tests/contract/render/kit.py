"""Small snapshots, prompts that misbehave, and what came of rendering them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import orjson

from batch_jobs.models import SHEET_ROW, Dialect, Parameters
from batch_jobs.render.bodies import BodyReader
from batch_jobs.render.items import PlannedItem, PlannedRow, read_items, read_rows
from batch_jobs.render.join import join_items
from batch_jobs.render.pool import render_all
from batch_jobs.render.spec import RenderSpec
from batch_jobs.render.worker import render_segment
from batch_jobs.workers import Workers

PROMPT = """
import json
import os
import sys

from pydantic import BaseModel


class Answer(BaseModel):
    summary: str


def render_test_prompt(data_case, row):
    what = row["what"]
    match what:
        case "RAISE":
            raise KeyError("no such thing")
        case "RAISE LONG":
            raise ValueError("x" * 10_000)
        case "RAISE SURROGATE":
            raise ValueError("bad: \\ud800")
        case "SURROGATE":
            return json.loads('"bad: \\\\ud800"')
        case "NOTHING":
            return ""
        case "NUMBER":
            return 5
        case "LEAVE":
            sys.exit("enough")
        case "DIE":
            os._exit(7)
    return "Fixed part.", f"[{what}]"
"""


@dataclass(frozen=True)
class Plan:
    """A rendered and joined plan."""

    spec: RenderSpec

    @property
    def items(self) -> list[PlannedItem]:
        return list(read_items(self.spec.plan))

    @property
    def rows(self) -> list[PlannedRow]:
        return list(read_rows(self.spec.plan))

    def bodies(self) -> list[bytes]:
        with BodyReader(self.spec.plan) as reader:
            return [reader.read(item) for item in self.items]

    def texts(self) -> list[str]:
        return [str(orjson.loads(body)["messages"][-1]["content"]) for body in self.bodies()]

    def fingerprints(self) -> list[bytes]:
        return [item.fingerprint for item in self.items]


def write_snapshot(path: Path, columns: Mapping[str, Sequence[str]], group_rows: int, first: int = 2) -> None:
    """A snapshot as intake writes it; sheet rows count from `first`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    total = len(next(iter(columns.values())))
    names = [SHEET_ROW, *columns]
    arrays = [pa.array(range(first, first + total), pa.int64()), *(pa.array(v, pa.string()) for v in columns.values())]
    pq.write_table(pa.table(arrays, names=names), path, row_group_size=group_rows)


def make_spec(
    folder: Path, columns: Mapping[str, Sequence[str]], *, group_rows: int = 10_000, **changes: Any
) -> RenderSpec:
    """A snapshot, a prompt and a spec in a fresh folder."""
    (folder / "prompt").mkdir(parents=True, exist_ok=True)
    (folder / "prompt" / "test_prompt.py").write_text(PROMPT)
    write_snapshot(folder / "rows.parquet", columns, group_rows)
    spec = RenderSpec(
        snapshot=folder / "rows.parquet",
        plan=folder / "plan",
        prompt_folder=folder / "prompt",
        prompt_file="test_prompt.py",
        task_description="Test.",
        data_case="case",
        data_case_description="Case.",
        mandatory_columns={"what": "What."},
        identity_columns=("what",),
        realm="openai",
        dialect=Dialect.OPENAI,
        endpoint="/v1/chat/completions",
        model="model-1",
        parameters=Parameters(),
    )
    return replace(spec, **changes)


def by_pool(spec: RenderSpec, workers: Workers | None = None) -> Plan:
    """Render by the real process pool."""
    render_all(spec, lambda _: None, workers or Workers())
    join_items(spec.plan)
    return Plan(spec)


def in_process(spec: RenderSpec) -> Plan:
    """Render the same segments here, one after the other: what a pool must not change."""
    import pyarrow.parquet as pq

    spec.plan.mkdir(parents=True, exist_ok=True)
    first = 0
    for segment in range(pq.read_metadata(spec.snapshot).num_row_groups):
        first += render_segment(spec, segment, first)
    join_items(spec.plan)
    return Plan(spec)
