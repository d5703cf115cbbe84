"""Gemini's words: generateContent, result lines, error bodies in Google's status form.

Requests are read in REST camelCase; proto JSON takes the snake_case names too, so both are understood.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import orjson

from batch_jobs.models import Dialect

from .limits import GEMINI_FIELDS, GEMINI_GENERATION_FIELDS, GEMINI_PART_FIELDS, camel
from .openai_wire import texts_of
from .wire import ANY_JSON, Answer, Ask, Body, Finish, Left, Place, Problem, Unrun, first_of, talk

_STATUSES = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    409: "ALREADY_EXISTS",
    413: "INVALID_ARGUMENT",
    429: "RESOURCE_EXHAUSTED",
    499: "CANCELLED",
    500: "INTERNAL",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
_RPC_CODES = {400: 3, 401: 16, 403: 7, 404: 5, 409: 6, 413: 3, 429: 8, 499: 1, 500: 13, 503: 14, 504: 4}
_INFO = "type.googleapis.com/google.rpc."


class GeminiWire:
    """The dialect of generativelanguage.googleapis.com."""

    dialect = Dialect.GEMINI

    def key(self, headers: Mapping[str, str], query: Mapping[str, str]) -> str:
        """Give the x-goog-api-key, or the key in the query."""
        return headers.get("x-goog-api-key") or query.get("key", "")

    def key_problem(self, key: str) -> Problem:
        """Say that a key is missing (403) or wrong (400 API_KEY_INVALID)."""
        if not key:
            message = "Method doesn't allow unregistered callers (callers without established identity). (simulated)"
            return Problem(403, message)
        return Problem(400, "API key not valid. Please pass a valid API key. (simulated)", code="API_KEY_INVALID")

    def read_line(self, line: bytes) -> tuple[str, Body]:
        """Read `{"key","request"}`."""
        item = orjson.loads(line)
        return str(item.get("key", "")), item["request"]

    def check(self, body: Body, place: Place) -> Problem | None:
        """Find unknown and missing fields, and those that do not go together."""
        del place
        if problem := unknown_in(body, GEMINI_FIELDS, ""):
            return problem
        config = field_of(body, "generationConfig")
        return (
            unknown_in(config, GEMINI_GENERATION_FIELDS, " at 'generation_config'")
            or contents_problem(body, "GenerateContentRequest")
            or _held_problem(body)
            or _schema_problem(config)
        )

    def ask(self, body: Body, place: Place) -> Ask:
        """Read a generateContent body; the model comes from the URL or from the batch."""
        config = field_of(body, "generationConfig")
        schema = field_of(config, "responseJsonSchema") or field_of(config, "responseSchema") or None
        if schema is None and word_of(config, "responseMimeType") == "application/json":
            schema = ANY_JSON
        limit = word_of(config, "maxOutputTokens")
        said = talk([(turn.get("role") == "model", texts_of(turn.get("parts"))) for turn in turns_of(body)])
        return Ask(
            model=place.model.removeprefix("models/"),
            fixed=texts_of(field_of(body, "systemInstruction").get("parts")),
            text=said.text,
            schema=schema,
            max_tokens=int(limit) if limit else None,
            in_batch=place.in_batch,
            held=word_of(body, "cachedContent"),
            record=said.record,
            previous=said.previous,
            answers_before=said.answers_before,
        )

    def reply(self, ask: Ask, answer: Answer, ident: str) -> Body:
        """Write a GenerateContentResponse; a refusal is a blocked prompt without candidates."""
        refused = answer.finish is Finish.REFUSED
        usage = {
            "promptTokenCount": answer.input_tokens,
            "candidatesTokenCount": 0 if refused else answer.output_tokens,
            "totalTokenCount": answer.input_tokens + (0 if refused else answer.output_tokens),
            "promptTokensDetails": [{"modality": "TEXT", "tokenCount": answer.input_tokens}],
        }
        if answer.cached_tokens:
            usage["cachedContentTokenCount"] = answer.cached_tokens
        reply: Body = {"usageMetadata": usage, "modelVersion": ask.model, "responseId": f"sim-{ident}"}
        if refused:
            return {"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}, **reply}
        candidate = {
            "content": {"parts": [{"text": answer.text}], "role": "model"},
            "finishReason": "MAX_TOKENS" if answer.finish is Finish.LENGTH else "STOP",
            "index": 0,
        }
        return {"candidates": [candidate], **reply}

    def succeeded_line(self, custom_id: str, reply: Body, ident: str) -> Body:
        """Write a response line."""
        del ident
        return {"key": custom_id, "response": reply}

    def errored_line(self, custom_id: str, problem: Problem, ident: str) -> Body:
        """Write a status line; its code is google.rpc's, not HTTP's."""
        del ident
        return {"key": custom_id, "error": rpc_status(problem)}

    def unrun_line(self, custom_id: str, why: Unrun, ident: str) -> Body:
        """Write a status line for an item that was not executed."""
        expired = why is Unrun.EXPIRED
        message = "The request was not executed in time." if expired else "The batch was cancelled."
        return self.errored_line(custom_id, Problem(504 if expired else 499, message), ident)

    def error_body(self, problem: Problem) -> Body:
        """Write `{"error":{code,message,status,details}}`."""
        status = _STATUSES.get(problem.status, "INTERNAL" if problem.status >= 500 else "INVALID_ARGUMENT")
        details: list[Body] = []
        if problem.code:
            details.append(_info(problem.code))
        if problem.kind == "quota":
            quota = {"quotaMetric": "generativelanguage.googleapis.com/generate_requests", "quotaValue": "0"}
            details.append({"@type": f"{_INFO}QuotaFailure", "violations": [quota]})
        if problem.retry_after_seconds is not None:
            details.append({"@type": f"{_INFO}RetryInfo", "retryDelay": f"{problem.retry_after_seconds:g}s"})
        error: Body = {"code": problem.status, "message": problem.message, "status": status}
        return {"error": error | ({"details": details} if details else {})}

    def call_headers(self, requests: Left, tokens: Left) -> dict[str, str]:
        """Give no headers: Gemini tells nothing about what remains."""
        del requests, tokens
        return {}

    def quota_problem(self) -> Problem:
        """Say that the quota is used up: a QuotaFailure without RetryInfo."""
        message = "You exceeded your current quota, please check your plan and billing details. (simulated)"
        return Problem(429, message, kind="quota")

    def rate_problem(self, retry_after_seconds: float | None) -> Problem:
        """Say that requests come too fast."""
        return Problem(429, "Resource has been exhausted. (simulated)", retry_after_seconds=retry_after_seconds)


def rpc_status(problem: Problem) -> Body:
    """Write a google.rpc.Status."""
    status: Body = {"code": _RPC_CODES.get(problem.status, 13), "message": problem.message}
    return status | ({"details": [_info(problem.code)]} if problem.code else {})


def _info(reason: str) -> Body:
    return {"@type": f"{_INFO}ErrorInfo", "reason": reason, "domain": "googleapis.com"}


def unknown_field(name: str, where: str) -> Problem:
    """Say that a field is unknown."""
    return Problem(400, f'Invalid JSON payload received. Unknown name "{name}"{where}: Cannot find field.')


def unknown_in(names: Iterable[str], known: frozenset[str], where: str) -> Problem | None:
    """Find the first of the names, by the alphabet, that is none of the known fields in either spelling."""
    unknown = [name for name in names if camel(name) not in known]
    return unknown_field(min(unknown), where) if unknown else None


def turns_of(body: Body) -> list[Body]:
    """Give the turns of a conversation, which may be written as one."""
    contents = body.get("contents") or []
    return contents if isinstance(contents, list) else [contents]


def contents_problem(body: Body, where: str, *, needs_question: bool = True) -> Problem | None:
    """Find what the provider would refuse in the turns of a conversation.

    Args:
        body: with `contents`.
        where: the message that has them, for the error.
        needs_question: there must be turns, and the last one a user's.
    """
    turns = turns_of(body)
    if not turns and needs_question:
        return Problem(400, f"* {where}.contents: contents is not specified")
    if problem := first_of(_turn_problem(turn, where, f"contents[{at}]") for at, turn in enumerate(turns)):
        return problem
    if needs_question and turns[-1].get("role") == "model":
        return Problem(400, "Please ensure that multiturn requests end with a user role or a function response.")
    return None


def _turn_problem(turn: Body, where: str, at: str) -> Problem | None:
    if extra := turn.keys() - {"role", "parts"}:
        return unknown_field(min(extra), f" at '{at}'")
    if turn.get("role", "user") not in {"user", "model"}:
        return Problem(400, "Please use a valid role: user, model.")
    if not turn.get("parts"):
        return Problem(400, f"* {where}.{at}.parts: contents.parts must not be empty.")
    parts = turn["parts"] if isinstance(turn["parts"], list) else ()
    return first_of(
        unknown_in(part, GEMINI_PART_FIELDS, f" at '{at}.parts[{number}]'") for number, part in enumerate(parts)
    )


def _schema_problem(config: Body) -> Problem | None:
    schemas = {"responseSchema", "responseJsonSchema"} & {camel(name) for name in config}
    if len(schemas) == 2:
        return Problem(400, "Only one of response_schema and response_json_schema may be set.")
    if schemas and word_of(config, "responseMimeType") != "application/json":
        return Problem(400, "Structured output needs response_mime_type 'application/json'.")
    return None


def _held_problem(body: Body) -> Problem | None:
    """Find what a request that goes on from a cached content must leave to it."""
    held = word_of(body, "cachedContent")
    if not held:
        return None
    if not held.startswith("cachedContents/"):
        return Problem(400, "* GenerateContentRequest.cached_content: unexpected CachedContent name format")
    if not {"systemInstruction", "tools", "toolConfig"} & {camel(name) for name in body}:
        return None
    return Problem(
        400,
        "CachedContent can not be used with GenerateContent request setting system_instruction, tools or tool_config."
        "\n\nProposed fix: move those values to CachedContent from GenerateContent request.",
    )


def field_of(body: Body, name: str) -> Body:
    """Read an object by its camelCase name, however it is spelt; {} when it is not there."""
    found = body.get(name) or next((value for key, value in body.items() if camel(key) == name), None)
    return found if isinstance(found, dict) else {}


def word_of(body: Body, name: str) -> str:
    """Read a plain value by its camelCase name, however it is spelt; "" when it is not there."""
    found = body.get(name) or next((value for key, value in body.items() if camel(key) == name), None)
    return "" if found is None else str(found)
