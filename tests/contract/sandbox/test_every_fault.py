"""No kind of fault without a test through the real clients for each dialect that knows it, and a README line."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import pytest

import providers.sandbox
from batch_jobs.models import Dialect
from providers.sandbox.admin import router
from providers.sandbox.behaviour import ONLY, Behaviour, Fault, FaultKind, Route
from tests.contract.providers.wires import WIRES
from tests.contract.sandbox import test_faults_of_batches as batches
from tests.contract.sandbox import test_faults_of_files as files
from tests.contract.sandbox import test_faults_of_items as items
from tests.contract.sandbox import test_faults_of_requests as requests
from tests.contract.sandbox.kit import Server

README = (Path(providers.sandbox.__file__).parent / "README.md").read_text(encoding="utf-8")

Test = Callable[..., None]
TESTS: dict[FaultKind, tuple[Test, ...]] = {
    FaultKind.REPLY_LOST: (requests.test_reply_lost,),
    FaultKind.ACCEPT_LATE: (requests.test_accept_late,),
    FaultKind.SERVER_ERROR: (requests.test_server_error,),
    FaultKind.ACCEPTED_THEN_500: (requests.test_accepted_then_500,),
    FaultKind.CONNECTION_RESET: (requests.test_connection_reset,),
    FaultKind.RATE_LIMITED: (requests.test_rate_limited,),
    FaultKind.QUOTA_EXHAUSTED: (requests.test_quota_exhausted,),
    FaultKind.AUTH_REFUSED: (requests.test_auth_refused,),
    FaultKind.SLOW_REPLY: (requests.test_slow_reply,),
    FaultKind.SLOW_DRIP: (requests.test_slow_drip,),
    FaultKind.HANG: (requests.test_hang,),
    FaultKind.BATCH_FAILS: (
        batches.test_batch_fails_after_a_create_that_was_taken,
        batches.test_batch_fails_as_errors_of_every_item,
    ),
    FaultKind.BATCH_EXPIRES: (batches.test_batch_expires,),
    FaultKind.BATCH_CANCELLED: (batches.test_batch_cancelled,),
    FaultKind.BATCH_SLOW: (batches.test_batch_slow,),
    FaultKind.LIST_LAG: (batches.test_list_lag,),
    FaultKind.UNKNOWN_STATE: (batches.test_unknown_state,),
    FaultKind.COUNTS_LIE: (batches.test_counts_lie,),
    FaultKind.DISORDER: (batches.test_disorder,),
    FaultKind.ONLY_ERROR_FILE: (batches.test_only_error_file,),
    FaultKind.NO_FILES: (batches.test_no_files,),
    FaultKind.EMPTY_IDS: (batches.test_empty_ids, batches.test_no_files),
    FaultKind.LONG_FILE_ID: (files.test_long_file_id,),
    FaultKind.FILE_NOT_READY: (files.test_file_not_ready,),
    FaultKind.DOWNLOAD_TRUNCATED: (files.test_download_truncated,),
    FaultKind.DOWNLOAD_STALLED: (files.test_download_stalled,),
    FaultKind.ITEM_MISSING: (items.test_item_missing,),
    FaultKind.ITEM_DOUBLED: (items.test_item_doubled,),
    FaultKind.ITEM_UNKNOWN_ID: (items.test_item_unknown_id,),
    FaultKind.ITEM_ERROR: (items.test_item_error,),
    FaultKind.ITEM_STATUS_ZERO: (items.test_item_status_zero,),
    FaultKind.ITEM_REFUSED: (items.test_item_refused,),
    FaultKind.ITEM_TRUNCATED: (items.test_item_truncated,),
    FaultKind.ITEM_INVALID_JSON: (items.test_item_invalid_json,),
    FaultKind.ITEM_EXPIRED: (items.test_item_expired,),
    FaultKind.PACK_MISSING: (items.test_pack_missing,),
    FaultKind.PACK_FOREIGN: (items.test_pack_foreign,),
    FaultKind.PACK_DOUBLED: (items.test_pack_doubled,),
    FaultKind.PACK_INVALID: (items.test_pack_invalid,),
    FaultKind.BAD_LINE: (items.test_bad_line,),
}


def dialects(test: Test) -> set[Dialect]:
    """The dialects that a test runs on, as its `on` says."""
    marks = [mark for mark in getattr(test, "pytestmark", []) if mark.name == "parametrize"]
    return {WIRES[wire].dialect for mark in marks if mark.args[0] == "wire" for wire in mark.args[1]}


@pytest.mark.parametrize("kind", FaultKind)
def test_every_kind_has_a_test_on_each_of_its_dialects(kind: FaultKind) -> None:
    tests = TESTS.get(kind, ())
    assert set().union(*(dialects(test) for test in tests)) == set(ONLY.get(kind, frozenset(Dialect)))
    for test in tests:
        assert f"FaultKind.{kind.name}" in inspect.getsource(test), f"{test.__name__} is not about {kind}"


@pytest.mark.parametrize("kind", FaultKind)
def test_every_kind_is_explained(kind: FaultKind) -> None:
    assert len(re.findall(rf"^\| `{kind}`( \*)? \| ", README, re.MULTILINE)) == 1


def test_the_readme_explains_no_other_kinds() -> None:
    table = README.partition("| kind | effect |")[2].partition("\n\n")[0]
    assert set(re.findall(r"^\| `(\w+)`", table, re.MULTILINE)) == set(FaultKind)


def test_every_route_and_field_is_explained() -> None:
    routes = {str(getattr(route, "path", "")) for route in router().routes}
    assert {path for path in routes if path not in README} == set()
    assert [route for route in Route if f"`{route}`" not in README] == []
    names = [field.name for each in (Behaviour, Fault) for field in fields(each)]
    assert [name for name in names if f"`{name}`" not in README and f'"{name}"' not in README] == []


def test_the_readmes_behaviour_works(server: Server) -> None:
    example = README.partition("```json\n")[2].partition("```")[0]
    behaviour = Behaviour.from_json(example)
    assert len(behaviour.faults) == 3
    assert Behaviour.from_json(behaviour.to_json()) == behaviour
    server.behave(behaviour)
    assert Behaviour.from_json(server.http.get(f"{server.url}/sandbox/behaviour").content) == behaviour
