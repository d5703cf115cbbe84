"""Groups of rows, as config.json asks for them: what has to be there, and what the plan says of them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import compress, groupby
from operator import itemgetter, not_
from pathlib import Path
from typing import Any

from batch_jobs import config_tasks
from batch_jobs.arrow import TableReader
from batch_jobs.models import Dialect, GroupMode, Price
from batch_jobs.render.bodies import BYTES_PER_TOKEN
from batch_jobs.render.group_table import read_groups
from batch_jobs.render.grouping import GROUP, Grouping, check_placeholders
from batch_jobs.render.judge_prompt import JudgePrompt, check_grouped
from batch_jobs.render.prompt import Prompt
from batch_jobs.storage.calls import PER_MILLION
from providers.connect import codec_for

BATCH_ITEMS = 10_000


@dataclass(frozen=True, slots=True)
class GroupFigures:
    """What a plan says of its groups.

    Attributes:
        mode: what the rows of a group have to do with each other.
        columns: that name a group.
        groups: how many there are.
        cut_groups: of these, those that show not all of their rows.
        left_out_rows: rows that no group shows, as max_rows_per_group says.
        repeated_tokens: input tokens to send that the item before has sent already, where a prompt cache may hold them.
        batch_saving_usd: what these cost less by batch if the provider's cache always hits; None without a price.
        concurrent_saving_usd: the same by single calls.
    """

    mode: GroupMode
    columns: tuple[str, ...]
    groups: int
    cut_groups: int
    left_out_rows: int
    repeated_tokens: int
    batch_saving_usd: float | None
    concurrent_saving_usd: float | None


def figures_of(planned: dict[str, Any] | None) -> GroupFigures | None:
    """The figures that are kept with a planned job."""
    if planned is None:
        return None
    return GroupFigures(**{**planned, "mode": GroupMode(planned["mode"]), "columns": tuple(planned["columns"])})


def grouping_of(asked: config_tasks.Grouping) -> Grouping | None:
    """What config.json says, for rendering; None where rows have nothing to do with each other."""
    if asked.mode is GroupMode.NONE:
        return None
    return Grouping(asked.mode, asked.columns, asked.max_rows_per_group)


def placeholder_columns(prompt: Prompt | JudgePrompt, asked: config_tasks.Grouping) -> tuple[str, ...]:
    """The columns that a prompt names; checks that it fits the grouping.

    Raises:
        ConfigError: it does not.
    """
    grouping = grouping_of(asked)
    if grouping is None:
        return prompt.columns
    if isinstance(prompt, JudgePrompt):
        check_grouped(prompt, grouping)
    elif prompt.placeholders is not None:
        check_placeholders(prompt.path.name, prompt.placeholders, grouping)
    return tuple(name for name in prompt.columns if name != GROUP)


def group_figures(
    plan: Path,
    grouping: Grouping,
    known_items: bytes,
    dialect: Dialect,
    prices: tuple[Price | None, Price | None],
) -> GroupFigures:
    """Count a plan's groups.

    Args:
        plan: its folder.
        grouping: what they were made by.
        known_items: a byte an item, 1 where it is answered already.
        dialect: which provider's cache.
        prices: by batch, and at once.
    """
    groups = cut_groups = left_out = 0
    for group in read_groups(plan):
        groups += 1
        cut_groups += group.rows > group.rows_used
        left_out += group.rows - group.rows_used
    repeated = 0
    if grouping.mode is GroupMode.CONTEXT:
        repeated = _repeated_bytes(plan, known_items, dialect) // BYTES_PER_TOKEN
    by_batch, at_once = (_saving(repeated, price) for price in prices)
    return GroupFigures(grouping.mode, grouping.columns, groups, cut_groups, left_out, repeated, by_batch, at_once)


def _saving(tokens: int, price: Price | None) -> float | None:
    return None if price is None else tokens * max(price.input - price.cached, 0.0) / PER_MILLION


def _repeated_bytes(plan: Path, known_items: bytes, dialect: Dialect) -> int:
    """What the items to send have in common with the one before them, where it pays a provider's cache to keep it."""
    cache, total = codec_for(dialect, None).prompt_cache, 0
    to_send = compress(_shared(plan), map(not_, known_items))
    for _, run in groupby(to_send, itemgetter(0)):
        shared = [length for _, length in run]
        if cache.pays(shared[0], len(shared)):
            total += sum(shared[1:])
    return total


def _shared(plan: Path) -> Iterator[tuple[int, int]]:
    """Of each item its group, and how many bytes it begins with like the others."""
    with contextlib.closing(TableReader(plan / "items.parquet", ("group", "shared"))) as reader:
        while (table := reader.take(BATCH_ITEMS)).num_rows:
            yield from zip(*(column.to_pylist() for column in table.columns), strict=True)
