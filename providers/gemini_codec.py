"""The Gemini Developer API's wire format, pure: generateContent bodies, batch lines and result lines.

Sources: Gemini Batch API guide (line formats), and the google-genai SDK's types.
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
from providers._schemas import gemini_schema
from providers.codes import transient_status
from providers.contract import PromptCache

EFFORTS = frozenset({"minimal", "low", "medium", "high", "xhigh"})
"""`ThinkingLevel` of the google-genai SDK, in lower case."""

STATUS_NAMES = {
    1: "CANCELLED",
    2: "UNKNOWN",
    3: "INVALID_ARGUMENT",
    4: "DEADLINE_EXCEEDED",
    5: "NOT_FOUND",
    6: "ALREADY_EXISTS",
    7: "PERMISSION_DENIED",
    8: "RESOURCE_EXHAUSTED",
    9: "FAILED_PRECONDITION",
    10: "ABORTED",
    11: "OUT_OF_RANGE",
    12: "UNIMPLEMENTED",
    13: "INTERNAL",
    14: "UNAVAILABLE",
    15: "DATA_LOSS",
    16: "UNAUTHENTICATED",
}
"""`google.rpc.Code`: a status object carries the number, an HTTP error the name."""

_TRANSIENT_NAMES = frozenset(
    {"UNKNOWN", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "ABORTED", "INTERNAL", "UNAVAILABLE"}
)
_REFUSALS = frozenset(
    {
        "SAFETY",
        "RECITATION",
        "LANGUAGE",
        "BLOCKLIST",
        "PROHIBITED_CONTENT",
        "SPII",
        "MODEL_ARMOR",
        "IMAGE_SAFETY",
        "IMAGE_PROHIBITED_CONTENT",
        "IMAGE_RECITATION",
    }
)
_LIMITS = frozenset({"MAX_TOKENS", "CONTINUATION"})
_STOPPED_ODDLY = frozenset({"OTHER", "MALFORMED_RESPONSE", "MALFORMED_FUNCTION_CALL", "UNEXPECTED_TOOL_CALL"})


class GeminiCodec:
    """Requests to Gemini's JSON, Gemini's result lines to outcomes. The model is not in a body but in the URL."""

    dialect: Dialect = Dialect.GEMINI
    prompt_cache: PromptCache = PromptCache(min_tokens=1024, min_requests=2)

    def refused_parameters(self, parameters: Parameters) -> tuple[str, ...]:
        """Only an effort that is no thinking level."""
        effort = parameters.reasoning_effort
        return () if effort is None or effort in EFFORTS else ("reasoning_effort",)

    def encode_body(self, request: Request) -> bytes:
        """Encode one request as a GenerateContentRequest."""
        parameters = request.parameters
        config: dict[str, Any] = {
            "responseMimeType": "application/json",
            "responseJsonSchema": _schema_json(orjson.dumps(request.schema)),
            "maxOutputTokens": parameters.max_output_tokens,
        }
        if parameters.temperature is not None:
            config["temperature"] = parameters.temperature
        if parameters.top_p is not None:
            config["topP"] = parameters.top_p
        if parameters.reasoning_effort is not None:
            config["thinkingConfig"] = {"thinkingLevel": parameters.reasoning_effort.upper()}
        body: dict[str, Any] = {"systemInstruction": {"parts": [{"text": request.fixed}]}} if request.fixed else {}
        parts = [{"text": text} for text in (request.shared, request.text) if text]
        body["contents"] = [{"role": "user", "parts": parts}]
        body["generationConfig"] = config
        return orjson.dumps(body)

    def encode_line(self, custom_id: str, body: bytes) -> bytes:
        """Wrap a body as `{"key","request"}`."""
        return b'{"key":"' + custom_id.encode() + b'","request":' + body + b"}\n"

    def read_id(self, line: bytes) -> str:
        """Read only whose line of a batch's results it is.

        Raises:
            ValueError: the line is no JSON object, or has no id.
        """
        return _key(load_object(line))

    def parse_line(self, line: bytes) -> ItemResult:
        """Read one line of a result file, or one inlined response written as a line.

        Raises:
            ValueError: the line is no result.
        """
        record = load_object(line)
        key = _key(record)
        if isinstance(record.get("response"), dict):
            return read_response(key, record["response"])
        if isinstance(record.get("error"), dict):
            return read_error(key, record["error"])
        raise ValueError('neither "response" nor "error"')

    def widen(self, body: bytes, max_output_tokens: int) -> bytes:
        """The same request with another output limit."""
        request = orjson.loads(body)
        request["generationConfig"]["maxOutputTokens"] = max_output_tokens
        return orjson.dumps(request)

    def revise(self, body: bytes, answer: str, feedback: str) -> bytes:
        """The same request, continued by the model's answer and what was wrong with it."""
        request = orjson.loads(body)
        turns = ("model", answer), ("user", feedback)
        request["contents"] += [{"role": role, "parts": [{"text": text}]} for role, text in turns]
        return orjson.dumps(request)

    def texts(self, body: bytes) -> tuple[str, str]:
        """The fixed part and the row's part."""
        request = orjson.loads(body)
        fixed, user = request.get("systemInstruction", {"parts": []}), request["contents"][0]
        return "".join(part["text"] for part in fixed["parts"]), "".join(part["text"] for part in user["parts"])


def _key(record: dict[str, Any]) -> str:
    return required_id(record if "key" in record else as_dict(record.get("metadata")), "key")


@lru_cache(maxsize=64)
def _schema_json(raw: bytes) -> orjson.Fragment:
    """The schema as it is sent, encoded once for all the requests of a task."""
    return orjson.Fragment(orjson.dumps(gemini_schema(orjson.loads(raw))))


def read_response(key: str, response: object) -> ItemResult:
    """Read a GenerateContentResponse, of a batch line or of a single call."""
    if not isinstance(response, dict):
        return ItemResult(key, Outcome.ERRORED, code=UNREADABLE, detail="there is no response object", transient=True)
    usage, billed = _usage(response)
    model = as_text(response.get("modelVersion"))
    candidate: dict[str, Any] = next(iter(as_dicts(response.get("candidates"))), {})
    text = _text(candidate)
    ending = _odd_ending(candidate, as_dict(response.get("promptFeedback")))
    if ending is None:
        return answered(key, text, usage, model, billed=billed)
    outcome, reason, detail = ending
    return ItemResult(key, outcome, text, usage, model, reason, detail, outcome is Outcome.ERRORED, billed)


def _odd_ending(candidate: dict[str, Any], feedback: dict[str, Any]) -> tuple[Outcome, str, str] | None:
    """How a response ended that is no whole answer: outcome, reason, detail."""
    reason = as_text(candidate.get("finishReason")) or as_text(feedback.get("blockReason"))
    said = as_text(candidate.get("finishMessage")) or as_text(feedback.get("blockReasonMessage"))
    if reason in _REFUSALS or (not candidate and reason):
        return Outcome.REFUSED, reason, said or "a safety filter stopped the answer"
    if reason in _LIMITS:
        return Outcome.TRUNCATED, reason, "the answer hit the output limit"
    if reason in _STOPPED_ODDLY:
        return Outcome.ERRORED, reason, said or "the model stopped for a reason of its own"
    return None


def read_error(key: str, error: dict[str, Any]) -> ItemResult:
    """Read a google.rpc.Status, or an HTTP error object."""
    code, detail = error_name(error), as_text(error.get("message"))
    outcome = Outcome.CANCELLED if code == "CANCELLED" else Outcome.ERRORED
    number = as_count(error.get("code"))
    transient = code in _TRANSIENT_NAMES or code == "CANCELLED" or (number > 16 and transient_status(number))
    return ItemResult(key, outcome, code=code, detail=detail, transient=transient)


def error_name(error: dict[str, Any]) -> str:
    """The name of an error: its status, or the name of its google.rpc code, or its HTTP number."""
    number = as_count(error.get("code"))
    return as_text(error.get("status")) or STATUS_NAMES.get(number) or f"status_{number}"


def _text(candidate: dict[str, Any]) -> str:
    """The answer's text; thoughts are no part of it."""
    parts = as_dicts(as_dict(candidate.get("content")).get("parts"))
    return "".join(as_text(part.get("text")) for part in parts if not part.get("thought"))


def _usage(response: dict[str, Any]) -> tuple[Usage, bool]:
    """Billed tokens in our words (thoughts are billed as output), and whether there are any."""
    usage = as_dict(response.get("usageMetadata"))
    prompt = as_count(usage.get("promptTokenCount")) + as_count(usage.get("toolUsePromptTokenCount"))
    output = as_count(usage.get("candidatesTokenCount")) + as_count(usage.get("thoughtsTokenCount"))
    return Usage(prompt, as_count(usage.get("cachedContentTokenCount")), output), bool(usage)
