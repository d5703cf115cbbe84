"""The loopback server's answers: valid for whoever asked, made in advance, and never mistaken for a model's.

Each names the request's own id, so that a row with another row's answer would be seen.
"""

from __future__ import annotations

import re

import orjson

CUSTOM_ID = re.compile(rb'"custom_id": ?"([^"]+)"')
INPUT_ID = re.compile(rb'input_id\\": ?\\"([^"\\]+)\\"')
MODEL = "bench-model"
SUMMARY = (
    "Invented by the benchmark's server for %s: a payment was sent twice, found on the next day and called back; "
    "the amount was recovered in full, and a second check is made since."
)
MARK = "@@ID@@"


def _body(content: str) -> bytes:
    """A chat completion with this text."""
    return orjson.dumps(
        {
            "id": "chatcmpl-bench",
            "object": "chat.completion",
            "created": 1_764_000_000,
            "model": MODEL,
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": content, "refusal": None},
                    "logprobs": None,
                    "finish_reason": "stop",
                }
            ],
            "usage": {
                "prompt_tokens": 420,
                "completion_tokens": 48,
                "total_tokens": 468,
                "prompt_tokens_details": {"cached_tokens": 0},
            },
        }
    )


def _split(content: str) -> tuple[bytes, bytes]:
    before, after = _body(content).split(MARK.encode())
    return before, after


SUMMARIZED = _split(orjson.dumps({"summary": SUMMARY % MARK}).decode())
CHUNKED = _split(orjson.dumps({"all_results": [{"input_id": MARK, "summary": SUMMARY % "this row"}]}).decode())
"""For a peer that packs rows into one request and wants each back under its id."""
LINE_BEFORE = b'{"id":"batch_req_bench","custom_id":"'
LINE_MIDDLE = b'","response":{"status_code":200,"request_id":"req_bench","body":'
LINE_AFTER = b'},"error":null}\n'


def reply_body(request: bytes) -> bytes:
    """The answer to a single call."""
    chunk = INPUT_ID.search(request)
    before, after = CHUNKED if chunk else SUMMARIZED
    return before + (chunk[1] if chunk else b"a single call") + after


def batch_results(content: bytes) -> tuple[bytes, int]:
    """The output file of a batch's input file, and the number of its requests."""
    lines: list[bytes] = []
    for line in content.split(b"\n"):
        found = CUSTOM_ID.search(line, 0, 400) or CUSTOM_ID.search(line)
        if found is None:
            continue
        custom_id = found[1]
        chunk = INPUT_ID.search(line)
        before, after = CHUNKED if chunk else SUMMARIZED
        own = chunk[1] if chunk else custom_id
        lines.append(b"".join((LINE_BEFORE, custom_id, LINE_MIDDLE, before, own, after, LINE_AFTER)))
    return b"".join(lines), len(lines)
