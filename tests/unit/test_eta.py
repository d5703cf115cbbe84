"""Remaining time: from the provider's counts, else from earlier batches, else not said."""

from __future__ import annotations

from typing import Any

import pytest

from batch_jobs.lifecycle.eta import round_eta
from batch_jobs.models import ShardState
from batch_jobs.storage.shards import Shard

NOW = 10_000.0


def shard(age: float | None = 100.0, **changes: Any) -> Shard:
    values: dict[str, Any] = {
        "task_id": "t",
        "round": 0,
        "shard": 0,
        "shard_key": "k",
        "state": ShardState.SUBMITTED,
        "requests": 100,
        "bytes": 1,
        "sha256": "",
        "account": "",
        "model": "",
        "rendered_at": 0.0,
        "submitted_at": None if age is None else NOW - age,
    }
    return Shard(**{**values, **changes})


@pytest.mark.parametrize(
    ("shards", "typical", "expected"),
    [
        ([], None, None),
        ([], 60.0, None),
        ([shard()], None, None),
        ([shard()], 250.0, 150.0),
        ([shard()], 50.0, 0.0),
        ([shard(finished=50)], None, 100.0),
        ([shard(finished=50)], 9999.0, 100.0),
        ([shard(finished=100)], None, 0.0),
        ([shard(finished=1)], None, 9900.0),
        ([shard(finished=50), shard(finished=25)], None, 300.0),
        ([shard(finished=50), shard()], None, 100.0),
        ([shard(state=ShardState.MERGED, finished=1)], 9999.0, None),
        ([shard(state=ShardState.RENDERED, age=None)], 9999.0, None),
        ([shard(age=None)], 60.0, pytest.approx(60, abs=0.01)),
        ([shard(age=-50, finished=50)], None, pytest.approx(0, abs=0.01)),
    ],
)
def test_the_slowest_waiting_batch_decides(shards: list[Shard], typical: float | None, expected: float | None) -> None:
    assert round_eta(shards, typical, NOW) == expected
