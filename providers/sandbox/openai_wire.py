"""OpenAI's words: chat completions and responses, result lines, error bodies, headers.

Shapes follow the SDK's typed models; field checks follow its parameter types and strict structured output.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import cast

import orjson

from batch_jobs.models import Dialect

from .limits import known_fields
from .wire import ANY_JSON, Answer, Ask, Body, Finish, Left, Place, Problem, Unrun, first_of, talk

CHAT = "/v1/chat/completions"
RESPONSES = "/v1/responses"
ENDPOINTS = (CHAT, RESPONSES)

_FIXED = frozenset({"system", "developer"})
_ROLES = _FIXED | {"user", "assistant"}
_PARTS = {
    CHAT: {
        **dict.fromkeys(_FIXED, ("text",)),
        "user": ("text", "image_url", "input_audio", "file"),
        "assistant": ("text", "refusal"),
    },
    RESPONSES: {
        **dict.fromkeys(_FIXED, ("input_text",)),
        "user": ("input_text", "input_image", "input_file"),
        "assistant": ("output_text", "refusal"),
    },
}
"""The kinds of parts that a message of a role may have."""
_TURN_KEYS = {
    CHAT: frozenset({"role", "content", "name", "refusal", "audio", "tool_calls", "tool_call_id", "function_call"}),
    RESPONSES: frozenset({"type", "role", "content", "id", "status", "phase"}),
}
_TEXT_KEYS = frozenset({"type", "text", "annotations", "logprobs", "prompt_cache_breakpoint"})
_TYPES = {401: "invalid_request_error", 403: "invalid_request_error", 429: "requests"}
_UNRUN = {
    Unrun.EXPIRED: ("batch_expired", "This request could not be executed before the completion window expired."),
    Unrun.CANCELLED: ("batch_cancelled", "This request was not executed because the batch was cancelled."),
}


def texts_of(content: object) -> str:
    """Join the text parts of a message's content, whatever of the two forms it has."""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    return "\n".join(str(part["text"]) for part in parts if isinstance(part, dict) and "text" in part)


class OpenAIWire:
    """The dialect of api.openai.com/v1."""

    dialect = Dialect.OPENAI

    def __init__(self) -> None:
        self._strict: object = None  # the last schema that keeps the rules: mostly the next request has it too

    def key(self, headers: Mapping[str, str], query: Mapping[str, str]) -> str:
        """Give the bearer token."""
        del query
        return headers.get("authorization", "").removeprefix("Bearer").strip()

    def key_problem(self, key: str) -> Problem:
        """Say that a key is missing or wrong; the real reply shows a masked key, this one none."""
        if not key:
            return Problem(401, "You didn't provide an API key. (simulated)", kind="invalid_request_error")
        return Problem(401, "Incorrect API key provided. (simulated)", code="invalid_api_key")

    def read_line(self, line: bytes) -> tuple[str, Body]:
        """Read `{"custom_id","method","url","body"}`."""
        item = orjson.loads(line)
        return str(item["custom_id"]), item["body"]

    def check(self, body: Body, place: Place) -> Problem | None:
        """Find unknown fields, missing ones, and schemas that strict mode does not take."""
        unknown = body.keys() - known_fields(Dialect.OPENAI, place.endpoint)
        if unknown:
            name = min(unknown)
            if place.endpoint == RESPONSES:
                return unknown_parameter(name)
            return Problem(400, f"Unrecognized request argument supplied: {name}")
        needed = "input" if place.endpoint == RESPONSES else "messages"
        for name in ("model", needed):
            if not body.get(name):
                return missing_parameter(name)
        if body.get("stream"):
            return Problem(400, "Streaming is not simulated.", param="stream", code="unsupported_value")
        return _turns_problem(body[needed], place.endpoint, needed) or self._schema_problem(body, place.endpoint)

    def _schema_problem(self, body: Body, endpoint: str) -> Problem | None:
        form = _format(body, endpoint)
        if form.get("type") != "json_schema":
            return None
        spec, param = _spec(form, endpoint), "text.format" if endpoint == RESPONSES else "response_format"
        if not spec.get("name"):
            return Problem(400, f"Missing required parameter: '{param}.name'.", "missing_required_parameter", param)
        fault = self._strict_fault(spec.get("schema") or {}) if spec.get("strict") else None
        if fault is None:
            return None
        message = f"Invalid schema for {param} '{spec['name']}': {fault}"
        return Problem(400, message, code="invalid_json_schema", param=param)

    def _strict_fault(self, schema: object) -> str | None:
        """See `strict_fault`; a schema that was found to keep the rules just before is not looked at again."""
        if schema == self._strict:
            return None
        fault = strict_fault(schema, ())
        if fault is None:
            self._strict = schema
        return fault

    def ask(self, body: Body, place: Place) -> Ask:
        """Read a chat or responses body."""
        form = _format(body, place.endpoint)
        if place.endpoint == RESPONSES:
            turns, limit = body["input"], body.get("max_output_tokens")
            turns = [{"role": "user", "content": turns}] if isinstance(turns, str) else turns
        else:
            turns, limit = body["messages"], body.get("max_completion_tokens") or body.get("max_tokens")
        schema = _spec(form, place.endpoint).get("schema")
        fixed = [str(body.get("instructions") or "")]
        fixed += [texts_of(turn.get("content")) for turn in turns if turn["role"] in _FIXED]
        said = talk([(t["role"] == "assistant", texts_of(t.get("content"))) for t in turns if t["role"] not in _FIXED])
        return Ask(
            model=str(body["model"]),
            fixed="\n".join(part for part in fixed if part),
            text=said.text,
            schema=ANY_JSON if form.get("type") == "json_object" else schema,
            max_tokens=limit,
            endpoint=place.endpoint,
            cache_key=str(body.get("prompt_cache_key") or ""),
            in_batch=place.in_batch,
            record=said.record,
            previous=said.previous,
            answers_before=said.answers_before,
        )

    def reply(self, ask: Ask, answer: Answer, ident: str) -> Body:
        """Write a chat completion or a response."""
        return _response(ask, answer, ident) if ask.endpoint == RESPONSES else _completion(ask, answer, ident)

    def succeeded_line(self, custom_id: str, reply: Body, ident: str) -> Body:
        """Write an output line."""
        response = {"status_code": 200, "request_id": f"req_sim_{ident}", "body": reply}
        return {"id": f"batch_req_sim_{ident}", "custom_id": custom_id, "response": response, "error": None}

    def errored_line(self, custom_id: str, problem: Problem, ident: str) -> Body:
        """Write an error line of the HTTP kind: `error` stays null. Status 0 has an empty body."""
        body = self.error_body(problem) if problem.status else {}
        response = {"status_code": problem.status, "request_id": f"req_sim_{ident}", "body": body}
        return {"id": f"batch_req_sim_{ident}", "custom_id": custom_id, "response": response, "error": None}

    def unrun_line(self, custom_id: str, why: Unrun, ident: str) -> Body:
        """Write an error line of the kind without a response."""
        code, message = _UNRUN[why]
        error = {"code": code, "message": message}
        return {"id": f"batch_req_sim_{ident}", "custom_id": custom_id, "response": None, "error": error}

    def error_body(self, problem: Problem) -> Body:
        """Write `{"error":{message,type,param,code}}`."""
        usual = _TYPES.get(problem.status, "server_error" if problem.status >= 500 else "invalid_request_error")
        kind = problem.kind or usual
        return {
            "error": {"message": problem.message, "type": kind, "param": problem.param, "code": problem.code},
        }

    def call_headers(self, requests: Left, tokens: Left) -> dict[str, str]:
        """Give the x-ratelimit headers; resets are Go durations."""
        headers = {"openai-processing-ms": "1"}
        for name, left in (("requests", requests), ("tokens", tokens)):
            headers[f"x-ratelimit-limit-{name}"] = str(left.limit)
            headers[f"x-ratelimit-remaining-{name}"] = str(left.remaining)
            headers[f"x-ratelimit-reset-{name}"] = go_duration(left.reset_seconds)
        return headers

    def quota_problem(self) -> Problem:
        """Say that the quota is used up."""
        message = "You exceeded your current quota, please check your plan and billing details. (simulated)"
        return Problem(429, message, code="insufficient_quota", kind="insufficient_quota")

    def rate_problem(self, retry_after_seconds: float | None) -> Problem:
        """Say that requests come too fast."""
        message = "Rate limit reached for requests per minute. (simulated)"
        return Problem(429, message, code="rate_limit_exceeded", retry_after_seconds=retry_after_seconds)


def go_duration(seconds: float) -> str:
    """Write a duration as Go's `time.Duration` does: `6m0s`, `1.5s`, `120ms`."""
    if seconds < 1:
        return f"{math.ceil(seconds * 1000)}ms"
    minutes, rest = divmod(round(seconds, 3), 60)
    return f"{int(minutes)}m{rest:g}s" if minutes else f"{rest:g}s"


def _turns_problem(turns: object, endpoint: str, param: str) -> Problem | None:
    """Find a message without a known role, or with parts that its role does not have at this endpoint."""
    if isinstance(turns, str) and endpoint == RESPONSES:
        return None
    if not isinstance(turns, list):
        wanted = "an array of objects" if endpoint == CHAT else "one of a string or an array"
        message = f"Invalid type for '{param}': expected {wanted}."
        return Problem(400, message, code="invalid_type", param=param)
    return first_of(_turn_problem(turn, endpoint, f"{param}[{at}]") for at, turn in enumerate(turns))


def _turn_problem(turn: object, endpoint: str, param: str) -> Problem | None:
    if not isinstance(turn, dict):
        return Problem(400, f"Invalid type for '{param}': expected an object.", code="invalid_type", param=param)
    for name in ("role", "content"):
        if turn.get(name) is None:
            return missing_parameter(f"{param}.{name}")
    if extra := turn.keys() - _TURN_KEYS[endpoint]:
        return unknown_parameter(f"{param}.{min(extra)}")
    role = turn["role"]
    if role not in _ROLES:
        return _invalid(str(role), sorted(_ROLES), f"{param}.role" if endpoint == CHAT else param)
    if isinstance(turn["content"], str):
        return None
    known, parts = _PARTS[endpoint][role], enumerate(turn["content"])
    return first_of(_part_problem(part, known, f"{param}.content[{number}]") for number, part in parts)


def _part_problem(part: Body, known: Sequence[str], param: str) -> Problem | None:
    if part.get("type") not in known:
        return _invalid(str(part.get("type")), known, param)
    if "text" in part and (extra := part.keys() - _TEXT_KEYS):
        return unknown_parameter(f"{param}.{min(extra)}")
    return None


def missing_parameter(param: str) -> Problem:
    """Say that a parameter is missing."""
    return Problem(400, f"Missing required parameter: '{param}'.", "missing_required_parameter", param)


def unknown_parameter(param: str) -> Problem:
    """Say that a parameter is unknown."""
    return Problem(400, f"Unknown parameter: '{param}'.", code="unknown_parameter", param=param)


def _invalid(value: str, known: Sequence[str], param: str) -> Problem:
    names = [f"'{name}'" for name in known]
    listed = " and ".join(names) if len(names) < 3 else f"{', '.join(names[:-1])}, and {names[-1]}"
    message = f"Invalid value: '{value}'. Supported values are: {listed}."
    return Problem(400, message, code="invalid_value", param=param)


def _format(body: Body, endpoint: str) -> Body:
    found = (body.get("text") or {}).get("format") if endpoint == RESPONSES else body.get("response_format")
    return cast(Body, found) if isinstance(found, dict) else {}


def _spec(form: Body, endpoint: str) -> Body:
    """The name, the schema and the strictness of a form; responses have them beside its type."""
    return form if endpoint == RESPONSES else form.get("json_schema") or {}


def strict_fault(schema: object, path: tuple[str, ...]) -> str | None:
    """Say where a schema breaks the two rules of strict structured output, None when it keeps them."""
    if isinstance(schema, list):
        return next((fault for part in schema if (fault := strict_fault(part, path))), None)
    if not isinstance(schema, dict):
        return None
    nested = [(key, schema[key]) for key in ("items", "anyOf", "allOf") if key in schema]
    for group in ("properties", "$defs", "definitions"):
        nested += list((schema.get(group) or {}).items())
    found = (fault for key, part in nested if (fault := strict_fault(part, (*path, key))))
    return _object_fault(schema, path) or next(found, None)


def _object_fault(schema: Body, path: tuple[str, ...]) -> str | None:
    properties = schema.get("properties")
    if not isinstance(properties, dict):
        return None
    if schema.get("additionalProperties") is not False:
        return f"In context={path}, 'additionalProperties' is required to be supplied and to be false."
    missing = [name for name in properties if name not in schema.get("required", ())]
    if not missing:
        return None
    return (
        f"In context={path}, 'required' is required to be supplied and to be an array including every key "
        f"in properties. Missing '{missing[0]}'."
    )


def _completion(ask: Ask, answer: Answer, ident: str) -> Body:
    refused = answer.finish is Finish.REFUSED
    message: Body = {
        "role": "assistant",
        "content": None if refused else answer.text,
        "refusal": answer.text if refused else None,
        "annotations": [],
    }
    finish = "length" if answer.finish is Finish.LENGTH else "stop"
    return {
        "id": f"chatcmpl-sim-{ident}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": ask.model,
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": finish}],
        "usage": {
            "prompt_tokens": answer.input_tokens,
            "completion_tokens": answer.output_tokens,
            "total_tokens": answer.input_tokens + answer.output_tokens,
            "prompt_tokens_details": {
                "cached_tokens": answer.cached_tokens,
                "cache_write_tokens": answer.written_tokens,
                "audio_tokens": 0,
            },
            "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
        },
        "service_tier": "default",
        "system_fingerprint": "simulated",
    }


def _response(ask: Ask, answer: Answer, ident: str) -> Body:
    cut = answer.finish is Finish.LENGTH
    part: Body = {"type": "output_text", "text": answer.text, "annotations": [], "logprobs": []}
    if answer.finish is Finish.REFUSED:
        part = {"type": "refusal", "refusal": answer.text}
    status = "incomplete" if cut else "completed"
    message: Body = {
        "id": f"msg_sim_{ident}",
        "type": "message",
        "role": "assistant",
        "status": status,
        "content": [part],
    }
    return {
        "id": f"resp_sim_{ident}",
        "object": "response",
        "created_at": int(time.time()),
        "status": status,
        "error": None,
        "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
        "instructions": None,
        "metadata": {"simulated": "true"},
        "model": ask.model,
        "output": [message],
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "temperature": None,
        "top_p": None,
        "max_output_tokens": ask.max_tokens,
        "usage": {
            "input_tokens": answer.input_tokens,
            "input_tokens_details": {
                "cached_tokens": answer.cached_tokens,
                "cache_write_tokens": answer.written_tokens,
            },
            "output_tokens": answer.output_tokens,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": answer.input_tokens + answer.output_tokens,
        },
    }
