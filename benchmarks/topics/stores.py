"""The folder store: a folder a row, as people browse it, against the bare system calls."""

from __future__ import annotations

from benchmarks.lines import Line, Outcome, at_least, ratio
from benchmarks.measure import Sample, fastest
from benchmarks.stage import PRODUCT, Stage, inner

FOLDER_ROWS = 20_000


def folder_line(stage: Stage) -> list[Outcome]:
    """`FolderStore.file` against mkdir, write and rename with the same syncs; the work alone."""
    rows, into = stage.rows(FOLDER_ROWS), stage.folder / "folders"

    def one(module: str) -> Sample:
        stage.drop(into)
        sample = stage.program(module, "folders", {"rows": rows, "into": into})
        stage.drop(into)
        return sample

    mine, floor = stage.alternate(lambda: one("product"), lambda: one("floors"))
    quick, other = (fastest(samples, lambda s: float(s.report["seconds"])) for samples in (mine, floor))
    product, bare = inner(PRODUCT, quick, rows), inner("floor", other, rows)
    return [ratio("folders", f"folder store, {rows:,} rows", product, bare, at_least(0.8))]


LINES = (Line("folders", "folder store, 20,000 rows: >= 0.8 x the floor", folder_line),)
