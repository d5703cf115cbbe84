"""Of the rows that share an item and an identity the first stands for all, in whatever order they come."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from batch_jobs.render.places import firsts_of_places


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(rows=st.lists(st.tuples(st.none() | st.integers(0, 3), st.integers(0, 2)), max_size=12))
def test_the_first_row_of_each_place_is_marked(tmp_path: Path, rows: list[tuple[int | None, int]]) -> None:
    items = pa.array([item for item, _ in rows], pa.int64())
    identities = pa.array([f"{identity:064x}"[::-1] for _, identity in rows], pa.string())
    pq.write_table(pa.table({"item": items, "identity": identities}), tmp_path / "rows.parquet", row_group_size=3)
    marks = firsts_of_places(tmp_path, len(rows), 4)
    expected = [
        item is not None and rows.index((item, identity)) == number for number, (item, identity) in enumerate(rows)
    ]
    assert list(map(bool, marks)) == expected
