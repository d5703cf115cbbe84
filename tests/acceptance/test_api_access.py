"""Who may use the API: keys on every route, no other machine and no other site without them, no key of a provider."""

from __future__ import annotations

import contextlib
import hashlib
import socket
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI

from batch_jobs.api.app import create_app
from batch_jobs.api.server import api_keys, check_address
from batch_jobs.errors import ConfigError
from batch_jobs.lifecycle.project import open_project
from tests.acceptance import api_kit
from tests.acceptance.api_kit import Server

REVOKED = "revoked-key"
GOOD = api_kit.csv_bytes(api_kit.losses(2))
OPEN = {"/healthz"}


def _app(root: Path) -> FastAPI:
    project = open_project(api_kit.CONFIG, root)
    project.close()
    return create_app(project, frozenset())


def _routes(routes: Iterable[Any]) -> Iterator[tuple[str, str]]:
    """Every (method, path) of an app, also of the routers that it includes."""
    for route in routes:
        inner = getattr(route, "original_router", None)
        if inner is not None:
            yield from _routes(inner.routes)
            continue
        for method in route.methods:
            yield method, route.path


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with two keys and no key of any provider; a third key was taken away from it by a restart."""
    root = tmp_path_factory.mktemp("api-locked")
    with api_kit.serving(root, keys=f"{REVOKED},alpha-key,schlüssel") as before:
        assert before.get("/jobs").status == 200
        assert before.stop() == 0
    with api_kit.serving(root, keys="alpha-key , schlüssel") as server:
        yield server


@pytest.fixture(scope="module")
def unlocked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server without keys, for this machine only."""
    with api_kit.serving(tmp_path_factory.mktemp("api-unlocked")) as server:
        yield server


WRONG: dict[str, dict[str, Any]] = {
    "none": {},
    "wrong": {"Authorization": "Bearer nonsense"},
    "empty": {"Authorization": "Bearer "},
    "cut": {"Authorization": "Bearer alpha-ke"},
    "both": {"Authorization": "Bearer alpha-key,schl"},
    "digest": {"Authorization": f"Bearer {hashlib.sha256(b'alpha-key').hexdigest()}"},
    "basic": {"Authorization": "Basic alpha-key"},
    "bare": {"Authorization": "alpha-key"},
    "other header": {"X-API-Key": "alpha-key"},
    "revoked": {"Authorization": f"Bearer {REVOKED}"},
    "long": {"Authorization": f"Bearer {'alpha-key' * 1_500}"},
    "other letters": {"Authorization": b"Bearer \xff\xfe\xc3\x28alpha-key"},
    "other encoding": {"Authorization": "Bearer schlüssel".encode("latin-1")},
    "other form": {"Authorization": "Bearer schlu\u0308ssel".encode()},
    "full width": {"Authorization": "Bearer ａlpha-key".encode()},
    "upper case": {"Authorization": "Bearer ALPHA-KEY"},
    "in the address": {"Referer": "http://alpha-key@localhost/?key=alpha-key", "Cookie": "Authorization=alpha-key"},
}


def test_every_route_but_the_health_check_wants_a_key(locked: Server, tmp_path: Path) -> None:
    """The matrix is made from the app's own routes, so that a new one can't be forgotten."""
    routes = sorted(_routes(_app(tmp_path).routes))
    paths = {path for _, path in routes}
    assert {"/docs", "/redoc", "/openapi.json", "/jobs", "/jobs/{task_id}/download", "/healthz"} <= paths
    for method, path in [*routes, ("GET", "/no-such-route"), ("GET", "/healthz/"), ("GET", "//healthz")]:
        where = path.replace("{task_id}", "0" * 32)
        for name, headers in WRONG.items():
            reply = locked.ask(method, where, headers=headers, bare=True)
            if path in OPEN:
                assert reply.status == 200, (method, path, name)
                continue
            assert reply.status == 401, (method, path, name)
            assert reply.headers["WWW-Authenticate"].startswith("Bearer")
            if method != "HEAD":
                assert reply.error["type"] == "NotAllowed"
        for key in (b"alpha-key", "schlüssel".encode()):
            allowed = locked.ask(method, where, headers={"Authorization": b"bearer " + key}, bare=True)  # type: ignore[dict-item]
            assert allowed.status != 401, (method, path)


def test_a_route_that_is_added_is_in_the_matrix(tmp_path: Path) -> None:
    app = _app(tmp_path)
    app.get("/added")(lambda: None)
    assert ("GET", "/added") in set(_routes(app.routes))


@pytest.mark.parametrize("head", [b"Authorization: Bearer " + b"k" * 1_000_000, b"Authorization: Bearer alpha\0-key"])
def test_a_head_that_no_server_should_take_is_refused_and_harms_nobody(locked: Server, head: bytes) -> None:
    with socket.create_connection(locked.address, timeout=10) as client, contextlib.suppress(ConnectionError):
        client.sendall(b"GET /jobs HTTP/1.1\r\nHost: localhost\r\n" + head + b"\r\n\r\n")
        answer = client.recv(1_000)
        assert answer.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 401 ", b"HTTP/1.1 431 ")) or not answer
    assert locked.get("/healthz").status == 200


def test_of_two_keys_with_a_request_the_first_one_counts(locked: Server) -> None:
    for first, second, status in ((b"nonsense", b"alpha-key", b"401"), (b"alpha-key", b"nonsense", b"200")):
        with socket.create_connection(locked.address, timeout=10) as client:
            keys = b"".join(b"Authorization: Bearer %s\r\n" % key for key in (first, second))
            client.sendall(b"GET /jobs HTTP/1.1\r\nHost: localhost\r\n" + keys + b"\r\n")
            assert client.recv(1_000).startswith(b"HTTP/1.1 " + status)


def test_an_upload_without_a_key_is_refused_before_it_is_read(locked: Server) -> None:
    with socket.create_connection(locked.address, timeout=10) as client:
        client.sendall(
            b"POST /jobs HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=b\r\n"
            b"Content-Length: 100000000\r\n\r\n"
        )
        assert client.recv(1_000).startswith(b"HTTP/1.1 401 ")


def test_without_the_providers_key_an_upload_is_503_and_says_which(locked: Server) -> None:
    for provider, variable in (("openai", "OPENAI_API_KEY"), ("anthropic", "ANTHROPIC_API_KEY")):
        reply = locked.upload("a.csv", GOOD, provider=provider)
        assert (reply.status, reply.error["type"], reply.error["exit_code"]) == (503, "KeyMissing", 2)
        assert variable in reply.error["message"]
    assert locked.get("/jobs").json == {"jobs": []}
    assert locked.get("/healthz").json["simulated"] is False


def test_keys_are_in_no_log(locked: Server) -> None:
    locked.get("/jobs", headers={"Authorization": "Bearer canary-key"}, bare=True)
    log = locked.log.read_text(encoding="utf-8")
    assert "alpha-key" not in log
    assert "canary-key" not in log


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1.evil.example"},
        {"Origin": "http://["},
        {"Host": "evil.example"},
        {"Host": "rebound.example:8000"},
        {"Host": "10.0.0.1"},
    ],
)
def test_without_keys_no_web_page_of_another_site_gets_in(unlocked: Server, headers: dict[str, str]) -> None:
    body = api_kit.multipart([("task", "summarize")], "a.csv", GOOD)
    reply = unlocked.ask("POST", "/jobs", body, {**api_kit.MULTIPART, **headers})
    assert (reply.status, reply.error["type"]) == (403, "NotAllowed")
    assert unlocked.get("/healthz", headers=headers).status == 403


@pytest.mark.parametrize(
    "headers", [{"Origin": "http://localhost:3000"}, {"Host": "localhost:9"}, {"Host": "[::1]:80"}]
)
def test_without_keys_this_machine_is_served(unlocked: Server, headers: dict[str, str]) -> None:
    reply = unlocked.get("/jobs", headers=headers)
    assert reply.status == 200
    assert not [name for name in reply.headers if name.lower().startswith("access-control")]


def test_keys_are_kept_as_digests_only() -> None:
    keys = api_keys({"BATCH_JOBS_API_KEYS": " one, two ,,one"})
    assert keys == {hashlib.sha256(b"one").digest(), hashlib.sha256(b"two").digest()}
    assert api_keys({}) == api_keys({"BATCH_JOBS_API_KEYS": " , "}) == frozenset()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "192.168.1.5", "example.org", "127.1.evil.example", "0"])
def test_another_address_needs_a_key(host: str) -> None:
    with pytest.raises(ConfigError, match="BATCH_JOBS_API_KEYS"):
        check_address(host, frozenset())
    check_address(host, {b"digest"})


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_this_machine_needs_none(host: str) -> None:
    check_address(host, frozenset())


def test_the_command_refuses_an_open_address_and_a_taken_port(unlocked: Server) -> None:
    open_to_all = api_kit.command_line(unlocked.root, "serve", "--host", "0.0.0.0", "--port", "0")
    assert open_to_all.returncode == 2
    assert "BATCH_JOBS_API_KEYS" in open_to_all.stderr
    taken = api_kit.command_line(unlocked.root, "serve", "--port", str(unlocked.address[1]))
    assert taken.returncode == 2
    assert "--port" in taken.stderr
