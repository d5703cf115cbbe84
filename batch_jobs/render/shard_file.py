"""Writes one shard's file from the plan: JSON lines, ready to be uploaded. A worker process can do it, by name."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from batch_jobs.models import Dialect
from batch_jobs.render.bodies import BodyReader, tokens_of
from batch_jobs.render.items import PlannedItem, read_chosen
from batch_jobs.storage.files import atomic_file
from batch_jobs.storage.shards import custom_id
from providers.connect import codec_for
from providers.contract import Codec

BLOCK_LINES = 500
"""So many are hashed and written at once."""


@dataclass(frozen=True, slots=True)
class ShardOrder:
    """What goes into a shard's file.

    Attributes:
        key: the shard's, which each line's custom_id begins with.
        items: ascending.
        widened: of these, those whose output limit becomes `output_tokens`.
    """

    plan: Path
    target: Path
    key: str
    dialect: Dialect
    endpoint: str | None
    items: Sequence[int]
    widened: Collection[int]
    output_tokens: int


class Written(NamedTuple):
    """A shard's file, complete and durable.

    Attributes:
        size: in bytes.
        tokens: what its bodies weigh in a provider's queue, estimated.
        fingerprints: of its items, in order.
    """

    size: int
    sha256: str
    tokens: int
    fingerprints: list[bytes]


def write_shard(order: ShardOrder) -> Written:
    """Write a shard's file; it stands there whole, or not at all.

    Raises:
        StoreError: the disk is full, or the plan can't be read.
        SyncFailed: the file could not be made durable.
    """
    codec, digest = codec_for(order.dialect, order.endpoint), hashlib.sha256()
    size = tokens = 0
    fingerprints: list[bytes] = []
    with atomic_file(order.target) as handle, BodyReader(order.plan) as reader:
        for block in _blocks(read_chosen(order.plan, order.items)):
            bodies = [_body(order, codec, reader, planned) for planned in block]
            ids = (custom_id(order.key, planned.item) for planned in block)
            text = b"".join(map(codec.encode_line, ids, bodies))
            digest.update(text)
            handle.write(text)
            size += len(text)
            tokens += sum(tokens_of(len(body)) for body in bodies)
            fingerprints += [planned.fingerprint for planned in block]
    return Written(size, digest.hexdigest(), tokens, fingerprints)


def _body(order: ShardOrder, codec: Codec, reader: BodyReader, planned: PlannedItem) -> bytes:
    """An item's body as rendered, or with a larger output limit."""
    body = reader.read(planned)
    return codec.widen(body, order.output_tokens) if planned.item in order.widened else body


def _blocks(source: Iterator[PlannedItem]) -> Iterator[list[PlannedItem]]:
    while block := list(islice(source, BLOCK_LINES)):
        yield block
