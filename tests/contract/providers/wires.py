"""The four wires under test: where each verb goes, and what the provider says there in its own words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from batch_jobs.models import Dialect

KEY = "sk-test-0123456789-very-secret"
SHARD_KEY = "task1-r0-s1"
MODEL = "model-1"
CREATED = "2026-11-21T10:00:00Z"
CREATED_UNIX = 1795255200
ANSWER = '{"summary":"ok"}'


@dataclass(frozen=True)
class Wire:
    """One dialect and endpoint."""

    name: str
    dialect: Dialect
    endpoint: str | None
    prefix: str
    create: str
    batch_id: str
    batch: str
    listing: str
    cancel: str
    complete: str

    def batch_object(self, state: str, *, key: str = SHARD_KEY, batch_id: str | None = None, **more: Any) -> Any:
        """A batch as the provider shows it."""
        return _BATCH[self.dialect](batch_id or self.batch_id, state, key, more)

    def page(self, batches: list[Any], following: str = "") -> Any:
        """One page of the listing."""
        if self.dialect is Dialect.GEMINI:
            return {"operations": batches} | ({"nextPageToken": following} if following else {})
        return {"object": "list", "data": batches, "has_more": bool(following)}

    def error(self, status: int, code: str, message: str) -> Any:
        """The body of an answer with an error."""
        if self.dialect is Dialect.OPENAI:
            return {"error": {"message": message, "type": code, "param": None, "code": code}}
        if self.dialect is Dialect.ANTHROPIC:
            return {"type": "error", "error": {"type": code, "message": message}}
        return {"error": {"code": status, "message": message, "status": code}}

    def answer(self, text: str = ANSWER, *, ended: str = "stop") -> Any:
        """The endpoint's own reply, ended by stop, length or refusal."""
        return _ANSWER[self.name](text, ended)

    def file_reply(self, file_id: str, size: int) -> Any:
        """An uploaded file, usable."""
        if self.dialect is Dialect.GEMINI:
            return {"name": file_id, "state": "ACTIVE", "sizeBytes": str(size), "mimeType": "application/jsonl"}
        return {"id": file_id, "object": "file", "bytes": size, "purpose": "batch", "status": "processed"}


def _openai_batch(batch_id: str, state: str, key: str, more: dict[str, Any]) -> Any:
    batch = {"id": batch_id, "object": "batch", "status": state, "created_at": CREATED_UNIX}
    return batch | {"metadata": {"shard_key": key}, "request_counts": {"total": 3, "completed": 2, "failed": 1}} | more


def _anthropic_batch(batch_id: str, state: str, _key: str, more: dict[str, Any]) -> Any:
    counts = {"processing": 0, "succeeded": 2, "errored": 1, "canceled": 0, "expired": 0}
    batch = {"id": batch_id, "type": "message_batch", "processing_status": state, "request_counts": counts}
    return batch | {"created_at": CREATED, "results_url": None} | more


def _gemini_batch(batch_id: str, state: str, key: str, more: dict[str, Any]) -> Any:
    stats = {"requestCount": "3", "successfulRequestCount": "2", "failedRequestCount": "1"}
    metadata = {"displayName": key, "state": state, "createTime": CREATED, "batchStats": stats}
    return {"name": batch_id, "metadata": metadata | more.pop("metadata", {})} | more


def _chat(text: str, ended: str) -> Any:
    message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None}
    if ended == "refusal":
        message |= {"content": None, "refusal": "I can't help with that."}
    reason = "length" if ended == "length" else "stop"
    usage = {"prompt_tokens": 90, "prompt_tokens_details": {"cached_tokens": 40}, "completion_tokens": 7}
    choice = {"index": 0, "message": message, "finish_reason": reason}
    return {"id": "c1", "object": "chat.completion", "model": MODEL, "choices": [choice], "usage": usage}


def _responses(text: str, ended: str) -> Any:
    part = {"type": "output_text", "text": text, "annotations": []}
    if ended == "refusal":
        part = {"type": "refusal", "refusal": "I can't help with that."}
    output = [{"type": "reasoning", "id": "r1", "summary": []}, {"type": "message", "id": "m1", "content": [part]}]
    usage = {"input_tokens": 90, "input_tokens_details": {"cached_tokens": 40}, "output_tokens": 7}
    cut = {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}} if ended == "length" else {}
    reply = {"id": "r1", "object": "response", "model": MODEL, "status": "completed", "error": None}
    return reply | {"output": output, "usage": usage} | cut


def _message(text: str, ended: str) -> Any:
    reason = {"stop": "end_turn", "length": "max_tokens", "refusal": "refusal"}[ended]
    content = [] if ended == "refusal" else [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": text}]
    usage = {
        "input_tokens": 30,
        "cache_creation_input_tokens": 20,
        "cache_read_input_tokens": 40,
        "output_tokens": 7,
    }
    return {"id": "m1", "type": "message", "model": MODEL, "content": content, "stop_reason": reason, "usage": usage}


def _generated(text: str, ended: str) -> Any:
    usage = {
        "promptTokenCount": 90,
        "cachedContentTokenCount": 40,
        "candidatesTokenCount": 4,
        "thoughtsTokenCount": 3,
    }
    if ended == "refusal":
        return {"promptFeedback": {"blockReason": "SAFETY"}, "usageMetadata": usage, "modelVersion": MODEL}
    parts = [{"text": "thinking", "thought": True}, {"text": text}]
    reason = "MAX_TOKENS" if ended == "length" else "STOP"
    candidate = {"content": {"role": "model", "parts": parts}, "finishReason": reason, "index": 0}
    return {"candidates": [candidate], "usageMetadata": usage, "modelVersion": MODEL}


_BATCH = {Dialect.OPENAI: _openai_batch, Dialect.ANTHROPIC: _anthropic_batch, Dialect.GEMINI: _gemini_batch}
_ANSWER = {"openai-chat": _chat, "openai-responses": _responses, "anthropic": _message, "gemini": _generated}


def _openai(name: str, endpoint: str) -> Wire:
    return Wire(
        name=name,
        dialect=Dialect.OPENAI,
        endpoint=endpoint,
        prefix="/v1",
        create="/v1/batches",
        batch_id="batch_1",
        batch="/v1/batches/batch_1",
        listing="/v1/batches",
        cancel="/v1/batches/batch_1/cancel",
        complete=endpoint,
    )


WIRES = {
    wire.name: wire
    for wire in (
        _openai("openai-chat", "/v1/chat/completions"),
        _openai("openai-responses", "/v1/responses"),
        Wire(
            name="anthropic",
            dialect=Dialect.ANTHROPIC,
            endpoint=None,
            prefix="",
            create="/v1/messages/batches",
            batch_id="msgbatch_1",
            batch="/v1/messages/batches/msgbatch_1",
            listing="/v1/messages/batches",
            cancel="/v1/messages/batches/msgbatch_1/cancel",
            complete="/v1/messages",
        ),
        Wire(
            name="gemini",
            dialect=Dialect.GEMINI,
            endpoint=None,
            prefix="",
            create=f"/v1/models/{MODEL}:batchGenerateContent",
            batch_id="batches/b1",
            batch="/v1/batches/b1",
            listing="/v1/batches",
            cancel="/v1/batches/b1:cancel",
            complete=f"/v1/models/{MODEL}:generateContent",
        ),
    )
}
LIVE_STATE = {Dialect.OPENAI: "validating", Dialect.ANTHROPIC: "in_progress", Dialect.GEMINI: "BATCH_STATE_PENDING"}
