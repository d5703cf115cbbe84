"""From a file to request lines: intake, plan and render together, and rendering alone by one and two workers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from benchmarks.lines import Line, Outcome, at_least, ratio
from benchmarks.measure import Sample, fastest
from benchmarks.stage import FULL_ROWS, PRODUCT, Stage, inner, packed_environ, side


@dataclass(frozen=True, slots=True)
class Planned:
    """A project with one planned job."""

    project: Path
    task_id: str


def _plan(stage: Stage) -> Sample:
    project, file = stage.project("planned"), stage.table(stage.rows(FULL_ROWS))
    environ = {**stage.server.environ, **packed_environ()}
    sample = stage.program("product", "plan", {"project": project, "file": file}, environ=environ)
    stage.kept["planned"] = Planned(project, str(sample.report["task_id"]))
    return sample


def planned(stage: Stage) -> Planned:
    """The planned job of 200,000 rows that several lines go on with."""
    if "planned" not in stage.kept:
        _plan(stage)
    found = stage.kept["planned"]
    assert isinstance(found, Planned)
    return found


def plan_line(stage: Stage) -> list[Outcome]:
    """Intake, plan and render against read, format, orjson, write: whole processes, imports included."""
    rows = stage.rows(FULL_ROWS)
    file, target = stage.table(rows), stage.folder / "floor.jsonl"
    mine, floor = stage.alternate(
        lambda: _plan(stage), lambda: stage.program("floors", "render", {"file": file, "into": target})
    )
    product, other = side(PRODUCT, fastest(mine), rows), side("floor", fastest(floor), rows)
    return [ratio("plan", f"intake + plan + render, {rows:,} rows", product, other, at_least(0.8))]


def render_line(stage: Stage) -> list[Outcome]:
    """`render_all` with two workers against one, starting the workers included."""
    rows, job = stage.rows(FULL_ROWS), planned(stage)
    into = stage.folder / "rendered"

    def by(workers: int) -> Sample:
        given = {"project": job.project, "task_id": job.task_id, "into": into, "workers": workers}
        sample = stage.program("product", "render", given)
        stage.drop(into)
        return sample

    two, one = stage.alternate(lambda: by(2), lambda: by(1))
    quick, slow = (fastest(samples, lambda s: float(s.report["seconds"])) for samples in (two, one))
    product, other = inner("two workers", quick, rows), inner("one worker", slow, rows)
    return [ratio("render", f"rendering alone, {rows:,} rows, two workers", product, other, at_least(1.7))]


LINES = (
    Line("plan", "intake + plan + render of 200,000 rows: >= 0.8 x the floor", plan_line),
    Line("render", "rendering alone, two workers against one: >= 1.7 x", render_line),
)
