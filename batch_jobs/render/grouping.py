"""Groups of rows: which belong together, how a group is shown, and what a prompt may say of one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import orjson

from batch_jobs.errors import ConfigError
from batch_jobs.models import GroupMode
from batch_jobs.render.context import TAG, ContextRules, points_of

CONTEXT, GROUP = "context", "group"
"""The placeholders of a row's cells, and of the rows of its group."""
GROUP_TAG, ROW_TAG = "group", "row"
MAX_GROUP_CHARS = 1_000_000
"""Of a group's text: more than any model reads, and it would be sent with each of its rows."""


@dataclass(frozen=True, slots=True)
class Grouping:
    """Which rows belong together: those that are equal in some columns.

    Attributes:
        mode: what they have to do with each other; not `none`.
        columns: cells are compared as a prompt shows them, cleaned where config.json asks for that.
        max_rows: of a group, that its text shows: the first ones; None for all.
    """

    mode: GroupMode
    columns: tuple[str, ...]
    max_rows: int | None = None


def key_of(cells: Sequence[str]) -> str:
    """A group's key as it is kept: its cells as a JSON list."""
    return orjson.dumps(list(cells)).decode()


def cells_of(key: str) -> list[str]:
    """The inverse of `key_of`."""
    cells: list[str] = orjson.loads(key)
    return cells


class GroupText:
    """The text of one group, made row by row: each row's cells in a tag of its own, all of them in one.

    Attributes:
        cut: characters that were left out of the rows that it shows.
    """

    def __init__(self, rules: ContextRules, mandatory: Mapping[str, str]) -> None:
        self.cut = 0
        self.rows = 0
        self._rules, self._mandatory = rules, mandatory
        self._parts = [f"<{GROUP_TAG}>"]
        self.chars = 0

    def add(self, row: Mapping[str, str]) -> None:
        """Show one more row."""
        text, cut = points_of(self._rules, self._mandatory, row, GROUP_TAG, ROW_TAG, TAG)
        self.rows += 1
        self.cut += cut
        self.chars += len(text)
        self._parts.append(f'<{ROW_TAG} number="{self.rows}">\n{text}\n</{ROW_TAG}>')

    def text(self) -> str:
        """All of it."""
        return "\n".join([*self._parts, f"</{GROUP_TAG}>"])


def check_placeholders(file_name: str, placeholders: Sequence[str], grouping: Grouping) -> None:
    """Check that a prompt's text for a row says what a group needs, in the order that a provider's cache needs.

    Args:
        file_name: of the prompt.
        placeholders: of that text, in order.
        grouping: what config.json says.

    Raises:
        ConfigError: it does not; says what is wrong and what to do.
    """
    if GROUP not in placeholders:
        raise ConfigError(
            f'{file_name}: never shows {{{GROUP}}}, and grouping.mode of the data case is "{grouping.mode}": put '
            f"{{{GROUP}}} into user, or take grouping out of config.json"
        )
    last = len(placeholders) - placeholders[::-1].index(GROUP)
    alike = {GROUP, *grouping.columns}
    shared = placeholders if grouping.mode is GroupMode.OUTPUT else placeholders[:last]
    strange = [name for name in shared if name not in alike]
    if strange and grouping.mode is GroupMode.OUTPUT:
        raise ConfigError(
            f"{file_name}: {{{strange[0]}}} differs from row to row, and with {grouping.mode} a request is about a "
            f"whole group: use {{{GROUP}}}, which shows its rows, and {_listed(grouping.columns)}"
        )
    if strange:
        raise ConfigError(
            f"{file_name}: {{{strange[0]}}} differs from row to row, so it has to stand behind {{{GROUP}}}: what the "
            "rows of a group have in common is sent first, so that the provider's prompt cache can hit"
        )
    if grouping.mode is GroupMode.CONTEXT and alike.issuperset(placeholders[last:]):
        raise ConfigError(
            f"{file_name}: shows nothing of the row itself behind {{{GROUP}}}: add {{{CONTEXT}}}, or ask once a group "
            f"with grouping.mode {GroupMode.OUTPUT}"
        )


def _listed(columns: Sequence[str]) -> str:
    return ", ".join(f"{{{name}}}" for name in columns)
