"""Conversations: an answer that was not taken is written anew, in every dialect's own form, by the real SDKs."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import anthropic
import jsonschema
import openai
import pytest
from google.genai import errors as gemini_errors

from providers.sandbox.answers import compose
from providers.sandbox.behaviour import Behaviour
from providers.sandbox.schema_answers import answer_for
from providers.sandbox.wire import Ask
from tests.contract.sandbox.kit import SCHEMA, Server, prompt
from tests.contract.sandbox.test_sandbox_judges import VERDICT
from tests.contract.sandbox.test_sandbox_packs import pack_text, packed_form

Turns = list[tuple[str, str]]  # user or model, and what
Say = Callable[..., tuple[str, int]]
FEEDBACK = "Not taken: the summary is too short."


def openai_chat(server: Server, turns: Turns, schema: dict[str, Any], parts: bool) -> tuple[str, int]:
    def content(text: str) -> Any:
        return [{"type": "text", "text": text}] if parts else text

    said = [{"role": "assistant" if who == "model" else who, "content": content(text)} for who, text in turns]
    form: Any = {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": schema}}
    messages: Any = [{"role": "system", "content": "Be brief."}, *said]
    with server.openai() as client:
        done = client.chat.completions.create(model="gpt-sim", messages=messages, response_format=form)
    assert done.usage is not None
    return str(done.choices[0].message.content), done.usage.prompt_tokens


def openai_responses(server: Server, turns: Turns, schema: dict[str, Any], parts: bool) -> tuple[str, int]:
    def turn(who: str, text: str) -> Any:
        kind = "output_text" if who == "model" else "input_text"
        role = "assistant" if who == "model" else who
        return {"role": role, "content": [{"type": kind, "text": text}] if parts else text}

    form: Any = {"format": {"type": "json_schema", "name": "answer", "strict": True, "schema": schema}}
    said: Any = [turn(who, text) for who, text in turns]
    with server.openai() as client:
        done = client.responses.create(model="gpt-sim", instructions="Be brief.", input=said, text=form)
    assert done.usage is not None
    return done.output_text, done.usage.input_tokens


def anthropic_messages(server: Server, turns: Turns, schema: dict[str, Any], parts: bool) -> tuple[str, int]:
    def content(text: str) -> Any:
        head, _, tail = text.partition("\n")
        blocks: list[Any] = [{"type": "text", "text": part} for part in (head, tail) if part]
        if text == turns[0][1]:
            blocks[-1]["cache_control"] = {"type": "ephemeral", "ttl": "1h"}
        return blocks if parts else text

    said: Any = [{"role": "assistant" if who == "model" else who, "content": content(text)} for who, text in turns]
    form: Any = {"format": {"type": "json_schema", "schema": schema}}
    with server.anthropic() as client:
        done = client.messages.create(
            model="claude-sim", max_tokens=900, system="Be brief.", messages=said, output_config=form
        )
    block: Any = done.content[0]
    return block.text, done.usage.input_tokens


def gemini_contents(server: Server, turns: Turns, schema: dict[str, Any], parts: bool) -> tuple[str, int]:
    def content(who: str, text: str) -> Any:
        pieces = text.split("\n") if parts else [text]
        return {"role": who, "parts": [{"text": piece} for piece in pieces]}

    config: Any = {"system_instruction": "Be brief.", "response_mime_type": "application/json"}
    config["response_json_schema"] = schema
    said: Any = [content(who, text) for who, text in turns]
    with server.gemini() as client:
        done = client.models.generate_content(model="gemini-sim", contents=said, config=config)
    assert done.usage_metadata is not None
    return str(done.text), int(done.usage_metadata.prompt_token_count or 0)


SAYS: dict[str, Say] = {
    "openai-chat": openai_chat,
    "openai-responses": openai_responses,
    "anthropic": anthropic_messages,
    "gemini": gemini_contents,
}
every_dialect = pytest.mark.parametrize("dialect", SAYS)


@every_dialect
@pytest.mark.parametrize("parts", [False, True], ids=["text", "parts"])
def test_an_answer_is_written_anew(server: Server, dialect: str, parts: bool) -> None:
    turns: Turns = [("user", prompt(5))]
    answers, sizes = [], []
    for _ in range(3):
        text, size = SAYS[dialect](server, turns, SCHEMA, parts)
        answers.append(json.loads(text))
        sizes.append(size)
        turns += [("model", text), ("user", FEEDBACK)]
    first, *later = answers
    assert [each["summary"].removeprefix(first["summary"]) for each in later] == [" (revised)", " (revised 2)"]
    for each in answers:
        jsonschema.validate(each, SCHEMA)
    said = sum(len(text) for _, text in turns[:3])
    assert sizes[1] - sizes[0] >= (said - len(prompt(5))) // 4  # every turn is counted


@every_dialect
def test_only_the_last_draft_is_needed(server: Server, dialect: str) -> None:
    """A repair that shows the second draft alone still gets a third one."""
    draft = json.dumps({"summary": "Short. (revised)", "severity": "low"})
    text, _ = SAYS[dialect](server, [("user", prompt(5)), ("model", draft), ("user", FEEDBACK)], SCHEMA, False)
    assert json.loads(text)["summary"].endswith(" (revised 2)")


@every_dialect
def test_a_pack_is_repaired_record_by_record(server: Server, dialect: str) -> None:
    form = packed_form(SCHEMA)
    asked: Turns = [("user", pack_text({"1": prompt(1), "2": prompt(2)}))]
    text, _ = SAYS[dialect](server, asked, form, False)
    again, _ = SAYS[dialect](server, [*asked, ("model", text), ("user", FEEDBACK)], form, False)
    pairs = list(zip(json.loads(text)["results"], json.loads(again)["results"], strict=True))
    assert [new for _, new in pairs] == [{**old, "summary": f"{old['summary']} (revised)"} for old, _ in pairs]


@every_dialect
def test_a_judge_spares_what_was_repaired(server: Server, dialect: str) -> None:
    server.behave(Behaviour(reject_share=1.0, reject_first_only=True))
    first: Turns = [("user", prompt(5))]
    again: Turns = [*first, ("model", "{}"), ("user", "Judge it again.")]
    said = [json.loads(SAYS[dialect](server, turns, VERDICT, False)[0]) for turns in (first, again)]
    assert [each["verdict"] for each in said] == ["reject", "accept"]


LIMITED = {
    "type": "object",
    "properties": {
        "short": {"type": "string", "maxLength": 30, "minLength": 25},
        "tiny": {"type": "string", "maxLength": 5},
    },
    "required": ["short", "tiny"],
}
CLOSED = {
    "type": "object",
    "properties": {"level": {"enum": ["a", "b", "c"]}, "count": {"type": "integer", "minimum": 1, "maximum": 5}},
    "required": ["level", "count"],
}


@pytest.mark.parametrize("revision", [1, 2, 9, 10])
def test_a_mark_stays_within_the_length(revision: int) -> None:
    value: Any = answer_for(LIMITED, ["One sentence that is far too long for it."], revision)
    jsonschema.validate(value, LIMITED)
    assert value["short"].endswith(" (revised)" if revision == 1 else f" (revised {revision})")


def test_an_answer_without_texts_gets_other_values_each_time() -> None:
    previous = compose(Ask("m", "", "Text one.", CLOSED)).text
    for _ in range(4):
        ask = Ask("m", "", "Text one.", CLOSED, record="Text one.", previous=previous, answers_before=1)
        now = compose(ask).text
        jsonschema.validate(json.loads(now), CLOSED)
        assert now != previous
        previous = now


def test_a_plain_text_is_marked_too() -> None:
    ask = Ask("m", "", "One. Two.", record="One. Two.", previous="One. Two.", answers_before=1)
    assert compose(ask).text == "One. Two. (revised)"


# -- what the providers refuse --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("turn", "param", "code"),
    [
        ({"role": "model", "content": "x"}, "messages[1].role", "invalid_value"),
        ({"role": "user"}, "messages[1].content", "missing_required_parameter"),
        ({"role": "user", "content": "x", "cache_control": {}}, "messages[1].cache_control", "unknown_parameter"),
        ({"role": "user", "content": [{"type": "input_text", "text": "x"}]}, "messages[1].content[0]", "invalid_value"),
        (
            {"role": "user", "content": [{"type": "text", "text": "x", "cache_control": {}}]},
            "messages[1].content[0].cache_control",
            "unknown_parameter",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_openai_refuses_odd_turns(server: Server, turn: Any, param: str, code: str) -> None:
    with server.openai() as client, pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="gpt-sim", messages=[{"role": "user", "content": "Hi."}, turn])
    assert (caught.value.param, caught.value.code) == (param, code)


def test_openai_refuses_a_question_part_as_an_answer(server: Server) -> None:
    turns: Any = [{"role": "assistant", "content": [{"type": "input_text", "text": "x"}]}]
    with server.openai() as client, pytest.raises(openai.BadRequestError) as caught:
        client.responses.create(model="gpt-sim", input=turns)
    assert "Supported values are: 'output_text' and 'refusal'" in caught.value.message


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ([("assistant", "x"), ("user", "y")], 'first message must use the "user" role'),
        ([("user", "x"), ("assistant", "{")], "does not support assistant message prefill"),
        ([("user", "")], "all messages must have non-empty content"),
        ([("model", "x")], "Unexpected role"),
    ],
)
def test_anthropic_refuses_odd_turns(server: Server, messages: Turns, words: str) -> None:
    said: Any = [{"role": role, "content": text} for role, text in messages]
    with server.anthropic() as client, pytest.raises(anthropic.BadRequestError, match=words):
        client.messages.create(model="claude-sim", max_tokens=9, messages=said)


@pytest.mark.parametrize(
    ("contents", "words"),
    [
        ([{"role": "assistant", "parts": [{"text": "x"}]}], "Please use a valid role: user, model"),
        ([{"role": "user", "parts": []}], "contents.parts must not be empty"),
        ([{"role": "user", "parts": [{"text": "x"}]}, {"role": "model", "parts": [{"text": "y"}]}], "end with a user"),
    ],
)
def test_gemini_refuses_odd_turns(server: Server, contents: Any, words: str) -> None:
    with server.gemini() as client, pytest.raises(gemini_errors.ClientError, match=words) as caught:
        client.models.generate_content(model="gemini-sim", contents=contents)
    assert caught.value.status == "INVALID_ARGUMENT"
