"""From raw result files to the user's file: validation, cache, ledger, store and output together."""

from __future__ import annotations

from dataclasses import replace

from benchmarks.lines import Line, Outcome, Side, at_least, at_most, memory, ratio
from benchmarks.measure import Sample, fastest
from benchmarks.stage import FULL_ROWS, PRODUCT, Stage, inner, packed_environ
from benchmarks.topics.rendering import planned

NO_LAYOUT = "the product has no packed store yet: a folder a row"


def merge_line(stage: Stage) -> list[Outcome]:
    """A fetched job to its end, against parsing the result lines and writing the csv; the work alone, no imports.

    The product's side can be run once only: merged is merged.
    """
    rows, job = stage.rows(FULL_ROWS), planned(stage)
    del stage.kept["planned"]  # it is used up here
    environ = {**stage.server.environ, **packed_environ(), "BATCH_JOBS__PROVIDERS__OPENAI__DELETE_AFTER_MERGE": "false"}
    given = {"project": job.project, "task_id": job.task_id}
    stage.program("product", "fetch", given, environ=environ)
    floor = {
        "results": job.project / "batch_output" / job.task_id,
        "file": stage.table(rows),
        "into": stage.folder / "floor.csv",
    }
    sides = [
        lambda: stage.program("product", "finish", given, environ=environ),
        lambda: stage.program("floors", "merge", floor),
    ]
    before = sides[1]()
    mine = sides[0]()
    best = fastest([before, sides[1]()], lambda sample: float(sample.report["seconds"]))
    stage.drop(job.project)
    product = inner(PRODUCT, mine, rows)
    other = replace(inner("floor", best, int(best.report["rows"])))
    note = "" if packed_environ() else NO_LAYOUT
    what = f"merge {rows:,} results to csv"
    return [
        ratio("merge", what, product, other, at_least(0.5), note),
        memory("merge", f"{what}: memory of the merging process", _own(mine, rows), at_most(300), "VmHWM"),
    ]


def _own(sample: Sample, rows: int) -> Side:
    """The merging process's own peak, as the kernel kept it."""
    return Side(PRODUCT, sample.seconds, rows, int(sample.report["peak_bytes"]))


LINES = (Line("merge", "merge 200,000 results to csv: >= 0.5 x the floor, memory <= 300 MB", merge_line),)
