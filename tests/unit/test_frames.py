"""A DataFrame to an upload and back, as properties: each text arrives as it is, each row comes back as it was."""

from __future__ import annotations

import string
import tempfile
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from batch_jobs.errors import FileRefused
from batch_jobs.frames.asked import asked_of, read_prompt
from batch_jobs.frames.chunks import _prompt_of
from batch_jobs.frames.results import keep_frame, kept_frame, kind_of, typed, with_answers
from batch_jobs.frames.rows import choose, shown_columns, texts_of, unsendable, write_upload
from batch_jobs.intake.recognise import open_table
from batch_jobs.intake.snapshot import write_snapshot
from batch_jobs.lifecycle.answers import RowAnswer
from batch_jobs.table import IntakeLimits

LIMITS = IntakeLimits(10_000_000, 1_000, 100, 500)
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "text": {"type": "string"},
        "number": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
        "share": {"type": ["number", "null"]},
        "sure": {"const": True},
        "kind": {"enum": ["a", "b", None]},
        "parts": {"type": "array", "items": {"type": "integer"}},
        "either": {"anyOf": [{"type": "string"}, {"type": "integer"}]},
        "far": {"$ref": "#/$defs/Far"},
    },
    "$defs": {"Far": {"type": "boolean"}},
}
ANSWER = {
    **{"text": "t", "number": 3, "share": 1, "sure": True},
    **{"kind": "a", "parts": [1, 2], "either": 1, "far": False},
}
TEXTS = st.text(st.characters() | st.sampled_from('",;\\\r\n\t|=\0 \ufeff\u2028\ud800'), max_size=20)
CELLS = st.one_of(TEXTS, st.none(), st.just(float("nan")), st.just(pd.NA), st.integers(), st.lists(st.integers()))
LABELS = st.one_of(st.integers(-2, 2), st.text(string.ascii_letters, max_size=2), st.none())


@st.composite
def frames(draw: st.DrawFn) -> pd.DataFrame:
    """Frames with all that users' frames have: odd indexes, missing cells, own types."""
    rows = draw(st.integers(1, 6))

    def listed(cells: st.SearchStrategy[Any]) -> list[Any]:
        return draw(st.lists(cells, min_size=rows, max_size=rows))

    frame = pd.DataFrame(
        {
            "mixed": pd.Series(listed(CELLS), dtype="object"),
            "text": pd.Series(listed(st.one_of(st.text(string.printable, max_size=9), st.none())), dtype="str"),
            "whole": pd.array(listed(st.one_of(st.none(), st.integers(-9, 9))), dtype="Int8"),
            "kind": pd.Categorical(listed(st.sampled_from(["x", "y", None])), categories=["y", "x", "z"]),
            "when": pd.to_datetime(listed(st.sampled_from(["2026-03-29", "2026-10-25", None]))).tz_localize("UTC"),
        }
    )
    return frame.set_index(pd.Index(listed(LABELS), dtype="object", name=draw(st.sampled_from([None, "id", "text"]))))


@settings(deadline=None, max_examples=60)
@given(frames())
def test_each_text_that_can_be_sent_arrives_as_it_is_and_each_row_comes_back(frame: pd.DataFrame) -> None:
    before = frame.copy(deep=True)
    chosen = choose(frame, shown_columns(frame, None, None), (), None)
    texts = texts_of(frame, chosen)
    problems = unsendable(texts, chosen, LIMITS.max_cell_chars)
    with tempfile.TemporaryDirectory() as folder:
        upload = Path(folder) / "dataframe.csv"
        sent = write_upload(texts, chosen, problems, len(frame), upload)
        arrived = [] if not sent else [row.cells for row in open_table(upload, **OPEN).rows()]
        if sent:
            assert write_snapshot(open_table(upload, **OPEN), Path(folder) / "rows.parquet", "frame") == sent
    kept = [position for position in range(len(frame)) if position not in problems]
    assert arrived == [(str(position), *(texts[name][position] for name in texts)) for position in kept]
    answers = [RowAnswer(str(position), 0, None, ANSWER) for position in kept[:-1]]
    answers += [RowAnswer(str(position), 0, "cancelled", {}) for position in kept[-1:]]
    after = with_answers(frame, answers, problems, SCHEMA)
    pd.testing.assert_frame_equal(after.iloc[:, : frame.shape[1]], before, check_exact=True)
    pd.testing.assert_frame_equal(frame, before, check_exact=True)
    said = after["status"].tolist()
    assert [said[position] for position in kept] == ["ok"] * len(kept[:-1]) + ["failed: cancelled"] * len(kept[-1:])
    assert all(said[position] == f"failed: {why}" for position, why in problems.items())
    assert after["text_2"].notna().tolist() == [text == "ok" for text in said]


OPEN: dict[str, Any] = {"filename": "dataframe.csv", "sheet": None, "limits": LIMITS}


def test_answers_are_columns_of_their_own_types() -> None:
    frame = pd.DataFrame({"a": [1, 2]})
    answers = [RowAnswer("1", 0, None, ANSWER), RowAnswer("0", 1, "refused by the model", {})]
    after = with_answers(frame, answers, {}, SCHEMA)
    kinds = {name: str(kind) for name, kind in after.dtypes.items()}
    assert kinds == {
        **{"a": "int64", "text": "str", "number": "Int64", "share": "Float64", "sure": "boolean", "kind": "str"},
        **{"parts": "object", "either": "object", "far": "boolean", "status": "str"},
    }
    assert after.loc[1, "parts"] == [1, 2]
    assert after["status"].tolist() == ["failed: refused by the model", "ok"]
    assert kind_of({"properties": {"x": {"$ref": "#/properties/x"}}}, "x") == "any"  # a schema that goes in circles
    assert typed([2**64 - 1, None], "integer").dtype == "object"  # more than the type holds


def test_a_frame_is_kept_only_if_it_comes_back_exactly(tmp_path: Path) -> None:
    index = pd.MultiIndex.from_arrays([[1, 1], ["a", None]])
    good = pd.DataFrame({"kind": pd.Categorical(["x", None]), "n": pd.array([1, None], dtype="Int8")}, index=index)
    assert keep_frame(good, tmp_path / "good.parquet")
    again = kept_frame(tmp_path / "good.parquet")
    assert again is not None
    pd.testing.assert_frame_equal(again, good)
    for bad in (pd.DataFrame({"x": pd.Series([1, "a"], dtype=object)}), pd.DataFrame([[1, 2]], columns=["a", "a"])):
        assert not keep_frame(bad, tmp_path / "bad.parquet")
        assert not list(tmp_path.glob("*bad*"))


def test_a_prompt_that_is_a_text_means_nothing_but_itself() -> None:
    kept = read_prompt('Answer as {"a": {b}}, about {DescriptionOfEvent} and {llm_schema}.', None)
    assert kept.description == 'Answer as {"a": {b}}, about {DescriptionOfEvent} and {llm_schema}.'
    assert (kept.fields, kept.columns) == (("answer",), ())
    asked = asked_of(kept, {"text": ""}, id_column=None, rows_per_request=1)
    same = asked_of(kept, {"text": ""}, id_column=None, rows_per_request=1)
    assert asked.name == same.name
    others = [asked.again("one"), asked.again("two"), asked_of(kept, {"b": ""}, id_column=None, rows_per_request=1)]
    assert len({asked.name, *(other.name for other in others)}) == 4


def test_a_template_puts_text_and_fields_where_it_says() -> None:
    kept = _prompt_of("Find {fields}.\nText: {text}", {"who": "A person.", "when": ""})
    assert "Find who, when." in kept.source.decode()
    assert (kept.columns, kept.fields) == (("text",), ("who", "when"))
    assert _prompt_of("Find {fields}.", ["who"]).description == "Find who."


@pytest.mark.parametrize("text_col", ["b", ["b"], {"b": "What it holds."}, None])
def test_columns_are_chosen_by_their_names(text_col: Any) -> None:
    frame = pd.DataFrame({"a": ["1"], "b": ["x"], 7: ["y"]})
    shown = shown_columns(frame, text_col, "a")
    chosen = choose(frame, shown, ["7"], "a")
    assert chosen.labels == {"a": "a", "b": "b", "7": 7}
    assert chosen.shown == (("b",) if text_col else ("b", "7"))
    assert choose(pd.DataFrame({"row": [1]}), ["row"], [], None).key == "row_2"


class Node(BaseModel):
    """Holds itself."""

    name: str
    inside: list[Node] = []
    from_: str = Field("x", alias="from")


def test_a_model_that_holds_itself_is_a_schema_and_an_alias_is_the_fields_name() -> None:
    kept = read_prompt("Say it.", Node)
    assert kept.fields == ("name", "inside", "from")
    answers = [RowAnswer("0", 0, None, {"name": "n", "inside": [{"name": "m"}], "from": "here"})]
    after = with_answers(pd.DataFrame({"a": [1]}), answers, {}, kept.schema, Node)
    assert [after[name].iloc[0] for name in ("name", "from", "status")] == ["n", "here", "ok"]


@pytest.mark.parametrize("label", ["", " a", "a\0", "half \ud800", "\ufeffa"])
def test_a_label_that_no_request_can_carry_is_refused(label: str) -> None:
    frame = pd.DataFrame({label: ["x"], 7: ["y"]})
    with pytest.raises(FileRefused, match="this is no name that can be shown"):
        choose(frame, shown_columns(frame, None, None), (), None)
    one: Any = 7
    assert list(shown_columns(frame, one, None)) == ["7"]
