"""OpenAI's wire format, pure: chat completions and responses, shard lines and result lines.

Sources: OpenAI Batch guide (line formats), Structured Outputs guide, and the openai SDK's types.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import orjson

from batch_jobs.models import Dialect, ItemResult, Outcome, Parameters, Request, Usage
from providers._reading import (
    UNREADABLE,
    answered,
    as_count,
    as_dict,
    as_dicts,
    as_text,
    load_object,
    required_id,
)
from providers._schemas import strict_schema
from providers.codes import QUOTA_CODES, transient_status

CHAT = "/v1/chat/completions"
RESPONSES = "/v1/responses"
EFFORTS = frozenset({"none", "minimal", "low", "medium", "high", "xhigh", "max"})
"""`ReasoningEffort` of the openai SDK."""

_NOT_EXECUTED = {"batch_expired": Outcome.EXPIRED, "batch_cancelled": Outcome.CANCELLED}
_REFUSALS = frozenset({"content_filter", "content_policy_violation", "bio_policy", "misalignment_policy_violation"})
_TRANSIENT_CODES = frozenset({"server_error", "rate_limit_exceeded", "vector_store_timeout"})


class OpenAICodec:
    """Requests to OpenAI's JSON, OpenAI's result lines to outcomes."""

    dialect: Dialect = Dialect.OPENAI

    def __init__(self, endpoint: str | None = None) -> None:
        self.endpoint = endpoint or CHAT
        self._before_body = f'","method":"POST","url":"{self.endpoint}","body":'.encode()

    def refused_parameters(self, parameters: Parameters) -> tuple[str, ...]:
        """Only an effort that does not exist; what a model refuses is configuration (`models.<name>.refuses`)."""
        effort = parameters.reasoning_effort
        return () if effort is None or effort in EFFORTS else ("reasoning_effort",)

    def encode_body(self, request: Request) -> bytes:
        """Encode one request for the endpoint."""
        return orjson.dumps(_responses_body(request) if self.endpoint == RESPONSES else _chat_body(request))

    def encode_line(self, custom_id: str, body: bytes) -> bytes:
        """Wrap a body as `{"custom_id","method","url","body"}`."""
        return b'{"custom_id":"' + custom_id.encode() + self._before_body + body + b"}\n"

    def read_id(self, line: bytes) -> str:
        """Read only whose line of a batch's results it is.

        Raises:
            ValueError: the line is no JSON object, or has no id.
        """
        return required_id(load_object(line), "custom_id")

    def parse_line(self, line: bytes) -> ItemResult:
        """Read one line of an output or an error file, judged by its status code alone.

        Raises:
            ValueError: the line is no result.
        """
        record = load_object(line)
        custom_id = required_id(record, "custom_id")
        response = record.get("response")
        if not isinstance(response, dict):
            return item_error(custom_id, 0, as_dict(record.get("error")))
        status = as_count(response.get("status_code"))
        body = response.get("body")
        if status == 200:
            return read_body(custom_id, body)
        return item_error(custom_id, status, as_dict(as_dict(body).get("error")) or as_dict(record.get("error")))

    def widen(self, body: bytes, max_output_tokens: int) -> bytes:
        """The same request with another output limit."""
        request = orjson.loads(body)
        request["max_output_tokens" if self.endpoint == RESPONSES else "max_completion_tokens"] = max_output_tokens
        return orjson.dumps(request)

    def revise(self, body: bytes, answer: str, feedback: str) -> bytes:
        """The same request, continued by the model's answer and what was wrong with it."""
        request = orjson.loads(body)
        turns = [{"role": "assistant", "content": answer}, {"role": "user", "content": feedback}]
        if self.endpoint == RESPONSES:
            given = request["input"]
            request["input"] = [*([{"role": "user", "content": given}] if isinstance(given, str) else given), *turns]
        else:
            request["messages"] += turns
        return orjson.dumps(request)

    def texts(self, body: bytes) -> tuple[str, str]:
        """The fixed part and the row's part."""
        request = orjson.loads(body)
        if self.endpoint == RESPONSES:
            return request.get("instructions", ""), request["input"]
        *fixed, user = request["messages"]
        return fixed[0]["content"] if fixed else "", user["content"]


def _chat_body(request: Request) -> dict[str, Any]:
    parameters = request.parameters
    messages = [{"role": "system", "content": request.fixed}] if request.fixed else []
    messages.append({"role": "user", "content": request.text})
    schema, strict = _schema_json(orjson.dumps(request.schema))
    json_schema = {"name": request.schema_name, "strict": strict, "schema": schema}
    body: dict[str, Any] = {
        "model": request.model,
        "messages": messages,
        "response_format": {"type": "json_schema", "json_schema": json_schema},
        "max_completion_tokens": parameters.max_output_tokens,
    }
    _add_sampling(body, parameters)
    if parameters.reasoning_effort is not None:
        body["reasoning_effort"] = parameters.reasoning_effort
    return body


def _responses_body(request: Request) -> dict[str, Any]:
    parameters = request.parameters
    schema, strict = _schema_json(orjson.dumps(request.schema))
    text_format = {"type": "json_schema", "name": request.schema_name, "strict": strict, "schema": schema}
    body: dict[str, Any] = {"model": request.model}
    if request.fixed:
        body["instructions"] = request.fixed
    body["input"] = request.text
    body["text"] = {"format": text_format}
    body["max_output_tokens"] = parameters.max_output_tokens
    _add_sampling(body, parameters)
    if parameters.reasoning_effort is not None:
        body["reasoning"] = {"effort": parameters.reasoning_effort}
    return body


def _add_sampling(body: dict[str, Any], parameters: Parameters) -> None:
    if parameters.temperature is not None:
        body["temperature"] = parameters.temperature
    if parameters.top_p is not None:
        body["top_p"] = parameters.top_p


@lru_cache(maxsize=64)
def _schema_json(raw: bytes) -> tuple[orjson.Fragment, bool]:
    """The schema as it is sent, encoded once for all the requests of a task, and whether it is strict."""
    strict = strict_schema(orjson.loads(raw))
    return orjson.Fragment(raw if strict is None else orjson.dumps(strict)), strict is not None


def item_error(custom_id: str, status: int, error: dict[str, Any]) -> ItemResult:
    """Read an answer that is none: not executed (status 0, or a batch_* code), or refused by the endpoint."""
    code = as_text(error.get("code")) or as_text(error.get("type")) or f"status_{status}"
    detail = as_text(error.get("message"))
    if code in _NOT_EXECUTED:
        return ItemResult(custom_id, _NOT_EXECUTED[code], code=code, detail=detail, transient=True)
    if code in _REFUSALS:
        return ItemResult(custom_id, Outcome.REFUSED, code=code, detail=detail)
    transient = transient_status(status) or code in QUOTA_CODES
    return ItemResult(custom_id, Outcome.ERRORED, code=code, detail=detail, transient=transient)


def read_body(custom_id: str, body: object) -> ItemResult:
    """Read the endpoint's own reply, of a batch line or of a single call."""
    if isinstance(body, dict):
        if isinstance(body.get("choices"), list):
            return _read_chat(custom_id, body)
        if isinstance(body.get("output"), list) or isinstance(body.get("error"), dict):
            return _read_responses(custom_id, body)
    detail = "status 200, but the body is no reply of the endpoint"
    return ItemResult(custom_id, Outcome.ERRORED, code=UNREADABLE, detail=detail, transient=True)


def _read_chat(custom_id: str, body: dict[str, Any]) -> ItemResult:
    choice: dict[str, Any] = next(iter(as_dicts(body["choices"])), {})
    message = as_dict(choice.get("message"))
    reason = as_text(choice.get("finish_reason"))
    refusal = as_text(message.get("refusal"))
    return _ended(custom_id, body, as_text(message.get("content")), refusal, reason)


def _read_responses(custom_id: str, body: dict[str, Any]) -> ItemResult:
    status = as_text(body.get("status"))
    error = as_dict(body.get("error"))
    if error or status in {"failed", "cancelled", "queued", "in_progress"}:
        return _read_failed(custom_id, body, error, status)
    texts, refusals = _message_parts(body)
    reason = "stop"
    if status == "incomplete":
        reason = as_text(as_dict(body.get("incomplete_details")).get("reason")) or "incomplete"
    return _ended(custom_id, body, texts, refusals, reason)


def _message_parts(body: dict[str, Any]) -> tuple[str, str]:
    """The final answer's text and the refusal; reasoning and commentary are left out."""
    parts = [
        part
        for item in as_dicts(body.get("output"))
        if item.get("type") == "message" and item.get("phase") != "commentary"
        for part in as_dicts(item.get("content"))
    ]
    texts = "".join(as_text(part.get("text")) for part in parts if part.get("type") == "output_text")
    return texts, "".join(as_text(part.get("refusal")) for part in parts if part.get("type") == "refusal")


def _ended(custom_id: str, body: dict[str, Any], text: str, refusal: str, reason: str) -> ItemResult:
    """The outcome of an executed call, of either endpoint."""
    usage, billed = _usage(body)
    model = as_text(body.get("model"))
    if refusal or reason == "content_filter":
        code, detail = ("refusal", refusal) if refusal else (reason, "the provider's content filter cut the answer")
        return ItemResult(custom_id, Outcome.REFUSED, text, usage, model, code, detail, billed=billed)
    if reason in {"length", "max_output_tokens", "max_messages", "steered", "incomplete"}:
        detail = "the answer hit the output limit"
        return ItemResult(custom_id, Outcome.TRUNCATED, text, usage, model, reason, detail, billed=billed)
    return answered(custom_id, text, usage, model, billed=billed)


def _read_failed(custom_id: str, body: dict[str, Any], error: dict[str, Any], status: str) -> ItemResult:
    """A response that the endpoint itself reports as failed or unfinished."""
    usage, billed = _usage(body)
    code = as_text(error.get("code")) or status
    outcome = Outcome.REFUSED if code in _REFUSALS else Outcome.ERRORED
    transient = code in _TRANSIENT_CODES or (not error and status != "failed")
    detail = as_text(error.get("message"))
    return ItemResult(custom_id, outcome, "", usage, as_text(body.get("model")), code, detail, transient, billed)


def _usage(body: dict[str, Any]) -> tuple[Usage, bool]:
    """Billed tokens in our words, and whether there is a usage at all."""
    usage = as_dict(body.get("usage"))
    kind, out = ("prompt", "completion") if "prompt_tokens" in usage else ("input", "output")
    cached = as_dict(usage.get(f"{kind}_tokens_details")).get("cached_tokens")
    counts = Usage(as_count(usage.get(f"{kind}_tokens")), as_count(cached), as_count(usage.get(f"{out}_tokens")))
    return counts, bool(usage)
