"""Anthropic's content blocks: what may be in them, and where a request wants its beginning cached.

A content is a text or a list of blocks; each block, and the whole request, may carry a `cache_control`.
Source: Anthropic's prompt caching guide.
"""

from __future__ import annotations

from collections.abc import Iterator

from .openai_wire import texts_of
from .prompt_cache import TTL_SECONDS
from .wire import Body, Mark, Problem

MOST_MARKS = 4
_TURN_KEYS = frozenset({"role", "content"})
_TEXT_KEYS = frozenset({"type", "text", "cache_control", "citations"})


def blocks_problem(body: Body) -> Problem | None:
    """Find what the provider would refuse in the turns, the blocks and the cache controls of a messages body."""
    controls: list[tuple[str, Body]] = []
    for number, content in _contents(body):
        if not isinstance(content, list):
            continue
        for at, block in enumerate(content):
            if _is_plain(block):
                continue
            where = f"system.{at}" if number < 0 else f"messages.{number}.content.{at}"
            if problem := _block_problem(where, block):
                return problem
            if block.get("cache_control") is not None:
                controls.append((f"{where}.cache_control", block["cache_control"]))
    if body.get("cache_control") is not None:
        controls.append(("cache_control", body["cache_control"]))
    return _controls_problem(controls) if controls else None


def turns_problem(turns: list[Body]) -> Problem | None:
    """Find a turn that is none, and a conversation that does not go from a user to a user."""
    for at, turn in enumerate(turns):
        if not turn.keys() <= _TURN_KEYS:
            return Problem(400, f"messages.{at}.{min(turn.keys() - _TURN_KEYS)}: Extra inputs are not permitted")
        if turn.get("role") not in {"user", "assistant"}:
            return Problem(400, 'messages: Unexpected role. The Messages API accepts a top-level "system" parameter')
        if not turn.get("content"):
            return Problem(400, f"messages.{at}: all messages must have non-empty content")
    if turns[0]["role"] != "user":
        return Problem(400, 'messages: first message must use the "user" role')
    if turns[-1]["role"] != "user":
        message = (
            "This model does not support assistant message prefill. The conversation must end with a user message."
        )
        return Problem(400, message)
    return None


def marks_of(body: Body) -> tuple[tuple[Mark, ...], tuple[int, ...]]:
    """Give the marks of a body, and where its blocks end; both empty where nothing is marked."""
    whole = body.get("cache_control")
    if not whole and not any(_controlled(content) for _, content in _contents(body)):
        return (), ()
    found = list(_ends(body))
    if whole:
        found.append((found[-1][0], whole))
    marks = tuple(Mark(end, _ttl(control)) for end, control in found if control)
    return (marks, tuple(dict.fromkeys(end for end, _ in found))) if marks else ((), ())


def _contents(body: Body) -> Iterator[tuple[int, object]]:
    """The contents with the numbers of their turns; the system's is -1."""
    yield -1, body.get("system")
    for number, turn in enumerate(body["messages"]):
        yield number, turn["content"]


def _controlled(content: object) -> bool:
    return isinstance(content, list) and any(block.get("cache_control") for block in content)


def _ends(body: Body) -> Iterator[tuple[int, Body | None]]:
    """Where each block with a text ends in the fixed part and the text together, and its cache control."""
    system = body.get("system") or ""
    yield from _block_ends(system, 0)
    at = len(texts_of(system))
    for turn in body["messages"]:
        yield from _block_ends(turn["content"], at)
        at += len(texts_of(turn["content"])) + 2


def _block_ends(content: object, at: int) -> Iterator[tuple[int, Body | None]]:
    if isinstance(content, str):
        if content:
            yield at + len(content), None
        return
    for block in content if isinstance(content, list) else ():
        if "text" in block:
            at += len(block["text"])
            yield at, block.get("cache_control")
            at += 1


def _is_plain(block: object) -> bool:
    """Whether a block is a text and nothing else: most are, and need no more looks."""
    if not isinstance(block, dict) or len(block) != 2 or block.get("type") != "text":
        return False
    return isinstance(block.get("text"), str) and block["text"] != ""


def _block_problem(where: str, block: object) -> Problem | None:
    if not isinstance(block, dict):
        return Problem(400, f"{where}: Input should be a valid dictionary")
    if block.get("type") != "text":
        return None if block.get("type") else Problem(400, f"{where}.type: Field required")
    kind = where if where.startswith("system") else f"{where}.text"
    if extra := block.keys() - _TEXT_KEYS:
        return Problem(400, f"{kind}.{min(extra)}: Extra inputs are not permitted")
    if not isinstance(block.get("text"), str):
        return Problem(400, f"{kind}.text: Input should be a valid string")
    if not block["text"]:
        what = "cache_control cannot be set for empty text blocks"
        words = what if block.get("cache_control") else "text content blocks must be non-empty"
        return Problem(400, f"{where}: {words}")
    return None


def _ttl(control: Body) -> str:
    """How long a control wants to keep; five minutes where it does not say."""
    return control.get("ttl") or "5m"


def _controls_problem(controls: list[tuple[str, Body]]) -> Problem | None:
    """Find a control of another kind, too many of them, and an hour after five minutes."""
    shorter = False
    for where, control in controls:
        if not isinstance(control, dict) or control.get("type") != "ephemeral":
            message = f"{where}: Input tag does not match any of the expected tags: 'ephemeral'"
            return Problem(400, message)
        if extra := control.keys() - {"type", "ttl"}:
            return Problem(400, f"{where}.ephemeral.{min(extra)}: Extra inputs are not permitted")
        ttl = _ttl(control)
        if ttl not in TTL_SECONDS:
            return Problem(400, f"{where}.ephemeral.ttl: Input should be '5m' or '1h'")
        if ttl == "1h" and shorter:
            message = (
                f"{where}.ttl: a ttl='1h' cache_control block must not come after a ttl='5m' cache_control block. "
                "Note that blocks are processed in the following order: `tools`, `system`, `messages`."
            )
            return Problem(400, message)
        shorter = shorter or ttl == "5m"
    if len(controls) > MOST_MARKS:
        return Problem(400, f"A maximum of 4 blocks with cache_control may be provided. Found {len(controls)}.")
    return None
