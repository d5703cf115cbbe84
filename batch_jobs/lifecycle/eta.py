"""How long a round's batches will still take: pure arithmetic on what the providers count."""

from __future__ import annotations

from collections.abc import Sequence

from batch_jobs.models import ShardState
from batch_jobs.storage.shards import Shard


def round_eta(shards: Sequence[Shard], typical: float | None, now: float) -> float | None:
    """Seconds until the slowest waiting batch ends, or None when nothing tells.

    Args:
        shards: of the round under way.
        typical: how long earlier batches of this provider and model took, in seconds.
        now: unix seconds.
    """
    waiting = [shard for shard in shards if shard.state is ShardState.SUBMITTED]
    known = [eta for eta in (_shard_eta(shard, typical, now) for shard in waiting) if eta is not None]
    return max(known) if known else None


def _shard_eta(shard: Shard, typical: float | None, now: float) -> float | None:
    """From the provider's counts; else from how long earlier batches took."""
    age = max(now - (shard.submitted_at or now), 0.001)
    if shard.finished:
        return age * (shard.requests - shard.finished) / shard.finished
    return max(typical - age, 0.0) if typical is not None else None
