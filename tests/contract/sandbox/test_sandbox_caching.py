"""Prompt caching through the real SDKs: what is read, what is written, what each provider refuses."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import anthropic
import pytest
from google.genai import errors as gemini_errors
from google.genai import types

from providers.sandbox.database import Database
from providers.sandbox.prompt_cache import PromptCache, least_tokens
from providers.sandbox.wire import Ask, Cached
from tests.contract.sandbox import kit
from tests.contract.sandbox.kit import Server

LONG = "Follow the rules of the house at all times. " * 160
"""7,040 characters: 1,760 tokens."""


def openai_reads(server: Server, system: str, question: str, model: str = "gpt-sim", **more: Any) -> tuple[int, int]:
    messages: Any = [{"role": "system", "content": server.key + system}, {"role": "user", "content": question}]
    with server.openai() as client:
        usage = client.chat.completions.create(model=model, messages=messages, **more).usage
    assert usage is not None and usage.prompt_tokens_details is not None
    return usage.prompt_tokens_details.cached_tokens or 0, usage.prompt_tokens_details.cache_write_tokens or 0


def test_openai_reads_the_longest_common_beginning_in_steps(server: Server) -> None:
    room = 4 * 128 - len(server.key)
    assert openai_reads(server, LONG, "Question one?")[0] == 0
    assert openai_reads(server, LONG, "Question two?")[0] == 1664  # of 1,760: whole steps only
    assert openai_reads(server, LONG[:6000], "Another end")[0] == 1408  # as far as both are alike
    assert openai_reads(server, "x" + LONG, "Question one?")[0] == 0
    assert openai_reads(server, LONG[:room], "Question one?")[0] == 0  # below 1,024 tokens nothing is cached


def test_openais_cache_is_of_one_key_model_and_cache_key(server: Server) -> None:
    assert openai_reads(server, LONG, "One?", prompt_cache_key="a") == (0, 0)
    assert openai_reads(server, LONG, "Two?", prompt_cache_key="b") == (0, 0)
    assert openai_reads(server, LONG, "Three?", prompt_cache_key="a")[0] == 1664
    assert openai_reads(server, LONG, "Four?", model="gpt-6-sim", prompt_cache_key="a")[0] == 0
    read, written = openai_reads(server, LONG, "Five?", model="gpt-6-sim", prompt_cache_key="a")
    assert (read, written) == (1664, 0)
    assert openai_reads(server, LONG + "More rules. " * 100, "Six?", model="gpt-6-sim", prompt_cache_key="a")[1] > 0


def test_a_repair_reads_the_question_that_was_asked_before(server: Server) -> None:
    first: Any = [{"role": "user", "content": f"{server.key} {LONG}"}]
    again = [*first, {"role": "assistant", "content": "{}"}, {"role": "user", "content": "Not taken."}]
    with server.openai() as client:
        usages = [client.responses.create(model="gpt-sim", input=turns).usage for turns in (first, again)]
    assert [usage.input_tokens_details.cached_tokens for usage in usages if usage] == [0, 1664]


# -- Anthropic ------------------------------------------------------------------------------------------------


def control(ttl: str = "") -> dict[str, Any]:
    return {"cache_control": {"type": "ephemeral"} | ({"ttl": ttl} if ttl else {})}


def block(text: str, ttl: str | None = None) -> dict[str, Any]:
    return {"type": "text", "text": text} | ({} if ttl is None else control(ttl))


def anthropic_usage(server: Server, system: Any, content: Any, model: str = "claude-sim") -> dict[str, int]:
    messages: Any = [{"role": "user", "content": content}]
    with server.anthropic() as client:
        usage = client.messages.create(model=model, max_tokens=99, system=system, messages=messages).usage
    assert usage.cache_creation is not None
    hour, minutes = usage.cache_creation.ephemeral_1h_input_tokens, usage.cache_creation.ephemeral_5m_input_tokens
    assert usage.cache_creation_input_tokens == hour + minutes
    return {"read": usage.cache_read_input_tokens or 0, "1h": hour, "5m": minutes, "fresh": usage.input_tokens}


def test_anthropic_writes_at_marks_and_reads_them_later(server: Server) -> None:
    system = [block(server.key.ljust(8) + LONG[:6392], "1h")]
    first = anthropic_usage(server, system, [block("a" * 800, "5m"), block("One?")])
    assert (first["read"], first["1h"], first["5m"]) == (0, 1600, 200)
    second = anthropic_usage(server, system, [block("b" * 800, "5m"), block("One?")])
    assert (second["read"], second["1h"], second["5m"]) == (1600, 0, 200)
    third = anthropic_usage(server, system, [block("b" * 800, "5m"), block("Two?")])
    assert (third["read"], third["1h"], third["5m"]) == (1800, 0, 0)
    assert third["fresh"] <= 3
    unmarked = anthropic_usage(server, [block(system[0]["text"])], "One?")
    assert unmarked["read"] == unmarked["1h"] == unmarked["5m"] == 0


def test_anthropic_finds_an_earlier_mark_and_forgets_in_time(server: Server) -> None:
    text = server.key.ljust(8) + LONG[:6392]
    anthropic_usage(server, [block(text, "5m")], "One?")
    moved = anthropic_usage(server, [block(text), block("More rules. " * 10, "5m")], "One?")
    assert (moved["read"], moved["5m"]) == (1600, 30)
    server.forward(301)
    assert anthropic_usage(server, [block(text, "5m")], "One?")["read"] == 0
    anthropic_usage(server, [block(text, "1h")], "One?")
    server.forward(301)
    assert anthropic_usage(server, [block(text, "1h")], "One?")["read"] == 1600


@pytest.mark.parametrize(
    ("model", "least"), [("claude-sonnet-5-5", 512), ("claude-sim", 1024), ("claude-haiku-4-5", 4096)]
)
def test_anthropic_caches_nothing_below_its_models_least(server: Server, model: str, least: int) -> None:
    assert least_tokens(model) == least
    text = server.key.ljust(8) + "rules! " * 4000
    for size, wanted in ((least - 1, 0), (least, least)):
        found = anthropic_usage(server, [block(text[: size * 4], "5m")], "One?", model)
        assert found["5m"] == wanted


def test_a_mark_for_the_whole_request_is_at_its_end(server: Server) -> None:
    params: Any = kit.message_params(1, system=server.key + LONG, **control())
    with server.anthropic() as client:
        first, second = (client.messages.create(**params).usage for _ in range(2))
    assert first.cache_creation_input_tokens == second.cache_read_input_tokens
    assert first.input_tokens <= 2


@pytest.mark.parametrize(
    ("system", "content", "words"),
    [
        (
            [block("a", "")] * 3,
            [block("a", "")] * 2,
            "A maximum of 4 blocks with cache_control may be provided. Found 5",
        ),
        ([block("a", "5m")], [block("b", "1h")], r"messages.0.content.0.cache_control.ttl: a ttl='1h' cache_control"),
        ([block("a", "2h")], "x", "system.0.cache_control.ephemeral.ttl: Input should be '5m' or '1h'"),
        ([block("a") | {"cache_control": {"type": "forever"}}], "x", "expected tags: 'ephemeral'"),
        ([block("a") | {"cache": 1}], "x", "system.0.cache: Extra inputs are not permitted"),
        ("a", [block("b") | {"cache": 1}], "messages.0.content.0.text.cache: Extra inputs are not permitted"),
        ([block("", "5m")], "x", "cache_control cannot be set for empty text blocks"),
    ],
    ids=["five", "order", "ttl", "type", "key of system", "key of content", "empty"],
)
def test_anthropic_refuses_odd_marks(server: Server, system: Any, content: Any, words: str) -> None:
    with pytest.raises(anthropic.BadRequestError, match=words):
        anthropic_usage(server, system, content)


# -- Gemini ---------------------------------------------------------------------------------------------------


def gemini_usage(server: Server, question: str, **config: Any) -> tuple[int, int]:
    """Cached tokens, and those of the whole prompt."""
    with server.gemini(version="v1beta") as client:
        options = types.GenerateContentConfig(**config)
        usage = client.models.generate_content(model="gemini-sim", contents=question, config=options).usage_metadata
    assert usage is not None
    return usage.cached_content_token_count or 0, usage.prompt_token_count or 0


def test_gemini_caches_by_itself(server: Server) -> None:
    found = [gemini_usage(server, text, system_instruction=server.key + LONG)[0] for text in ("One?", "Two?")]
    assert found == [0, 1664]


def test_the_life_of_a_cached_content(server: Server, tmp_path: Path) -> None:
    config = types.CreateCachedContentConfig(
        system_instruction="Be brief.", contents=LONG, ttl="600s", display_name="rules"
    )
    with server.gemini(version="v1beta") as client:
        made = client.caches.create(model="gemini-sim", config=config)
        assert made.name is not None and made.usage_metadata is not None
        size = int(made.usage_metadata.total_token_count or 0)
        assert (made.model, made.display_name, size) == ("models/gemini-sim", "rules", 3 + 1760)
        assert client.caches.get(name=made.name).expire_time == made.expire_time
        assert [each.name for each in client.caches.list()] == [made.name]

        cached, whole = gemini_usage(server, "A question?", cached_content=made.name)
        assert (cached, whole) == (size, size + 3)
        lines = kit.gemini_lines("held", 2)
        for line in lines:
            line["request"]["cachedContent"] = made.name
        job = kit.gemini_ended(client, kit.gemini_create(client, tmp_path, lines, "held"))
        usages = [line["response"]["usageMetadata"] for line in kit.gemini_results(client, job)]
        assert [usage["cachedContentTokenCount"] for usage in usages] == [size, size]

        longer = client.caches.update(name=made.name, config=types.UpdateCachedContentConfig(ttl="7200s"))
        assert longer.expire_time and made.expire_time and longer.expire_time > made.expire_time
        server.forward(601)
        client.caches.delete(name=made.name)
        with pytest.raises(gemini_errors.ClientError, match="CachedContent not found") as caught:
            client.caches.get(name=made.name)
    assert (caught.value.code, caught.value.status) == (403, "PERMISSION_DENIED")
    with pytest.raises(gemini_errors.ClientError, match="CachedContent not found"):
        gemini_usage(server, "A question?", cached_content=made.name)


def test_a_cached_content_ends_by_itself_and_is_its_keys_own(server: Server) -> None:
    with server.gemini() as client:
        made = client.caches.create(
            model="gemini-sim", config=types.CreateCachedContentConfig(contents=LONG, ttl="60s")
        )
        assert made.name is not None
        with server.gemini(key="another-key") as other, pytest.raises(gemini_errors.ClientError, match="not found"):
            other.caches.get(name=made.name)
        server.forward(61)
        assert list(client.caches.list()) == []


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"contents": "Too short."}, r"Cached content is too small. total_token_count=3, min_total_token_count=1024"),
        ({"contents": LONG, "ttl": "soon"}, "cached_content.ttl"),
        ({"contents": LONG, "http_options": {"extra_body": {"cache": 1}}}, 'Unknown name "cache"'),
    ],
    ids=["small", "ttl", "unknown"],
)
def test_gemini_refuses_odd_cached_contents(server: Server, config: Any, words: str) -> None:
    with server.gemini() as client, pytest.raises(gemini_errors.ClientError, match=words) as caught:
        client.caches.create(model="gemini-sim", config=types.CreateCachedContentConfig(**config))
    assert (caught.value.code, caught.value.status) == (400, "INVALID_ARGUMENT")


def test_gemini_refuses_what_belongs_into_the_cached_content(server: Server) -> None:
    with server.gemini() as client:
        made = client.caches.create(model="gemini-sim", config=types.CreateCachedContentConfig(contents=LONG))
        with pytest.raises(gemini_errors.ClientError, match="CachedContent can not be used with GenerateContent"):
            gemini_usage(server, "One?", cached_content=made.name, system_instruction="Be brief.")
        with pytest.raises(gemini_errors.ClientError, match="has to be the same"):
            options = types.GenerateContentConfig(cached_content=made.name)
            client.models.generate_content(model="gemini-other", contents="One?", config=options)


# -- what is kept ---------------------------------------------------------------------------------------------


@pytest.fixture
def database(tmp_path: Path) -> Database:
    return Database(tmp_path)


def test_what_others_read_outlives_the_process_and_nobody_reads_his_own(database: Database) -> None:
    def take(cache: PromptCache, subject: str) -> int:
        return cache.take(Ask("m", LONG, f"Question of {subject}?"), "owner", subject, 0).read

    cache = PromptCache(database)
    assert [take(cache, subject) for subject in ("a", "a", "b")] == [0, 0, 1664]
    again = PromptCache(database)
    assert [take(again, subject) for subject in ("a", "b")] == [0, 1664]  # executed again after a kill: the same


def test_only_so_many_beginnings_are_kept_and_no_text(database: Database) -> None:
    cache = PromptCache(database, most=50)
    for index in range(200):
        found = cache.take(Ask("m", LONG, f"{index} says something else. " * 200), "owner", str(index), 0)
        assert index == 0 or found.read == 1664
    assert len(cache) == 50
    kept = database.row("SELECT count(*) AS n FROM beginnings")
    assert kept is not None and kept["n"] <= 6


def test_a_prompt_too_short_to_be_cached_is_not_even_hashed(database: Database) -> None:
    cache = PromptCache(database)
    assert [cache.take(Ask("m", "Be brief.", "One?"), "o", name, 0) for name in "ab"] == [Cached(), Cached()]
    assert len(cache) == 0


def test_a_folder_of_an_older_sandbox_is_taken_over(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "sandbox.sqlite") as old:
        old.execute(
            "CREATE TABLE bill (seq INTEGER PRIMARY KEY AUTOINCREMENT, dialect TEXT, model TEXT, custom_id TEXT, "
            "kind TEXT, input_tokens INTEGER, cached_tokens INTEGER, output_tokens INTEGER, at REAL, batch_id TEXT, "
            "request_hash TEXT)"
        )
        old.execute("INSERT INTO bill (dialect, batch_id) VALUES ('openai', '')")
    old.close()
    found = Database(tmp_path).row("SELECT accepted, rejected, written_tokens FROM bill")
    assert found is not None and tuple(found) == (0, 0, 0)
