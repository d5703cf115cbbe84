"""Gemini's routes for cached contents: make, get, list, change the life of, delete.

What they hold is only counted; the requests that go on from one are answered from their own text.
"""

from __future__ import annotations

import re
from datetime import datetime
from functools import partial

from fastapi import APIRouter
from starlette.responses import Response

from . import cached_contents
from .batches import whole_number
from .behaviour import Route
from .cached_contents import CachedContent
from .gemini_files import FILES_WIRE
from .gemini_wire import contents_problem, field_of, turns_of, unknown_field, unknown_in, word_of
from .gemini_words import rfc3339
from .handling import Incoming, add_route, reply
from .limits import camel
from .openai_wire import texts_of
from .sandbox import Sandbox
from .wire import Body, Problem, Refused
from .words import tokens

HOUR_SECONDS = 3600.0
FIELDS = frozenset(
    {"model", "displayName", "systemInstruction", "contents", "tools", "toolConfig", "ttl", "expireTime"}
)
_SECONDS = re.compile(r"\d+(\.\d{1,9})?s")


def cache_routes(made: APIRouter, version: str) -> None:
    """Add the routes of one API version."""
    add = partial(add_route, made, FILES_WIRE, Route.CACHE)
    add("POST", f"/{version}/cachedContents", create)
    add("GET", f"/{version}/cachedContents", list_all)
    add("GET", f"/{version}/cachedContents/{{content_id}}", get)
    add("PATCH", f"/{version}/cachedContents/{{content_id}}", change)
    add("DELETE", f"/{version}/cachedContents/{{content_id}}", delete)


def create(box: Sandbox, incoming: Incoming) -> Response:
    """Keep a content."""
    body = incoming.json()
    problem = _problem(body)
    if problem is not None:
        raise Refused(problem)
    now, model = box.clock(), word_of(body, "model").removeprefix("models/")
    turns = [texts_of(turn.get("parts")) for turn in turns_of(body)]
    size = tokens(texts_of(field_of(body, "systemInstruction").get("parts"))) + tokens("\n\n".join(turns))
    least = least_tokens(model)
    if size < least:
        message = f"Cached content is too small. total_token_count={size}, min_total_token_count={least}"
        raise Refused(Problem(400, message))
    content = CachedContent(
        name=f"cachedContents/sim{box.new_id()}",
        owner=incoming.owner,
        model=model,
        display_name=word_of(body, "displayName"),
        tokens=size,
        created_at=now,
        updated_at=now,
        expires_at=_expires_at(body, now),
    )
    cached_contents.add(box, content)
    return reply(_shown(content))


def least_tokens(model: str) -> int:
    """Give the least that a content for a model must hold."""
    return 4096 if "pro" in model.split("-") else 1024


def list_all(box: Sandbox, incoming: Incoming) -> Response:
    """List the contents of a key, newest first."""
    limit = whole_number(incoming.query.get("pageSize", ""), 50, 1, 1000)
    before = whole_number(incoming.query.get("pageToken", ""), 2**62, 0, 2**62)
    found = cached_contents.page(box, incoming.owner, before, limit + 1)
    body: Body = {"cachedContents": [_shown(content) for content in found[:limit]]} if found else {}
    return reply(body | ({"nextPageToken": str(found[limit - 1].seq)} if len(found) > limit else {}))


def get(box: Sandbox, incoming: Incoming) -> Response:
    """Show one content."""
    return reply(_shown(_content(box, incoming)))


def change(box: Sandbox, incoming: Incoming) -> Response:
    """Let a content live shorter or longer: nothing else of it can be changed."""
    content, body = _content(box, incoming), incoming.json()
    if unknown := sorted(name for name in body if camel(name) not in {"ttl", "expireTime"}):
        raise Refused(unknown_field(unknown[0], "") if camel(unknown[0]) not in FIELDS else _fixed(unknown[0]))
    cached_contents.renew(box, content, _expires_at(body, box.clock()))
    return reply(_shown(_content(box, incoming)))


def delete(box: Sandbox, incoming: Incoming) -> Response:
    """Delete a content."""
    cached_contents.drop(box, _content(box, incoming))
    return reply({})


def _content(box: Sandbox, incoming: Incoming) -> CachedContent:
    content = cached_contents.find(box, incoming.owner, f"cachedContents/{incoming.params['content_id']}")
    if content is None:
        raise Refused(cached_contents.not_found())
    return content


def _problem(body: Body) -> Problem | None:
    if problem := unknown_in(body, FIELDS, " at 'cached_content'"):
        return problem
    if not word_of(body, "model").startswith("models/"):
        message = "* CreateCachedContentRequest.cached_content.model: unexpected model name format"
        return Problem(400, message)
    return contents_problem(body, "CreateCachedContentRequest.cached_content", needs_question=False)


def _fixed(name: str) -> Problem:
    return Problem(400, f"* UpdateCachedContentRequest.cached_content.{name}: only the expiration can be updated")


def _expires_at(body: Body, now: float) -> float:
    """Read how long a content lives, an hour where nothing is said.

    Raises:
        Refused: 400, it is no duration, no time, or both.
    """
    ttl, moment = word_of(body, "ttl"), word_of(body, "expireTime")
    if ttl and moment:
        raise Refused(Problem(400, "oneof field 'expiration' is already set. Cannot set 'expireTime'"))
    if ttl and not _SECONDS.fullmatch(ttl):
        raise Refused(Problem(400, f"Invalid value at 'cached_content.ttl' (Duration), \"{ttl}\""))
    try:
        return datetime.fromisoformat(moment).timestamp() if moment else now + float(ttl[:-1] or HOUR_SECONDS)
    except ValueError:
        message = f"Invalid value at 'cached_content.expire_time' (Timestamp), \"{moment}\""
        raise Refused(Problem(400, message)) from None


def _shown(content: CachedContent) -> Body:
    shown: Body = {
        "name": content.name,
        "model": f"models/{content.model}",
        "createTime": rfc3339(content.created_at),
        "updateTime": rfc3339(content.updated_at),
        "expireTime": rfc3339(content.expires_at),
        "usageMetadata": {"totalTokenCount": content.tokens},
    }
    return shown | ({"displayName": content.display_name} if content.display_name else {})
