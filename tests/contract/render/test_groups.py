"""Groups: who is in one, what it shows and to whom, in which order its items stand, and what is kept only once."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from batch_jobs.errors import ConfigError
from batch_jobs.lifecycle.grouping import GroupFigures, group_figures
from batch_jobs.models import Dialect, GroupMode, Price
from batch_jobs.render.cleaning import Cleaning
from batch_jobs.render.context import ContextRules
from batch_jobs.render.group_table import content_id, groups_path, read_groups
from batch_jobs.render.grouped import render_grouped
from batch_jobs.render.grouping import Grouping, cells_of
from batch_jobs.render.items import read_places
from batch_jobs.render.join import join_items
from batch_jobs.render.ordering import order_groups
from batch_jobs.render.spec import RenderSpec, identity
from batch_jobs.render.worker import bodies_path, ordered_path
from tests.contract.render.kit import Plan, by_pool, in_process, make_spec

YAML = """
schema: {type: object, properties: {answer: {type: string}}, required: [answer]}
system: "Fixed part. {llm_schema}"
user: |
  Of {kind}:
  {group}
  The row:
  {context}
"""
PYTHON = """
from pydantic import BaseModel


class Answer(BaseModel):
    answer: str


def render_test_prompt(data_case, row):
    return "Fixed part.", data_case.group, f"[{row['what']}]"
"""
CONTEXT, OUTPUT = (Grouping(mode, ("kind",)) for mode in (GroupMode.CONTEXT, GroupMode.OUTPUT))


def grouped_spec(
    folder: Path,
    kinds: Sequence[str],
    grouping: Grouping = CONTEXT,
    prompt: str = YAML,
    what: Sequence[str] | None = None,
    **changes: Any,
) -> RenderSpec:
    """A table of two columns, `kind` and `what`, grouped; each row is `row <number>;` unless it says otherwise."""
    what = what or [f"row {number};" for number in range(len(kinds))]
    spec = make_spec(folder, {"kind": kinds, "what": what}, **changes)
    name = "test.yaml" if prompt.startswith("\nschema") else "test_prompt.py"
    (spec.prompt_folder / name).write_text(prompt)
    return replace(spec, prompt_file=name, grouping=grouping)


def planned(spec: RenderSpec) -> Plan:
    return by_pool(spec)


def planned_here(spec: RenderSpec) -> Plan:
    """The same by no process of its own."""
    import pyarrow.parquet as pq

    spec.plan.mkdir(parents=True, exist_ok=True)
    order_groups(spec)
    for segment in range(pq.read_metadata(spec.snapshot).num_row_groups):
        render_grouped(spec, segment, 0)
    join_items(spec.plan)
    return Plan(spec)


def group_of_rows(plan: Plan) -> list[int]:
    import pyarrow.parquet as pq

    found: list[int] = pq.read_table(plan.spec.plan / "rows.parquet").column("group").to_pylist()
    return found


def texts_of_groups(plan: Path) -> list[dict[str, Any]]:
    import pyarrow.parquet as pq

    found: list[dict[str, Any]] = pq.read_table(groups_path(plan)).to_pylist()
    return found


def rows_in(text: str) -> list[str]:
    return re.findall(r"row \d+;", text)


def test_items_stand_group_by_group_in_the_order_of_the_file_and_rows_as_in_the_file(tmp_path: Path) -> None:
    plan = planned(grouped_spec(tmp_path, ["b", "a", "b", "c", "a", "b"], group_rows=2))
    assert [row.item for row in plan.rows] == [0, 3, 1, 5, 4, 2]
    assert [row.number for row in plan.rows] == [2, 3, 4, 5, 6, 7]
    assert group_of_rows(plan) == [0, 1, 0, 2, 1, 0]
    assert [item.item for item in plan.items] == list(range(6))
    own = [text.rpartition("The row:")[2] for text in plan.texts()]
    assert [rows_in(text) for text in own] == [[f"row {n};"] for n in (0, 2, 5, 1, 4, 3)]


@pytest.mark.parametrize("dialect", Dialect)
@pytest.mark.parametrize("prompt", [YAML, PYTHON], ids=["yaml", "python"])
def test_a_row_sees_all_rows_of_its_group_and_no_byte_of_another(tmp_path: Path, prompt: str, dialect: Dialect) -> None:
    kinds = [f"kind {number * 7 % 5}" for number in range(40)]
    endpoint = "/v1/responses" if dialect is Dialect.OPENAI else None
    plan = planned(grouped_spec(tmp_path, kinds, prompt=prompt, group_rows=9, dialect=dialect, endpoint=endpoint))
    bodies = plan.bodies()
    for row, kind in zip(plan.rows, kinds, strict=True):
        assert row.item is not None
        own = [f"row {number};" for number, other in enumerate(kinds) if other == kind]
        assert rows_in(bodies[row.item].decode()) == [*own, f"row {row.row};"]


def test_what_a_request_says_is_what_was_written_for_it(tmp_path: Path) -> None:
    (spec := grouped_spec(tmp_path, ["x", "y", "x"], mandatory_columns={"what": "What."}))
    content = orjson.loads(planned(spec).bodies()[1])["messages"][1]["content"]
    group = '<group>\n<row number="1">\n1: what: row 0;\n</row>\n<row number="2">\n1: what: row 2;\n</row>\n</group>'
    own = "The row:\n<data_points>\n1: what: row 2;\n</data_points>"
    assert content == f"Of x:\n{group}\n\n{own}"
    (line, _) = texts_of_groups(spec.plan)
    assert (line["text"], line["id"]) == (group, content_id(group))


def test_a_group_shows_its_first_rows_and_says_how_many_it_has(tmp_path: Path) -> None:
    plan = planned(grouped_spec(tmp_path, ["a", "b", "a", "a", "a"], replace(CONTEXT, max_rows=2), group_rows=2))
    shown = [rows_in(line["text"]) for line in texts_of_groups(plan.spec.plan)]
    assert shown == [["row 0;", "row 2;"], ["row 1;"]]
    assert [(group.rows, group.rows_used) for group in read_groups(plan.spec.plan)] == [(4, 2), (1, 1)]
    last = plan.rows[4].item
    assert last is not None
    assert rows_in(plan.texts()[last]) == ["row 0;", "row 2;", "row 4;"], "a row that is left out has a request, too"


def test_empty_keys_are_a_group_and_keys_are_told_apart_as_they_are(tmp_path: Path) -> None:
    kinds = ["", "a", " ", "", "A", "a "]
    plan = planned(grouped_spec(tmp_path, kinds))
    assert [cells_of(group.key) for group in read_groups(plan.spec.plan)] == [[""], ["a"], [" "], ["A"], ["a "]]
    assert group_of_rows(plan) == [0, 1, 2, 0, 3, 4]


def test_where_cells_are_cleaned_the_clean_keys_are_compared_and_shown(tmp_path: Path) -> None:
    clean = Cleaning(trim=True, null_tokens=("n/a",))
    plan = planned(grouped_spec(tmp_path, ["a ", "a", "n/a", ""], cleaning=clean))
    assert group_of_rows(plan) == [0, 0, 1, 1]
    assert [text.partition("\n")[0] for text in plan.texts()] == ["Of a:", "Of a:", "Of :", "Of :"]
    names = [identity([f"row {number};"]) for number in range(4)]
    assert [place.identity for place in read_places(plan.spec.plan, plan.spec.snapshot)] == names
    kinds = [place.details["kind"] for place in read_places(plan.spec.plan, plan.spec.snapshot)]
    assert kinds == ["a ", "a", "n/a", ""], "the store has the cells as they are"


@pytest.mark.parametrize(
    "cell", ["</group>", "< /Group >", "</row>", '<row number="9">', "</data_points>", "<\n/group"]
)
def test_no_cell_can_close_the_tags_it_stands_in(tmp_path: Path, cell: str) -> None:
    spec = grouped_spec(tmp_path, ["a", "a"], what=[f"x {cell} y", "z"])
    planned(spec)
    (line,) = texts_of_groups(spec.plan)
    plain = re.sub(r"[^\w<>]", "", line["text"].lower())
    assert [plain.count(tag) for tag in ("<group", "<row", "<data_points")] == [2, 4, 0]


def test_with_one_answer_a_group_all_its_rows_name_one_item(tmp_path: Path) -> None:
    prompt = YAML.partition("  The row:")[0]
    plan = planned(grouped_spec(tmp_path, ["b", "a", "b", "a", "b"], OUTPUT, prompt, group_rows=2))
    assert [row.item for row in plan.rows] == [0, 1, 0, 1, 0]
    assert [rows_in(text) for text in plan.texts()] == [["row 0;", "row 2;", "row 4;"], ["row 1;", "row 3;"]]
    assert [row.fingerprint for row in plan.rows] == [plan.items[row.item or 0].fingerprint for row in plan.rows]
    found = list(read_places(plan.spec.plan, plan.spec.snapshot))
    assert [(place.item, place.identity) for place in found] == [
        (row.item, identity([f"row {row.row};"])) for row in plan.rows
    ]


def test_a_prompt_that_reads_a_cell_of_a_whole_group_fails_with_a_reason(tmp_path: Path) -> None:
    plan = planned(grouped_spec(tmp_path, ["a", "b", "a"], OUTPUT, PYTHON.replace("data_case.group, ", "")))
    assert [row.item for row in plan.rows] == [None] * 3
    assert "what: a group has only kind; what its rows say is data_case.group" in (plan.rows[0].error or "")


def test_a_row_whose_prompt_fails_fails_alone(tmp_path: Path) -> None:
    prompt = PYTHON.replace("    return", "    assert row['what'] != 'row 1;'\n    return")
    plan = planned(grouped_spec(tmp_path, ["a", "a", "b"], prompt=prompt))
    assert [row.item for row in plan.rows] == [0, None, 1]


def test_what_is_cut_off_in_a_group_is_counted(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    rules = ContextRules(max_cell_chars=3)
    plan = planned(grouped_spec(tmp_path, ["a", "a", "b"], context=rules, what=["12345", "1", "1"]))
    assert pq.read_table(plan.spec.plan / "rows.parquet").column("cut").to_pylist() == [4, 2, 0]


def test_a_group_that_no_model_could_read_is_refused(tmp_path: Path) -> None:
    spec = grouped_spec(tmp_path, ["a", "b"] * 6, what=["x" * 200_000] * 12)
    with pytest.raises(ConfigError, match=r'the group \["a"\] has 6 rows and .* Set grouping.max_rows_per_group'):
        planned(spec)
    assert len(planned(replace(spec, grouping=replace(CONTEXT, max_rows=4))).items) == 2


def test_a_plan_that_was_left_half_done_is_made_anew_as_config_says_now(tmp_path: Path) -> None:
    spec = grouped_spec(tmp_path / "one", ["a", "a", "b", "a"], group_rows=2)
    planned(spec)
    changed = replace(spec, grouping=replace(CONTEXT, max_rows=1))
    fresh = replace(changed, plan=tmp_path / "fresh")
    assert planned(changed).bodies() == planned(fresh).bodies()
    before = groups_path(spec.plan).stat().st_ino
    planned(changed)
    assert groups_path(spec.plan).stat().st_ino == before, "what is done stays"
    plain = replace(spec, grouping=None, prompt_file="test_prompt.py")
    assert [row.item for row in planned(plain).rows] == [0, 1, 2, 3]
    assert planned(plain).texts() == [f"[row {number};]" for number in range(4)]
    assert planned(changed).bodies() == planned(fresh).bodies()


def test_a_plan_without_groups_has_no_trace_of_them(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    spec = make_spec(tmp_path, {"what": ["a", "b", "a"]})
    in_process(spec)
    assert pq.read_schema(spec.plan / "items.parquet").names == [
        *("item", "fingerprint", "first_row", "segment", "offset", "length", "shared"),
    ]
    assert "group" not in pq.read_schema(spec.plan / "rows.parquet").names
    assert not groups_path(spec.plan).exists()


def test_the_same_rows_give_the_same_bytes_whatever_their_ranges(tmp_path: Path) -> None:
    kinds = [f"kind {number * number % 11}" for number in range(260)]
    specs = [grouped_spec(tmp_path / f"{rows}", kinds, group_rows=rows) for rows in (1, 50, 50)]
    plans = [planned_here(spec) for spec in specs]  # two ranges of the first share a file: 260 would be too many
    assert plans[0].bodies() == plans[1].bodies()
    assert plans[0].fingerprints() == plans[1].fingerprints()
    assert len({groups_path(spec.plan).read_bytes() for spec in specs}) == 1
    assert [row.item for row in plans[0].rows] == [row.item for row in plans[1].rows]
    assert len(list(ordered_path(specs[0].plan).iterdir())) == 130
    for name in ("items.parquet", "rows.parquet", "bodies-00003.bin"):
        assert (specs[1].plan / name).read_bytes() == (specs[2].plan / name).read_bytes()


def test_what_a_group_has_in_common_is_kept_once(tmp_path: Path) -> None:
    """2,000 rows in 40 groups of which 40 rows are shown: a fifth of what the requests take."""
    kinds = [f"kind {number % 40}" for number in range(2_000)]
    what = [
        f"row {number}; was reported on time by the desk that had taken the call, and closed" for number in range(2_000)
    ]
    spec = grouped_spec(tmp_path, kinds, replace(CONTEXT, max_rows=40), what=what, group_rows=500)
    plan = planned(spec)
    repeated = sum(item.length for item in plan.items)
    bodies = sum(bodies_path(spec.plan, segment).stat().st_size for segment in range(4))
    assert bodies < repeated / 5
    assert bodies + sum(path.stat().st_size for path in spec.plan.glob("*.parquet")) < repeated / 3
    assert len(set(plan.bodies())) == 2_000


def test_the_saving_is_what_repeats_within_a_group_of_what_is_to_send(tmp_path: Path) -> None:
    kinds = ["a", "b", "a", "a", "c"]
    spec = grouped_spec(tmp_path, kinds, what=["x" * 3_000] * 2 + ["y" * 3_000] + ["z" * 9, "w"])
    items = planned(spec).items
    prices = Price(1.0, 5.0, 0.1), None

    def figures(known: bytes, dialect: Dialect = Dialect.OPENAI) -> GroupFigures:
        return group_figures(spec.plan, CONTEXT, known, dialect, prices)

    found = figures(bytes(5))
    assert (found.groups, found.cut_groups, found.left_out_rows) == (3, 0, 0)
    assert found.repeated_tokens == 2 * items[0].shared // 4 > 3_000, "of the one group of which several are sent"
    assert found.batch_saving_usd == pytest.approx(found.repeated_tokens * 0.9 / 1e6)
    assert found.concurrent_saving_usd is None
    assert figures(bytes([0, 1, 0, 0, 0])).repeated_tokens == items[0].shared // 4
    assert figures(bytes([0, 1, 0, 0, 0]), Dialect.ANTHROPIC).repeated_tokens == 0, "two do not earn the write back"
    short = planned(grouped_spec(tmp_path / "short", kinds))
    assert group_figures(short.spec.plan, CONTEXT, bytes(5), Dialect.OPENAI, prices).repeated_tokens == 0


KINDS = st.lists(st.sampled_from(["a", "b", "c", ""]), min_size=1, max_size=20)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(kinds=KINDS, group_rows=st.integers(1, 7), most=st.none() | st.integers(1, 4))
def test_any_order_of_keys(
    tmp_path_factory: pytest.TempPathFactory, kinds: list[str], group_rows: int, most: int | None
) -> None:
    folder = tmp_path_factory.mktemp("any")
    spec = grouped_spec(folder, kinds, replace(CONTEXT, max_rows=most), group_rows=group_rows)
    plan = planned_here(spec)
    keys = list(dict.fromkeys(kinds))
    in_order = list(chain.from_iterable([n for n, kind in enumerate(kinds) if kind == key] for key in keys))
    assert [plan.rows[row].item for row in in_order] == list(range(len(kinds)))
    texts = plan.texts()
    for place, row in enumerate(in_order):
        own = [f"row {n};" for n, kind in enumerate(kinds) if kind == kinds[row]][:most]
        assert rows_in(texts[place]) == [*own, f"row {row};"]
    assert [json.loads(group.key) for group in read_groups(spec.plan)] == [[key] for key in keys]
