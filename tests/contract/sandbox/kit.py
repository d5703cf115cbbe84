"""The real sandbox as a subprocess, the real SDKs pointed at it, and requests whose answers tell on the row."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import httpx2
from anthropic import Anthropic
from google import genai
from google.genai import types
from openai import OpenAI

from batch_jobs.models import Dialect
from providers.sandbox import base_url
from providers.sandbox.behaviour import Behaviour, Fault

FAST = Behaviour(batch_seconds=0.05)
SLOW = Behaviour(batch_seconds=60)
WAIT_SECONDS = 15.0
CHAT = "/v1/chat/completions"
RESPONSES = "/v1/responses"

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"summary": {"type": "string"}, "severity": {"type": "string", "enum": ["low", "high"]}},
    "required": ["summary", "severity"],
    "additionalProperties": False,
}

_SERVE = """
import sys
from pathlib import Path
from providers.sandbox.behaviour import Behaviour
from providers.sandbox.server import serve
idle = float(sys.argv[3]) or None
behaviour = Behaviour.from_json(sys.argv[2])
serve(host="127.0.0.1", port=0, state=Path(sys.argv[1]), behaviour=behaviour, idle_exit_seconds=idle)
"""

T = TypeVar("T")


def wait_for(look: Callable[[], T | None], what: str, seconds: float = WAIT_SECONDS) -> T:
    """Ask until there is an answer, for a bounded time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = look()
        if found:
            return found
        time.sleep(0.01)
    raise AssertionError(f"waited {seconds} s in vain for {what}")


def row_text(index: int) -> str:
    """A data point with words that no other row has."""
    return f"Rig platform{index} lost valve{index} near Port{index}. Crew{index} stopped the leak. Costs were small."


def prompt(index: int) -> str:
    return f"Summarise.\n<data_points>\n1: Country: NO\n2: DescriptionOfEvent: {row_text(index)}\n</data_points>"


def tells_on(text: str, index: int) -> bool:
    """Whether a text holds this row's own words and no other row's."""
    words = text.replace(".", " ").replace('"', " ").split()
    return f"platform{index}" in words and not any(w.startswith("platform") and w != f"platform{index}" for w in words)


@dataclass
class Server:
    """One sandbox process on a state folder; `start` may be called again after `kill`."""

    state: Path
    behaviour: Behaviour = FAST
    idle_seconds: float = 0.0
    url: str = ""
    key: str = "key-0"
    process: subprocess.Popen[bytes] | None = None
    http: httpx2.Client = field(default_factory=lambda: httpx2.Client(timeout=30))

    def start(self) -> None:
        (self.state / "server.json").unlink(missing_ok=True)
        args = [str(self.state), self.behaviour.to_json().decode(), str(self.idle_seconds)]
        self.process = subprocess.Popen([sys.executable, "-c", _SERVE, *args])
        self.url = json.loads(wait_for(self._announced, "server.json"))["url"]

    def _announced(self) -> str | None:
        assert self.process is not None
        assert self.process.poll() is None, "the sandbox ended at its start"
        path = self.state / "server.json"
        return path.read_text() if path.exists() else None

    def end(self, how: signal.Signals = signal.SIGTERM) -> None:
        assert self.process is not None
        if self.process.poll() is None:
            os.kill(self.process.pid, how)
        self.process.wait(WAIT_SECONDS)

    def get(self, path: str) -> Any:
        return self.http.get(f"{self.url}/sandbox/{path}").raise_for_status().json()

    def behave(self, behaviour: Behaviour) -> None:
        self.http.put(f"{self.url}/sandbox/behaviour", content=behaviour.to_json()).raise_for_status()

    def faulty(self, *faults: Fault, batch_seconds: float = 0.05) -> None:
        self.behave(Behaviour(batch_seconds=batch_seconds, faults=faults))

    def forward(self, seconds: float) -> float:
        """Put the sandbox's clock forward instead of waiting; give how far it is ahead."""
        reply = self.http.post(f"{self.url}/sandbox/forward", params={"seconds": seconds}).raise_for_status()
        return float(reply.json()["ahead_seconds"])

    def singles(self) -> int:
        """The number of executed single calls."""
        return sum(row["calls"] for row in self.get("bill")["totals"] if row["kind"] == "single")

    def billed(self, prefix: str) -> list[str]:
        """The custom_ids of executed batch items that start so, in order."""
        lines = self.get("bill?detail=1")["lines"]
        return sorted(line["custom_id"] for line in lines if line["custom_id"].startswith(prefix))

    @contextmanager
    def openai(self, key: str = "") -> Iterator[OpenAI]:
        with OpenAI(api_key=key or self.key, base_url=base_url(Dialect.OPENAI, self.url), max_retries=0) as client:
            yield client

    @contextmanager
    def anthropic(self, key: str = "") -> Iterator[Anthropic]:
        url = base_url(Dialect.ANTHROPIC, self.url)
        with Anthropic(api_key=key or self.key, base_url=url, max_retries=0) as client:
            yield client

    @contextmanager
    def gemini(self, key: str = "", version: str = "v1") -> Iterator[genai.Client]:
        options = types.HttpOptions(base_url=base_url(Dialect.GEMINI, self.url), api_version=version)
        client = genai.Client(api_key=key or self.key, http_options=options)
        try:
            yield client
        finally:
            client.close()


# -- OpenAI ---------------------------------------------------------------------------------------------------


def chat_body(index: int, **more: Any) -> dict[str, Any]:
    form = {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": SCHEMA}}
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": prompt(index)}]
    return {"model": "gpt-sim", "messages": messages, "response_format": form, **more}


def responses_body(index: int, **more: Any) -> dict[str, Any]:
    form = {"type": "json_schema", "name": "answer", "strict": True, "schema": SCHEMA}
    return {
        "model": "gpt-sim",
        "instructions": "Be brief.",
        "input": prompt(index),
        "text": {"format": form},
        **more,
    }


def openai_lines(prefix: str, count: int, endpoint: str = CHAT) -> list[dict[str, Any]]:
    make = chat_body if endpoint == CHAT else responses_body
    return [
        {"custom_id": f"{prefix}-{index}", "method": "POST", "url": endpoint, "body": make(index)}
        for index in range(count)
    ]


def jsonl(lines: list[dict[str, Any]]) -> bytes:
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


def openai_create(client: OpenAI, lines: list[dict[str, Any]], endpoint: str = CHAT) -> str:
    file = client.files.create(file=("in.jsonl", jsonl(lines)), purpose="batch")
    made = client.batches.create(
        input_file_id=file.id,
        endpoint="/v1/chat/completions" if endpoint == CHAT else "/v1/responses",
        completion_window="24h",
        metadata={"key": "shard"},
    )
    return made.id


def openai_ended(client: OpenAI, batch_id: str) -> Any:
    def look() -> Any:
        batch = client.batches.retrieve(batch_id)
        return batch if batch.status in {"completed", "failed", "expired", "cancelled"} else None

    return wait_for(look, "the batch's end")


def openai_results(client: OpenAI, batch: Any) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Output and error lines."""

    def lines(file_id: str | None) -> list[dict[str, Any]]:
        text = client.files.content(file_id).text if file_id else ""
        return [json.loads(line) for line in text.splitlines()]

    return lines(batch.output_file_id), lines(batch.error_file_id)


def openai_text(line: dict[str, Any]) -> str:
    body = line["response"]["body"]
    if body["object"] == "response":
        return str(body["output"][0]["content"][0]["text"])
    return str(body["choices"][0]["message"]["content"])


# -- Anthropic ------------------------------------------------------------------------------------------------


def message_params(index: int, **more: Any) -> dict[str, Any]:
    return {
        "model": "claude-sim",
        "max_tokens": 500,
        "messages": [{"role": "user", "content": prompt(index)}],
        "output_config": {"format": {"type": "json_schema", "schema": SCHEMA}},
        **more,
    }


def anthropic_requests(prefix: str, count: int) -> list[Any]:
    return [{"custom_id": f"{prefix}-{index}", "params": message_params(index)} for index in range(count)]


def anthropic_ended(client: Anthropic, batch_id: str) -> Any:
    def look() -> Any:
        batch = client.messages.batches.retrieve(batch_id)
        return batch if batch.processing_status == "ended" else None

    return wait_for(look, "the batch's end")


# -- Gemini ---------------------------------------------------------------------------------------------------


def gemini_request(index: int, **more: Any) -> dict[str, Any]:
    return {
        "contents": [{"role": "user", "parts": [{"text": prompt(index)}]}],
        "generationConfig": {"responseMimeType": "application/json", "responseJsonSchema": SCHEMA},
        **more,
    }


def gemini_lines(prefix: str, count: int) -> list[dict[str, Any]]:
    return [{"key": f"{prefix}-{index}", "request": gemini_request(index)} for index in range(count)]


def gemini_create(client: genai.Client, folder: Path, lines: list[dict[str, Any]], name: str = "job") -> str:
    path = folder / f"{name}.jsonl"
    path.write_bytes(jsonl(lines))
    file = client.files.upload(file=path, config=types.UploadFileConfig(mime_type="application/jsonl"))
    config = types.CreateBatchJobConfig(display_name=name)
    made = client.batches.create(model="gemini-sim", src=str(file.name), config=config)
    return str(made.name)


def gemini_ended(client: genai.Client, name: str) -> Any:
    def look() -> Any:
        job = client.batches.get(name=name)
        return job if job.done else None

    return wait_for(look, "the batch's end")


def gemini_results(client: genai.Client, job: Any) -> list[dict[str, Any]]:
    data = client.files.download(file=job.dest.file_name)
    return [json.loads(line) for line in data.splitlines()]


def gemini_text(line: dict[str, Any]) -> str:
    return str(line["response"]["candidates"][0]["content"]["parts"][0]["text"])
