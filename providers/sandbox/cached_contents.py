"""Gemini's cached contents as they are kept: their size and how long they live, never their text.

A request that goes on from one is billed its tokens as cached ones.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass

from .sandbox import Sandbox
from .wire import Ask, Problem

COLUMNS = "name, owner, model, display_name, tokens, created_at, updated_at, expires_at"


@dataclass(frozen=True, slots=True)
class CachedContent:
    """One cached content; times are seconds since 1970."""

    name: str
    owner: str
    model: str
    display_name: str
    tokens: int
    created_at: float
    updated_at: float
    expires_at: float
    seq: int = 0


def add(box: Sandbox, content: CachedContent) -> None:
    """Keep a new one."""
    values = (content.name, content.owner, content.model, content.display_name, content.tokens)
    times = (content.created_at, content.updated_at, content.expires_at)
    box.state.database.run(f"INSERT INTO cached_contents ({COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)", *values, *times)


def find(box: Sandbox, owner: str, name: str) -> CachedContent | None:
    """Find an owner's one that has not expired."""
    row = box.state.database.row(
        "SELECT * FROM cached_contents WHERE name = ? AND owner = ? AND expires_at > ?", name, owner, box.clock()
    )
    return _read(row) if row else None


def page(box: Sandbox, owner: str, before_seq: int, limit: int) -> list[CachedContent]:
    """List an owner's ones, newest first."""
    rows = box.state.database.rows(
        "SELECT * FROM cached_contents WHERE owner = ? AND seq < ? AND expires_at > ? ORDER BY seq DESC LIMIT ?",
        *(owner, before_seq, box.clock(), limit),
    )
    return [_read(row) for row in rows]


def renew(box: Sandbox, content: CachedContent, expires_at: float) -> None:
    """Let one live until another time."""
    box.state.database.run(
        "UPDATE cached_contents SET expires_at = ?, updated_at = ? WHERE name = ?",
        *(expires_at, box.clock(), content.name),
    )


def drop(box: Sandbox, content: CachedContent) -> None:
    """Delete one."""
    box.state.database.run("DELETE FROM cached_contents WHERE name = ?", content.name)


def not_found() -> Problem:
    """Say what Gemini says of one that is not there, has expired, or is another key's."""
    return Problem(403, "CachedContent not found (or permission denied)")


def held_tokens(box: Sandbox, ask: Ask, owner: str) -> int | Problem:
    """Give the tokens of the cached content that a request goes on from, or why it can't."""
    content = find(box, owner, ask.held)
    if content is None:
        return not_found()
    if content.model != ask.model:
        models = f"(models/{ask.model}) and CachedContent (models/{content.model})"
        return Problem(400, f"Model used by GenerateContent request {models} has to be the same.")
    return content.tokens


def _read(row: sqlite3.Row) -> CachedContent:
    return CachedContent(**{name: row[name] for name in (*COLUMNS.split(", "), "seq")})
