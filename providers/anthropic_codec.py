"""Anthropic's wire format, pure: message bodies, batch requests and result lines.

Sources: Anthropic Message Batches guide (result types, custom_id), and the anthropic SDK's types.
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
from providers._schemas import anthropic_schema
from providers.codes import QUOTA_CODES

EFFORTS = frozenset({"low", "medium", "high", "xhigh", "max"})
"""`OutputConfigParam.effort` of the anthropic SDK."""

_TRANSIENT_ERRORS = frozenset({"api_error", "overloaded_error", "rate_limit_error", "timeout_error"})
_LIMITS = frozenset({"max_tokens", "model_context_window_exceeded"})


class AnthropicCodec:
    """Requests to Anthropic's JSON, Anthropic's result lines to outcomes."""

    dialect: Dialect = Dialect.ANTHROPIC

    def refused_parameters(self, parameters: Parameters) -> tuple[str, ...]:
        """API version 2026-10-21 refuses temperature and top_p, even at their default values."""
        refused = [name for name in ("temperature", "top_p") if getattr(parameters, name) is not None]
        if parameters.reasoning_effort is not None and parameters.reasoning_effort not in EFFORTS:
            refused.append("reasoning_effort")
        return tuple(refused)

    def encode_body(self, request: Request) -> bytes:
        """Encode one request as the params of a message."""
        parameters = request.parameters
        body: dict[str, Any] = {"model": request.model, "max_tokens": parameters.max_output_tokens}
        if request.fixed:
            body["system"] = [{"type": "text", "text": request.fixed}]
        body["messages"] = [{"role": "user", "content": request.text}]
        schema = _schema_json(orjson.dumps(request.schema))
        body["output_config"] = {"format": {"type": "json_schema", "schema": schema}}
        if parameters.reasoning_effort is not None:
            body["output_config"]["effort"] = parameters.reasoning_effort
        if parameters.temperature is not None:
            body["temperature"] = parameters.temperature
        if parameters.top_p is not None:
            body["top_p"] = parameters.top_p
        return orjson.dumps(body)

    def encode_line(self, custom_id: str, body: bytes) -> bytes:
        """Wrap a body as `{"custom_id","params"}`."""
        return b'{"custom_id":"' + custom_id.encode() + b'","params":' + body + b"}\n"

    def read_id(self, line: bytes) -> str:
        """Read only whose line of a batch's results it is.

        Raises:
            ValueError: the line is no JSON object, or has no id.
        """
        return required_id(load_object(line), "custom_id")

    def parse_line(self, line: bytes) -> ItemResult:
        """Read one line of a batch's results.

        Raises:
            ValueError: the line is no result.
        """
        record = load_object(line)
        custom_id = required_id(record, "custom_id")
        result = as_dict(record.get("result"))
        match result.get("type"):
            case "succeeded":
                return read_message(custom_id, result.get("message"))
            case "errored":
                return read_error(custom_id, as_dict(result.get("error")))
            case "expired":
                detail = "not executed within 24 hours"
                return ItemResult(custom_id, Outcome.EXPIRED, code="expired", detail=detail, transient=True)
            case "canceled":
                detail = "not executed, as the batch was cancelled"
                return ItemResult(custom_id, Outcome.CANCELLED, code="canceled", detail=detail, transient=True)
            case _:
                raise ValueError('no "result" of a known type')

    def widen(self, body: bytes, max_output_tokens: int) -> bytes:
        """The same request with another output limit."""
        request = orjson.loads(body)
        request["max_tokens"] = max_output_tokens
        return orjson.dumps(request)

    def revise(self, body: bytes, answer: str, feedback: str) -> bytes:
        """The same request, continued by the model's answer and what was wrong with it."""
        request = orjson.loads(body)
        request["messages"] += [{"role": "assistant", "content": answer}, {"role": "user", "content": feedback}]
        return orjson.dumps(request)

    def texts(self, body: bytes) -> tuple[str, str]:
        """The fixed part and the row's part."""
        request = orjson.loads(body)
        return "".join(block["text"] for block in request.get("system", ())), request["messages"][0]["content"]


@lru_cache(maxsize=64)
def _schema_json(raw: bytes) -> orjson.Fragment:
    """The schema as it is sent, encoded once for all the requests of a task."""
    return orjson.Fragment(orjson.dumps(anthropic_schema(orjson.loads(raw))))


def read_message(custom_id: str, message: object) -> ItemResult:
    """Read a message, of a batch line or of a single call."""
    if not isinstance(message, dict) or not isinstance(message.get("content"), list):
        detail = "succeeded, but there is no message"
        return ItemResult(custom_id, Outcome.ERRORED, code=UNREADABLE, detail=detail, transient=True)
    text = "".join(as_text(block.get("text")) for block in as_dicts(message["content"]) if block.get("type") == "text")
    usage, billed = _usage(message)
    model = as_text(message.get("model"))
    reason = as_text(message.get("stop_reason"))
    if reason == "refusal":
        detail = as_text(as_dict(message.get("stop_details")).get("explanation")) or "the model would not answer"
        return ItemResult(custom_id, Outcome.REFUSED, text, usage, model, reason, detail, billed=billed)
    if reason in _LIMITS:
        detail = "the answer hit the output limit"
        return ItemResult(custom_id, Outcome.TRUNCATED, text, usage, model, reason, detail, billed=billed)
    return answered(custom_id, text, usage, model, billed=billed)


def read_error(custom_id: str, error: dict[str, Any]) -> ItemResult:
    """Read an error object `{"type":"error","error":{"type","message"}}`, also without its outer shell."""
    inner = as_dict(error.get("error")) or error
    code, detail = error_code(inner), as_text(inner.get("message"))
    transient = code in _TRANSIENT_ERRORS or code in QUOTA_CODES
    return ItemResult(custom_id, Outcome.ERRORED, code=code, detail=detail, transient=transient)


def error_code(inner: dict[str, Any]) -> str:
    """The stable code of an error: `details.error_code`, or its type.

    A low balance is reported as `invalid_request_error` whose message alone says so; it is named `billing_error`
    here, so that nobody else has to read words.
    """
    kind = as_text(inner.get("type"))
    code = as_text(as_dict(inner.get("details")).get("error_code"))
    if kind == "invalid_request_error" and "credit balance is too low" in as_text(inner.get("message")).lower():
        return "billing_error"
    return code or kind or "unknown_error"


def _usage(message: dict[str, Any]) -> tuple[Usage, bool]:
    """Billed tokens in our words (Anthropic's `input_tokens` leaves the cached ones out), and if there are any."""
    usage = as_dict(message.get("usage"))
    cached = as_count(usage.get("cache_read_input_tokens"))
    written = as_count(usage.get("cache_creation_input_tokens"))
    fresh = as_count(usage.get("input_tokens"))
    return Usage(fresh + written + cached, cached, as_count(usage.get("output_tokens"))), bool(usage)
