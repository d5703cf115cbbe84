"""The tables of legal moves: complete, without a dead end, and with nothing that can't be reached."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

import pytest

from batch_jobs.models import (
    PHASE_MOVES,
    SHARD_MOVES,
    BatchState,
    Counts,
    EventName,
    Outcome,
    Phase,
    ShardState,
)

TABLES: list[tuple[type[StrEnum], Mapping[StrEnum, frozenset[StrEnum]], StrEnum, StrEnum]] = [
    (Phase, PHASE_MOVES, Phase.RECEIVED, Phase.DONE),  # type: ignore[list-item]
    (ShardState, SHARD_MOVES, ShardState.RENDERED, ShardState.MERGED),  # type: ignore[list-item]
]


def reachable(moves: Mapping[StrEnum, frozenset[StrEnum]], start: StrEnum) -> set[StrEnum]:
    found, waiting = {start}, [start]
    while waiting:
        new = moves[waiting.pop()] - found
        found |= new
        waiting += new
    return found


@pytest.mark.parametrize(("states", "moves", "first", "last"), TABLES)
def test_every_state_is_in_the_table(
    states: type[StrEnum], moves: Mapping[StrEnum, frozenset[StrEnum]], first: StrEnum, last: StrEnum
) -> None:
    assert list(moves) == list(states)
    assert all(target in states for targets in moves.values() for target in targets)
    assert all(state not in targets for state, targets in moves.items())


@pytest.mark.parametrize(("states", "moves", "first", "last"), TABLES)
def test_every_state_is_reached_and_leads_to_the_end(
    states: type[StrEnum], moves: Mapping[StrEnum, frozenset[StrEnum]], first: StrEnum, last: StrEnum
) -> None:
    assert reachable(moves, first) == set(states)
    assert all(last in reachable(moves, state) for state in states)
    assert [state for state, targets in moves.items() if not targets] == [last]


def test_what_was_sent_is_never_sent_again_without_a_look() -> None:
    """From `submitting` a create may be on its way: only a clear refusal leads back to `rendered`."""
    assert ShardState.SUBMITTING not in SHARD_MOVES[ShardState.UNKNOWN]
    for state in (ShardState.SUBMITTED, ShardState.ENDED, ShardState.FETCHED, ShardState.MERGED):
        assert not SHARD_MOVES[state] & {ShardState.SUBMITTING, ShardState.UNKNOWN, ShardState.SUBMITTED}


def test_a_job_can_be_cancelled_until_it_is_written() -> None:
    able = {phase for phase, targets in PHASE_MOVES.items() if Phase.CANCELLING in targets}
    assert able == {Phase.RECEIVED, Phase.PLANNED, Phase.RUNNING, Phase.PAUSED}


def test_terminal_batch_states() -> None:
    assert {state for state in BatchState if state.terminal} == {
        BatchState.COMPLETED,
        BatchState.FAILED,
        BatchState.EXPIRED,
        BatchState.CANCELLED,
    }


def test_names_are_unique_and_plain() -> None:
    for enum in (Phase, ShardState, Outcome, EventName, BatchState):
        values = [member.value for member in enum]
        assert len(set(values)) == len(values)
        assert all(value == value.lower() and value.replace("_", "").replace(".", "").isalpha() for value in values)


def test_counts() -> None:
    assert Counts(10, 3, 4).finished == 7
    assert Counts().finished == 0
