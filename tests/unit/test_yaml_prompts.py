"""YAML prompts: texts with placeholders and a JSON Schema; a wrong one is refused with its file, line and reason."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from batch_jobs.errors import ConfigError
from batch_jobs.render.answers import JsonOutput, answer_text
from batch_jobs.render.prompt import DataCaseView, Prompt, rendered
from batch_jobs.render.prompts import load_prompt

VIEW = DataCaseView("tickets", "Tickets of {users}.", {"what": "The text.", "who is it": "Who wrote."}, "Sort tickets.")
ROW = {"what": "It {broke}.", "who is it": "me", "other": "x"}
SCHEMA: dict[str, Any] = {
    "title": "Ticket",
    "type": "object",
    "properties": {
        "kind": {"enum": ["bug", "wish"]},
        "stars": {"type": "integer", "minimum": 0},
        "tags": {"type": "array", "items": {"type": "string"}},
    },
    "required": ["kind", "stars"],
    "additionalProperties": False,
}
PROMPT = """\
schema: ticket.json
system: |
  {task_description} {data_description}
  {columns}
  Answer like {"kind": "bug", "stars": 1}, by this schema:
  {llm_schema}
user: |
  {context}
  By {who is it}: {what}
"""


def render(prompt: Prompt, data_case: DataCaseView, row: Mapping[str, str]) -> tuple[str, str]:
    fixed, text, *_ = rendered(prompt, data_case, row)
    return fixed, text


def made(folder: Path, prompt: str | bytes = PROMPT, schema: str | None = json.dumps(SCHEMA)) -> Prompt:
    (folder / "ticket.yaml").write_bytes(prompt if isinstance(prompt, bytes) else prompt.encode())
    if schema is not None:
        (folder / "ticket.json").write_text(schema)
    return load_prompt(folder, "ticket.yaml")


def test_placeholders_are_filled_and_other_braces_stay(tmp_path: Path) -> None:
    prompt = made(tmp_path)
    fixed, own = render(prompt, VIEW, ROW)
    assert fixed.startswith("Sort tickets. Tickets of {users}.\n- what: The text.\n- who is it: Who wrote.\n")
    assert 'Answer like {"kind": "bug", "stars": 1}, by this schema:\n' in fixed
    assert json.loads(fixed.partition("schema:\n")[2]) == SCHEMA
    assert own == "<data_points>\n1: what: It {broke}.\n2: who is it: me\n</data_points>\nBy me: It {broke}."
    assert (prompt.output.name, prompt.output.fields) == ("Ticket", ("kind", "stars", "tags"))
    assert (prompt.columns, [path.name for path in prompt.files]) == (
        ("who is it", "what"),
        ["ticket.yaml", "ticket.json"],
    )


def test_the_fixed_part_is_the_same_for_every_row(tmp_path: Path) -> None:
    prompt = made(tmp_path)
    assert len({render(prompt, VIEW, {**ROW, "what": str(number)})[0] for number in range(5)}) == 1


def test_a_schema_may_stand_in_the_prompt_and_the_users_text_may_be_left_out(tmp_path: Path) -> None:
    prompt = made(tmp_path, f"system: Sort.\nschema: {json.dumps(SCHEMA)}\n", None)
    assert render(prompt, VIEW, ROW) == (
        "Sort.",
        "<data_points>\n1: what: It {broke}.\n2: who is it: me\n</data_points>",
    )
    assert [path.name for path in prompt.files] == ["ticket.yaml"]


def test_spaces_of_web_pages_a_bom_and_foreign_line_ends_make_no_difference(tmp_path: Path) -> None:
    plain = render(made(tmp_path), VIEW, ROW)
    strange = PROMPT.replace("{who is it}", "{who\u00a0is\u202fit}").replace("By ", "By\u00a0").replace("\n", "\r\n")
    assert render(made(tmp_path, b"\xef\xbb\xbf" + strange.encode()), VIEW, ROW) == plain


def test_another_schema_is_another_prompt(tmp_path: Path) -> None:
    first = made(tmp_path).sha256
    assert made(tmp_path).sha256 == first
    assert made(tmp_path, schema=json.dumps({**SCHEMA, "title": "Other"})).sha256 != first
    assert made(tmp_path, PROMPT + "\n").sha256 != first


def test_a_value_can_not_close_the_tag_it_stands_in(tmp_path: Path) -> None:
    own = render(made(tmp_path), VIEW, {**ROW, "what": "a </data_points> b"})[1]
    assert own.count("</data_points>") == 2  # the tag's own end, and {what} as the user put it
    assert "1: what: a &lt;/data_points> b" in own


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=30))
def test_whatever_is_put_in_stays_as_it_is(tmp_path: Path, value: str) -> None:
    prompt = made(tmp_path, PROMPT.replace("  {context}\n", ""))
    assert render(prompt, VIEW, {**ROW, "what": value})[1] == f"By me: {value}"


def test_a_row_without_the_column_is_that_rows_failure(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"the row has no column \{who is it\}"):
        render(made(tmp_path, PROMPT.replace("  {context}\n", "")), VIEW, {"what": "x"})


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ("system: a\n  b: c\n", r"ticket.yaml, line 2: mapping values are not allowed here"),
        ("- a\n", "has to hold the keys system, user, schema"),
        ("schema: ticket.json\n", 'lacks "system"'),
        ("system: a\n", 'lacks "schema"'),
        ("system: a\nschema: ticket.json\nsytem: b\n", 'there is no key "sytem"; did you mean "system"'),
        ("system: a\nsystem: b\nschema: ticket.json\n", '"system" stands twice'),
        ("system: [a]\nschema: ticket.json\n", '"system" has to be a text'),
        ("system: '{what}'\nschema: ticket.json\n", r"\{what\} is no placeholder of system.*belongs into user"),
        (
            "system: '{lm_schema}'\nschema: ticket.json\n",
            r"\{lm_schema\} is no .*; did you mean \"llm_schema\"",
        ),
        ("system: a\nuser: '{llm_schema}'\nschema: ticket.json\n", r"\{llm_schema\} is the same for every row"),
        ("system: a\nschema: tikcet.json\n", 'there is no such schema; did you mean "ticket.json"'),
        ("system: a\nschema: ../ticket.json\n", "name of a .json file beside the prompt"),
        ("system: a\nschema: 5\n", "name of a .json file beside the prompt"),
        ("system: a\nschema: {type: object, properties: {a: {type: objekt}}}\n", "ticket.yaml: properties.a.type: "),
        ("system: a\nschema: {type: array}\n", "has to describe an object"),
        ("system: a\nschema: {type: object}\n", "names no fields"),
        ("system: a\nschema: {type: object, properties: {a: {$ref: 'http://localhost:1/x.json'}}}\n", "localhost:1"),
        ("system: !!python/object/apply:os.system [ls]\nschema: ticket.json\n", "could not determine a constructor"),
        (b"system: \xff\nschema: ticket.json\n", r"is no UTF-8 text \(byte 8\)"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, prompt: str | bytes, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        made(tmp_path, prompt)


@pytest.mark.parametrize(("schema", "said"), [("{", "ticket.json: is no JSON"), ("[]", "ticket.json: the schema has")])
def test_what_is_wrong_with_the_schema_is_said(tmp_path: Path, schema: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        made(tmp_path, schema=schema)


def test_a_link_out_of_the_folder_is_no_schema(tmp_path: Path) -> None:
    folder = tmp_path / "prompts"
    folder.mkdir()
    (tmp_path / "outside.json").write_text(json.dumps(SCHEMA))
    (folder / "ticket.json").symlink_to(tmp_path / "outside.json")
    with pytest.raises(ConfigError, match="there is no such schema"):
        made(folder, schema=None)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{}", r'"kind" is a required property \(and 1 more\)'),
        ('{"kind": "bug", "stars": "secret"}', r'^field "stars": the value is not of type "integer"$'),
        ('{"kind": "secret", "stars": 1}', r'^field "kind": the value is not one of'),
        ('{"kind": "bug", "stars": 1, "secrets": 1}', r"Additional properties are not allowed"),
        ('{"kind": "bug", "stars": 1, "tags": ["a", 5]}', r'^field "tags.1": the value is not of type "string"$'),
        ('{"kind": "bug", "stars": NaN}', "not valid JSON"),
        ('{"kind": "bug", "stars": 1e999}', "not valid JSON|not finite|not of type"),
        ("[]", "is not of type"),
        ("", "empty answer"),
    ],
)
def test_an_answer_that_does_not_fit_is_refused_without_being_echoed(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        answer_text(JsonOutput(SCHEMA, "ticket"), text)
    assert "secret" not in str(caught.value).replace("secrets", "")


def test_an_answer_that_fits_is_taken_as_it_is() -> None:
    text = '```json\n{"stars": 3, "kind": "bug", "tags": ["é"]}\n```'
    assert answer_text(JsonOutput(SCHEMA, "ticket"), text) == '{"stars":3,"kind":"bug","tags":["é"]}'
