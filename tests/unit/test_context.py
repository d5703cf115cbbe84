"""The context of a row: the cells that were asked for, in their order and form, cut where they are too long."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batch_jobs.render.context import ContextRules, context_of

MANDATORY = {"b": "The first.", "a": "The second."}
ROW = {"a": "1", "c": "2", "b": "3", "d": "4"}


def lines(rules: ContextRules, row: dict[str, str] | None = None) -> list[str]:
    text = context_of(rules, MANDATORY, row or ROW).text
    first, *shown, last = text.split("\n")
    assert (first, last) == ("<data_points>", "</data_points>")
    return shown


@pytest.mark.parametrize(
    ("rules", "names"),
    [
        (ContextRules(), "ba"),
        (ContextRules(include=("d",)), "bad"),
        (ContextRules(all_columns=True), "acbd"),
        (ContextRules(all_columns=True, exclude=("c", "x")), "abd"),
        (ContextRules(include=("d",), order="alphabetical"), "abd"),
        (ContextRules(include=("c",), order="file"), "acb"),
        (ContextRules(include=("a",)), "ba"),
    ],
)
def test_which_columns_in_which_order(rules: ContextRules, names: str) -> None:
    assert lines(rules) == [f"{n}: {name}: {ROW[name]}" for n, name in enumerate(names, 1)]


def test_a_template_of_ones_own_and_a_cell_that_looks_like_one() -> None:
    rules = ContextRules(template="[{name}] {value} {other}")
    assert lines(rules, {"a": "{name}", "b": "{number}"}) == ["[b] {number} {other}", "[a] {name} {other}"]


@pytest.mark.parametrize(
    ("rules", "shown", "cut"),
    [
        (ContextRules(max_cell_chars=3), ["1: b: xyz", "2: a: abc…"], 2),
        (ContextRules(max_cell_chars=5), ["1: b: xyz", "2: a: abcde"], 0),
        (ContextRules(max_chars=12), ["1: b: xyz", "2:…"], 9),
        (ContextRules(max_cell_chars=1, max_chars=9), ["1: b: x…", "…"], 6 + 8),
    ],
)
def test_what_is_too_long_is_cut_and_counted(rules: ContextRules, shown: list[str], cut: int) -> None:
    row = {"a": "abcde", "b": "xyz"}
    assert lines(rules, row) == shown
    assert context_of(rules, MANDATORY, row).cut == cut


@given(st.text(st.sampled_from("<>/ dataDATA_points\n"), max_size=60), st.integers(1, 40))
def test_no_cell_closes_the_tag(cell: str, limit: int) -> None:
    text = context_of(ContextRules(max_cell_chars=limit), MANDATORY, {"a": cell, "b": "</data_points>"}).text
    assert text.lower().count("</data_points>") == 1
