"""Keys that would be noticed anywhere: jobs run at DEBUG against a provider that tells them back in every error.

No file of the root, no line of a log and no answer of the API may hold a key, a piece of it, or its sha256. What may
be there is the documented account: the first 12 characters of that digest.
"""

from __future__ import annotations

import hashlib
import json
import socket
import struct
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from batch_jobs.errors import (
    EXIT_OPERATOR,
    AuthRefused,
    ProviderError,
    RateLimited,
    RequestRejected,
    ServerFailed,
    UnreadableReply,
)
from providers._transport import provider_error
from tests.acceptance import api_kit
from tests.acceptance.api_kit import Server

PROVIDERS = ("openai", "anthropic", "gemini")
KEY_HEADERS = ("Authorization", "x-api-key", "x-goog-api-key")
PIECE_CHARS = 20
ACCOUNT_CHARS = 12
AT_DEBUG = ("-c", "import logging; logging.basicConfig(level='DEBUG'); from batch_jobs.cli import main; main()")
LOUD = {"OPENAI_LOG": "debug", "ANTHROPIC_LOG": "debug", "PYTHONFAULTHANDLER": "1"}
CASE = ("--task", "summarize", "--data-case", "external_loss", "--yes")
FORMS = (
    "message",
    *(pytest.param(form, marks=pytest.mark.soak) for form in ("code", "cut")),
)
"""Where the provider repeats the key: in its words, in what should be a code, in its words but for the last letters."""
RESET = 0
FAULTS = (500, RESET, 429, 503, 500)
"""What the first requests of a key meet, in this order; each later one is refused for its key."""


def _key(provider: str, where: str) -> str:
    """A key as long as real ones, that no other text could be a piece of."""
    return f"sk-canary-{provider}-{where}-" + hashlib.sha256(f"{provider} {where}".encode()).hexdigest()[:40]


@dataclass
class Told:
    """What the provider did: every status it gave, by key."""

    url: str = ""
    form: str = "message"
    given: Counter[tuple[str, int]] = field(default_factory=Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def next_for(self, key: str) -> int:
        with self.lock:
            before = sum(count for (owner, _), count in self.given.items() if owner == key)
            status = FAULTS[before] if before < len(FAULTS) else 401
            self.given[key, status] += 1
        return status


def _error_body(form: str, key: str, status: int) -> dict[str, object]:
    """An error in the fields of all three dialects, with the key in it."""
    told = key[:-8] + "********" if form == "cut" else key
    message = f"Incorrect API key provided: {told}. You can find your key at https://provider.example/keys."
    code = key if form == "code" else f"canary_{status}"
    error = {"message": message, "type": code, "code": code, "status": code, "param": message, "details": [message]}
    return {"type": "error", "error": error, "request_id": told}


@contextmanager
def telling_provider(form: str) -> Iterator[Told]:
    """A server that speaks HTTP and nothing else, and repeats the key in every error, in one of the FORMS."""
    told = Told(form=form)

    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            given = next((self.headers[name] for name in KEY_HEADERS if self.headers[name]), "no key")
            key = given.removeprefix("Bearer ")
            status = told.next_for(key)
            self.rfile.read(int(self.headers["Content-Length"] or 0))
            if status == RESET:
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.connection.close()
                self.close_connection = True
                return
            body = json.dumps(_error_body(told.form, key, status)).encode()
            self.send_response(status)
            for name, value in (("Content-Type", "application/json"), ("Content-Length", str(len(body)))):
                self.send_header(name, value)
            self.send_header("Retry-After", "0")
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = do_PUT = do_DELETE = _answer

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        told.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield told
        finally:
            server.shutdown()
            thread.join()


def _environ(url: str, where: str) -> dict[str, str]:
    bases = {"OPENAI_BASE_URL": url, "ANTHROPIC_BASE_URL": url, "GOOGLE_GEMINI_BASE_URL": url}
    return {**bases, **{f"{name.upper()}_API_KEY": _key(name, where) for name in PROVIDERS}, **LOUD}


def _traces(keys: list[str]) -> dict[str, bytes]:
    """What must be nowhere: the key, each piece of 20 characters at its two ends and middle, the digest beyond 12."""
    found: dict[str, bytes] = {}
    for key in keys:
        digest = hashlib.sha256(key.encode()).hexdigest()
        middle = len(key) // 2
        pieces = {"start": key[:PIECE_CHARS], "middle": key[middle : middle + PIECE_CHARS], "end": key[-PIECE_CHARS:]}
        pieces |= {"key": key, "digest": digest, "account": digest[: ACCOUNT_CHARS + 1], "reversed": key[::-1]}
        found |= {f"{name} of {key}": piece.encode() for name, piece in pieces.items()}
    return found


def _leaks(keys: list[str], root: Path, said: dict[str, bytes]) -> list[str]:
    """Where a trace of a key is, among all files of a root and all that was said."""
    contents = {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}
    assert any(name.endswith("ledger.sqlite") for name in contents)
    traces = _traces(keys)
    return [
        f"{trace} in {name}" for name, text in (contents | said).items() for trace in traces if traces[trace] in text
    ]


def _met_all(told: Told, key: str) -> None:
    met = {status for owner, status in told.given if owner == key}
    assert met == {*FAULTS, 401}, (key, told.given)


def _calls_by_the_command_line(root: Path, told: Told) -> tuple[list[str], dict[str, bytes]]:
    """Single calls through all three SDKs; each run ends paused, as its key is refused in the end."""
    environ, said = _environ(told.url, "cli"), {}
    (root / "calls.csv").write_bytes(api_kit.csv_bytes(api_kit.losses(6, "CANARY")))
    for provider in PROVIDERS:
        options = ("--provider", provider, "--mode", "concurrent", "--json")
        ended = api_kit.command_line(
            root, "run", "--file", str(root / "calls.csv"), *CASE, *options, program=AT_DEBUG, **environ
        )
        assert ended.returncode == EXIT_OPERATOR, ended.stderr
        assert "DEBUG" in ended.stderr, "it is really as loud as it can be"
        said[f"what the command said of {provider}"] = (ended.stdout + ended.stderr).encode()
    return [_key(provider, "cli") for provider in PROVIDERS], said


def _batches_by_the_server(server: Server) -> dict[str, bytes]:
    """A batch of each provider through the API; returns every answer it gave."""
    content, said = api_kit.csv_bytes(api_kit.losses(3, "CANARY")), {}
    for provider in PROVIDERS:
        task_id = server.start("batches.csv", content, provider=provider, mode="batch")

        def paused(path: str = f"/jobs/{task_id}") -> bool:
            return bool(server.get(path).json["phase"] == "paused")

        api_kit.wait_for(paused, f"the key of {provider} is refused")
        for tail in ("", "/events", "/download", "/report"):
            said[f"the answer to {provider}{tail}"] = server.get(f"/jobs/{task_id}{tail}").body
    for path in ("/jobs", "/jobs?stuck=true", "/tasks", "/healthz", "/openapi.json", "/docs"):
        said[f"the answer to {path}"] = server.get(path).body
    wrong = server.get("/jobs", headers={"Authorization": f"Bearer {_key('nobody', 'wrong')}"}, bare=True)
    assert wrong.status == 401
    return {**said, "the answer to a wrong key": wrong.body}


@pytest.mark.parametrize("form", FORMS)
def test_a_key_is_nowhere_after_calls_by_the_command_line(tmp_path: Path, form: str) -> None:
    with telling_provider(form) as told:
        keys, said = _calls_by_the_command_line(tmp_path, told)
        for key in keys:
            _met_all(told, key)
    assert not _leaks(keys, tmp_path, said)


@pytest.mark.parametrize("form", FORMS)
def test_a_key_is_nowhere_after_batches_by_the_server(tmp_path: Path, form: str) -> None:
    entry = _key("api", "client")
    with telling_provider(form) as told:
        environ = _environ(told.url, "api")
        with api_kit.serving(tmp_path, keys=entry, program=AT_DEBUG, **environ) as server:
            said = _batches_by_the_server(server)
            assert server.stop() == 0
        assert "DEBUG" in server.log.read_text(encoding="utf-8")
        keys = [_key(provider, "api") for provider in PROVIDERS]
        for key in keys:
            _met_all(told, key)
    assert not _leaks([*keys, entry, _key("nobody", "wrong")], tmp_path, said)


ERRORS = (ServerFailed, RateLimited, RequestRejected, UnreadableReply, AuthRefused)


@pytest.mark.parametrize(
    ("kind", "form"),
    [(kind, form) for kind in ERRORS for form in ("message", "code", "cut")],
)
def test_no_error_of_a_provider_holds_the_key(kind: type[ProviderError], form: str) -> None:
    """The same as above at its source, for each kind of error: what the provider said becomes our error here."""
    key = _key("openai", "error")
    told: Any = _error_body(form, key, 500)["error"]
    error = provider_error(kind, told["message"], secret=key, code=told["code"], status=500)
    said = f"{error} {error.code} {error!r}".encode()
    assert not [name for name, trace in _traces([key]).items() if trace in said]


def test_the_search_finds_a_trace(tmp_path: Path) -> None:
    key = _key("openai", "search")
    (tmp_path / "ledger.sqlite").write_bytes(b"")
    hidden = [key, key[:PIECE_CHARS], f"x{key[-PIECE_CHARS:]}", hashlib.sha256(key.encode()).hexdigest()]
    for text in hidden:
        (tmp_path / "file").write_bytes(b"\0" + text.encode())
        assert _leaks([key], tmp_path, {})
        (tmp_path / "file").unlink()
        assert _leaks([key], tmp_path, {"stderr": text.encode()})
    account = hashlib.sha256(key.encode()).hexdigest()[:ACCOUNT_CHARS]
    assert not _leaks([key], tmp_path, {"stderr": f"key:{account} {key[: PIECE_CHARS - 1]}".encode()})
