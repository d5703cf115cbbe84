"""Anthropic's words: messages, result lines, error bodies, headers.

The rules are those of API version 2026-10-21; an older version header is taken with the old rules.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

import orjson

from batch_jobs.models import Dialect

from .anthropic_blocks import blocks_problem, marks_of, turns_problem
from .limits import known_fields
from .openai_wire import texts_of
from .wire import Answer, Ask, Body, Finish, Left, Place, Problem, Unrun, talk

SAMPLING = frozenset({"temperature", "top_p", "top_k"})
VERSION = "2026-10-21"

_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}
_STOPS = {Finish.STOP: "end_turn", Finish.LENGTH: "max_tokens", Finish.REFUSED: "refusal"}


class AnthropicWire:
    """The dialect of api.anthropic.com."""

    dialect = Dialect.ANTHROPIC

    def key(self, headers: Mapping[str, str], query: Mapping[str, str]) -> str:
        """Give the x-api-key, which wins, or the bearer token."""
        del query
        return headers.get("x-api-key") or headers.get("authorization", "").removeprefix("Bearer").strip()

    def key_problem(self, key: str) -> Problem:
        """Say that a key is missing or wrong."""
        if not key:
            return Problem(401, "x-api-key header is required (simulated)")
        return Problem(401, "invalid x-api-key (simulated)")

    def read_line(self, line: bytes) -> tuple[str, Body]:
        """Read one element of `requests`."""
        item = orjson.loads(line)
        return str(item["custom_id"]), item["params"]

    def check(self, body: Body, place: Place) -> Problem | None:
        """Find unknown, missing and refused fields."""
        if place.version >= VERSION and (sampling := sorted(SAMPLING & body.keys())):
            return Problem(400, f"{sampling[0]}: this parameter is not supported in this API version")
        unknown = body.keys() - known_fields(Dialect.ANTHROPIC) - SAMPLING
        if unknown:
            return Problem(400, f"{min(unknown)}: Extra inputs are not permitted")
        for name in ("model", "max_tokens", "messages"):
            if name not in body:
                return Problem(400, f"{name}: Field required")
        if not isinstance(body["max_tokens"], int) or body["max_tokens"] < 1:
            return Problem(400, "max_tokens: Input should be greater than or equal to 1")
        if not body["messages"]:
            return Problem(400, "messages: at least one message is required")
        return self._place_problem(body, place)

    def _place_problem(self, body: Body, place: Place) -> Problem | None:
        if place.in_batch and "speed" in body:
            return Problem(400, "speed: not supported in message batches")
        if body.get("stream"):
            where = "stream: not supported in message batches" if place.in_batch else "stream: is not simulated"
            return Problem(400, where)
        return turns_problem(body["messages"]) or blocks_problem(body)

    def ask(self, body: Body, place: Place) -> Ask:
        """Read a messages body."""
        form = (body.get("output_config") or {}).get("format") or {}
        system = body.get("system") or ""
        said = talk([(turn["role"] == "assistant", texts_of(turn.get("content"))) for turn in body["messages"]])
        marks, blocks = marks_of(body)
        return Ask(
            model=str(body["model"]),
            fixed=texts_of(system),
            text=said.text,
            schema=form.get("schema") if form.get("type") == "json_schema" else None,
            max_tokens=body["max_tokens"],
            implicit=False,
            marks=marks,
            blocks=blocks,
            in_batch=place.in_batch,
            record=said.record,
            previous=said.previous,
            answers_before=said.answers_before,
        )

    def reply(self, ask: Ask, answer: Answer, ident: str) -> Body:
        """Write a message; `input_tokens` leaves out what was read from or written to the cache."""
        refused = answer.finish is Finish.REFUSED
        fresh = answer.input_tokens - answer.cached_tokens - answer.written_tokens
        return {
            "id": f"msg_sim_{ident}",
            "type": "message",
            "role": "assistant",
            "model": ask.model,
            "content": [] if refused else [{"type": "text", "text": answer.text}],
            "stop_reason": _STOPS[answer.finish],
            "stop_sequence": None,
            "usage": {
                "input_tokens": fresh,
                "cache_creation_input_tokens": answer.written_tokens,
                "cache_read_input_tokens": answer.cached_tokens,
                "cache_creation": {
                    "ephemeral_5m_input_tokens": answer.written_tokens - answer.hour_tokens,
                    "ephemeral_1h_input_tokens": answer.hour_tokens,
                },
                "output_tokens": answer.output_tokens,
                "service_tier": "batch" if ask.in_batch else "standard",
            },
        }

    def succeeded_line(self, custom_id: str, reply: Body, ident: str) -> Body:
        """Write a succeeded line."""
        del ident
        return {"custom_id": custom_id, "result": {"type": "succeeded", "message": reply}}

    def errored_line(self, custom_id: str, problem: Problem, ident: str) -> Body:
        """Write an errored line: the type stands in result.error.error."""
        error = {**self.error_body(problem), "request_id": f"req_sim_{ident}"}
        return {"custom_id": custom_id, "result": {"type": "errored", "error": error}}

    def unrun_line(self, custom_id: str, why: Unrun, ident: str) -> Body:
        """Write an expired or canceled line."""
        del ident
        return {"custom_id": custom_id, "result": {"type": "expired" if why is Unrun.EXPIRED else "canceled"}}

    def error_body(self, problem: Problem) -> Body:
        """Write `{"type":"error","error":{type,message},"request_id"}`."""
        usual = _TYPES.get(problem.status, "api_error" if problem.status >= 500 or not problem.status else "")
        error: Body = {"type": problem.kind or usual or "invalid_request_error", "message": problem.message}
        if problem.code:
            error["details"] = {"error_code": problem.code}
        return {"type": "error", "error": error, "request_id": "req_sim_error"}

    def call_headers(self, requests: Left, tokens: Left) -> dict[str, str]:
        """Give the anthropic-ratelimit headers; resets are RFC 3339. Tokens are four fifths input."""
        figures = {"requests": requests, "tokens": tokens, "input-tokens": _part(tokens, 0.8)}
        headers: dict[str, str] = {}
        for name, left in {**figures, "output-tokens": _part(tokens, 0.2)}.items():
            reset = datetime.now(UTC) + timedelta(seconds=math.ceil(left.reset_seconds))
            headers[f"anthropic-ratelimit-{name}-limit"] = str(left.limit)
            headers[f"anthropic-ratelimit-{name}-remaining"] = str(left.remaining)
            headers[f"anthropic-ratelimit-{name}-reset"] = reset.strftime("%Y-%m-%dT%H:%M:%SZ")
        return headers

    def quota_problem(self) -> Problem:
        """Say that the spend limit is reached; not to be retried."""
        message = "You have reached your specified API usage limits. (simulated)"
        return Problem(429, message, code="enforced_spend_limit_reached")

    def rate_problem(self, retry_after_seconds: float | None) -> Problem:
        """Say that requests come too fast."""
        message = "This request would exceed your organization's rate limit. (simulated)"
        return Problem(429, message, retry_after_seconds=retry_after_seconds)


def _part(whole: Left, share: float) -> Left:
    return Left(int(whole.limit * share), int(whole.remaining * share), whole.reset_seconds)
