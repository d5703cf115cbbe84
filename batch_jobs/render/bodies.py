"""Reads rendered bodies back, by where the plan says they lie; and cuts items into shards."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from batch_jobs.render.items import PlannedItem
from batch_jobs.render.worker import bodies_path


@dataclass
class BodyReader:
    """Bodies of one plan; use as a context manager. Read in order, it reads each segment's file through once."""

    plan: Path
    _open: dict[int, tuple[IO[bytes], int, bytes]] = field(default_factory=dict)

    def __enter__(self) -> BodyReader:
        return self

    def __exit__(self, *exc: object) -> None:
        for handle, _, _ in self._open.values():
            handle.close()

    def read(self, item: PlannedItem) -> bytes:
        """The body of one item, exactly as it was rendered."""
        if item.segment not in self._open:
            self._open[item.segment] = bodies_path(self.plan, item.segment).open("rb"), 0, b""
        handle, at, beginning = self._open[item.segment]
        if len(beginning) < item.shared or at != item.shared_at:
            handle.seek(item.shared_at)
            beginning = bytes(handle.read(item.shared))
            self._open[item.segment] = (handle, item.shared_at, beginning)
        if handle.tell() != item.offset:
            handle.seek(item.offset)
        return beginning[: item.shared] + handle.read(item.length - item.shared)


BYTES_PER_TOKEN = 4


def tokens_of(body_bytes: int) -> int:
    """What a body weighs in a provider's queue, estimated: a token for each 4 bytes begun."""
    return -(-body_bytes // BYTES_PER_TOKEN)


def cut(
    sizes: Iterable[int],
    max_requests: int,
    max_bytes: int,
    max_tokens: int | None = None,
    *,
    overhead_bytes: int = 0,
) -> Iterator[int]:
    """Cut a sequence of line sizes (bytes) into shards: yields how many lines each shard takes, in order.

    A line larger than a limit gets a shard of its own: the provider will say what it thinks of it.

    Args:
        sizes: of the lines, in bytes.
        max_requests: lines of a shard.
        max_bytes: bytes of a shard.
        max_tokens: estimated input tokens of a shard; None for no limit.
        overhead_bytes: of each line, what is around its body and no input of the model.
    """
    count = total = tokens = 0
    for size in sizes:
        weight = 0 if max_tokens is None else tokens_of(size - overhead_bytes)
        too_heavy = max_tokens is not None and tokens + weight > max_tokens
        if count and (count == max_requests or total + size > max_bytes or too_heavy):
            yield count
            count = total = tokens = 0
        count += 1
        total += size
        tokens += weight
    if count:
        yield count
