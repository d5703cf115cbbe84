"""What a provider keeps of an ended batch is deleted: its input and results, as far as they are there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from batch_jobs.errors import AuthRefused, ProviderError, RequestRejected, ServerFailed
from batch_jobs.models import Dialect
from providers.contract import Provider
from tests.contract.providers.loopback import Loopback, Reply
from tests.contract.providers.wires import WIRES, Wire

RESULTS: dict[Dialect, dict[str, Any]] = {
    Dialect.OPENAI: {"input_file_id": "file-in", "output_file_id": "file-out", "error_file_id": "file-err"},
    Dialect.ANTHROPIC: {},
    Dialect.GEMINI: {"metadata": {"output": {"responsesFile": "files/out"}}},
}
ENDED = {Dialect.OPENAI: "completed", Dialect.ANTHROPIC: "ended", Dialect.GEMINI: "BATCH_STATE_SUCCEEDED"}
INPUT = {Dialect.OPENAI: "file-in", Dialect.ANTHROPIC: None, Dialect.GEMINI: "files/in"}
PLACES = {
    Dialect.OPENAI: ["/v1/files/file-in", "/v1/files/file-out", "/v1/files/file-err"],
    Dialect.ANTHROPIC: ["/v1/messages/batches/msgbatch_1"],
    Dialect.GEMINI: ["/v1/files/in", "/v1/files/out"],
}


def script(loopback: Loopback, wire: Wire, reply: Reply | None = None, **results: Any) -> None:
    batch = wire.batch_object(ENDED[wire.dialect], **(results or RESULTS[wire.dialect]))
    loopback.on("GET", wire.batch, Reply(batch))
    for place in PLACES[wire.dialect]:
        loopback.on("DELETE", place, reply or Reply({"id": "x", "deleted": True}))


def deleted(loopback: Loopback) -> list[str]:
    return [seen.path for seen in loopback.seen if seen.method == "DELETE"]


def test_everything_of_the_batch_is_deleted(loopback: Loopback, wire: Wire, provider: Provider) -> None:
    script(loopback, wire)
    provider.discard(wire.batch_id, INPUT[wire.dialect])
    assert deleted(loopback) == PLACES[wire.dialect]


def test_what_is_gone_already_is_fine(loopback: Loopback, wire: Wire, provider: Provider) -> None:
    script(loopback, wire, Reply(wire.error(404, "not_found_error", "no such file"), 404))
    provider.discard(wire.batch_id, INPUT[wire.dialect])
    assert deleted(loopback) == PLACES[wire.dialect]


def test_gemini_says_by_403_that_a_file_is_gone(loopback: Loopback, connected: Callable[..., Provider]) -> None:
    wire = WIRES["gemini"]
    words = "You do not have permission to access the File in or it may not exist."
    script(loopback, wire, Reply(wire.error(403, "PERMISSION_DENIED", words), 403))
    connected(wire).discard(wire.batch_id, "files/in")
    assert deleted(loopback) == PLACES[Dialect.GEMINI]


@pytest.mark.parametrize("name", ["openai-chat", "anthropic"])
def test_a_403_of_the_others_is_about_the_key(
    loopback: Loopback, connected: Callable[..., Provider], name: str
) -> None:
    wire = WIRES[name]
    script(loopback, wire, Reply(wire.error(403, "permission_error", "not yours"), 403))
    with pytest.raises(AuthRefused):
        connected(wire).discard(wire.batch_id, INPUT[wire.dialect])


@pytest.mark.parametrize(
    ("status", "expected"), [(400, RequestRejected), (401, AuthRefused), (500, ServerFailed)], ids=str
)
def test_a_refusal_is_one_of_our_errors(
    loopback: Loopback, wire: Wire, provider: Provider, status: int, expected: type[ProviderError]
) -> None:
    script(loopback, wire, Reply(wire.error(status, "some_code", "the id is too long"), status))
    with pytest.raises(expected):
        provider.discard(wire.batch_id, INPUT[wire.dialect])
    assert deleted(loopback) == PLACES[wire.dialect], "one request a file: no second try, and no file left out"


def test_an_input_file_that_nobody_remembers_is_found_in_the_batch(
    loopback: Loopback, wire: Wire, provider: Provider
) -> None:
    if wire.dialect is not Dialect.OPENAI:
        return  # the others' batches do not name it, or have none
    script(loopback, wire, output_file_id="", error_file_id=None, input_file_id="file-in")
    provider.discard(wire.batch_id, None)
    assert deleted(loopback) == ["/v1/files/file-in"]
