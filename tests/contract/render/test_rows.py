"""Rows to items: equal rows are one item, a row's failure is its own, and any column name will do."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from batch_jobs.models import SHEET_ROW
from batch_jobs.render.items import Place, figures, first_errors, read_places
from batch_jobs.render.spec import fingerprint, identity
from tests.contract.render.kit import Plan, by_pool, in_process, make_spec


def places(plan: Plan, items: list[int] | None = None) -> list[Place]:
    return list(read_places(plan.spec.plan, plan.spec.snapshot, items))


def test_equal_rows_are_one_item(tmp_path: Path) -> None:
    plan = in_process(make_spec(tmp_path, {"what": ["b", "a", "b", "a", "c", "b"]}, group_rows=2))
    assert [row.item for row in plan.rows] == [0, 1, 0, 1, 2, 0]
    assert plan.texts() == ["[b]", "[a]", "[c]"]
    assert figures(plan.spec.plan) == (0, 3)


@pytest.mark.parametrize(
    ("one", "two"),
    [("a", "a "), ("a", "A"), ("é", "e\u0301"), ("", " "), ("1", "1.0"), ("a\nb", "a\r\nb"), ("ß", "ss")],
)
def test_rows_that_only_look_equal_are_two(tmp_path: Path, one: str, two: str) -> None:
    plan = in_process(make_spec(tmp_path, {"what": [one, two]}))
    assert [row.item for row in plan.rows] == [0, 1]
    assert len({place.identity for place in places(plan)}) == 2


@pytest.mark.parametrize("bad", ["RAISE", "RAISE LONG", "NOTHING", "NUMBER", "SURROGATE", "RAISE SURROGATE", "LEAVE"])
def test_a_prompt_that_fails_on_a_row_fails_that_row_only(tmp_path: Path, bad: str) -> None:
    plan = in_process(make_spec(tmp_path, {"what": ["a", bad, "b"]}))
    assert [row.item for row in plan.rows] == [0, None, 1]
    assert [row.error is None for row in plan.rows] == [True, False, True]
    assert len(plan.rows[1].error or "") <= 300
    assert plan.texts() == ["[a]", "[b]"]
    assert figures(plan.spec.plan) == (1, 2)
    (number, why), *rest = first_errors(plan.spec.plan)
    assert (number, rest) == (3, [])
    assert why == plan.rows[1].error


def test_a_prompt_that_leaves_does_not_end_this_process(tmp_path: Path) -> None:
    plan = by_pool(make_spec(tmp_path, {"what": ["a", "LEAVE", "b"]}))
    assert [row.item for row in plan.rows] == [0, None, 1]


def test_only_failed_rows(tmp_path: Path) -> None:
    plan = in_process(make_spec(tmp_path, {"what": ["RAISE"] * 3}))
    assert plan.items == []
    assert figures(plan.spec.plan) == (3, 0)
    assert places(plan) == []
    assert len(first_errors(plan.spec.plan, limit=2)) == 2


def test_a_failed_row_that_would_be_first_shifts_nothing(tmp_path: Path) -> None:
    plan = in_process(make_spec(tmp_path, {"what": ["RAISE", "a", "RAISE", "b"]}, group_rows=1))
    assert [row.item for row in plan.rows] == [None, 0, None, 1]


def test_the_place_of_an_item_is_its_identity_with_all_columns(tmp_path: Path) -> None:
    plan = in_process(make_spec(tmp_path, {"what": ["a", "b", "a"], "more": ["1", "2", "3"]}))
    assert places(plan) == [
        Place(0, identity(["a"]), False, plan.items[0].fingerprint, {"what": "a", "more": "1"}),
        Place(1, identity(["b"]), False, plan.items[1].fingerprint, {"what": "b", "more": "2"}),
    ]
    assert [place.item for place in places(plan, [1])] == [1]
    assert places(plan, []) == []


def test_an_item_with_two_identities_has_two_places(tmp_path: Path) -> None:
    """Rows that are the same call may be different things in the store."""
    spec = make_spec(tmp_path, {"what": ["a", "a", "a"], "id": ["1", "2", "1"]}, identity_columns=("id",))
    found = places(in_process(spec))
    assert {(place.item, place.identity) for place in found} == {(0, identity(["1"])), (0, identity(["2"]))}
    assert [place.alternate for place in found] == [False, False]
    assert {place.identity: place.details["id"] for place in found} == {identity(["1"]): "1", identity(["2"]): "2"}


def test_items_of_one_identity_are_alternates_but_the_first(tmp_path: Path) -> None:
    spec = make_spec(tmp_path, {"what": ["a", "b", "c"], "id": ["1", "1", "2"]}, identity_columns=("id",))
    assert [(place.item, place.alternate) for place in places(in_process(spec))] == [(0, False), (1, True), (2, False)]
    assert [(place.item, place.alternate) for place in places(Plan(spec), [1])] == [(1, True)]


def test_identities_can_not_be_made_to_collide() -> None:
    values = [["a", "b"], ["ab", ""], ["a,b"], ["a", "", "b"], ['a","b'], [], [""], ["", ""], ["a\0b"], ["a\\u0000b"]]
    assert len({identity(value) for value in values}) == len(values)
    assert len({fingerprint(a, b) for a, b in [(b"a", b"b"), (b"ab", b""), (b"", b"ab"), (b"a\nb", b"")]}) == 4


STRANGE_NAMES = [
    ["what", "What", "WHAT"],
    ["what", "item", "identity", "row", "number", "fingerprint", "alternate", "error"],
    ["what", "Item", "ITEM", "r", "s", "i", "t"],
    ["what", 'say "x"', "it's", "a;b", "--", "/* */", "100%", "{x}", "{sheet_row}", "a\nb", "\t"],
    ["what", "事故", "größe", "GRÖSSE", "🙂", "e\u0301", "é", " ", "what "],
    ["what", SHEET_ROW.upper(), "__Sheet_Row__"],
    ["what", "a.b", "a", "a.b.c", ".", "b."],
    ["what", "rowid", "select", "filename", "file_row_number", "__fragment_index", "__filename", "segment", "what_1"],
]


@pytest.mark.parametrize("names", STRANGE_NAMES, ids=range(len(STRANGE_NAMES)))
def test_columns_may_have_any_name(tmp_path: Path, names: list[str]) -> None:
    """Also names that SQL would take for one, or for a word of its own: every cell stays under its own name."""
    columns = {name: [f"{name} {number}" for number in range(3)] for name in names}
    plan = in_process(make_spec(tmp_path, columns, identity_columns=(names[-1], "what")))
    found = places(plan)
    assert [place.details for place in found] == [{name: columns[name][n] for name in names} for n in range(3)]
    assert [place.identity for place in found] == [identity([f"{names[-1]} {n}", f"what {n}"]) for n in range(3)]
    assert [list(place.details) for place in places(plan, [2])] == [names]


def test_blank_rows_were_counted_and_places_find_their_own(tmp_path: Path) -> None:
    """Sheet numbers have gaps, so rows are joined by number and not by position."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    spec = make_spec(tmp_path, {"what": ["x"]})
    table = pa.table({SHEET_ROW: pa.array([2, 7, 9], pa.int64()), "what": ["a", "b", "c"]})
    pq.write_table(table, spec.snapshot, row_group_size=1)
    plan = in_process(spec)
    assert [row.number for row in plan.rows] == [2, 7, 9]
    assert [place.details["what"] for place in places(plan)] == ["a", "b", "c"]


CELLS = st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12), min_size=1, max_size=12)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cells=CELLS, group_rows=st.integers(1, 5))
def test_any_text_arrives_as_it_was(
    tmp_path_factory: pytest.TempPathFactory, cells: list[str], group_rows: int
) -> None:
    plan = in_process(make_spec(tmp_path_factory.mktemp("any"), {"what": cells}, group_rows=group_rows))
    texts = plan.texts()
    rows = plan.rows
    assert len(rows) == len(cells)
    for row, cell in zip(rows, cells, strict=True):
        assert row.item is not None
        assert texts[row.item] == f"[{cell}]"
    assert len(texts) == len(set(cells))
    assert [place.details["what"] for place in places(plan)] == list(dict.fromkeys(cells))


def test_another_segments_bodies_are_found_too(tmp_path: Path) -> None:
    spec = replace(make_spec(tmp_path, {"what": ["a", "b", "c"]}, group_rows=1))
    assert [item.segment for item in in_process(spec).items] == [0, 1, 2]


def test_rows_that_repeat_within_a_range_and_across_ranges(tmp_path: Path) -> None:
    what = ["a", "a", "b", "a", "RAISE", "b", "c", "a", "c", "d"]
    plan = in_process(make_spec(tmp_path, {"what": what}, group_rows=4))
    assert [row.item for row in plan.rows] == [0, 0, 1, 0, None, 1, 2, 0, 2, 3]
    assert plan.texts() == ["[a]", "[b]", "[c]", "[d]"]
    assert [item.item for item in plan.items] == [0, 1, 2, 3]
