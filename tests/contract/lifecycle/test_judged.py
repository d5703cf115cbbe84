"""Judged and bundled answers: what is asked a second time goes as it should, and nothing that came is asked again."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from batch_jobs.lifecycle.advance import Came
from batch_jobs.models import ItemResult, Mode, Outcome
from tests.contract.lifecycle.kit import (
    JUDGE_MODEL,
    JUDGED,
    LIMIT,
    MODEL,
    USAGE,
    Sent,
    World,
    ok,
    truncated,
    world_with,
)

EVENTS = [f"event-{number}" for number in range(6)]
ACCEPT = json.dumps({"verdict": "accept", "score": 1, "feedback": ""})
REJECT = json.dumps({"verdict": "reject", "score": 0, "feedback": "it is made up"})
MakeJudged = Callable[..., World]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[MakeJudged]:
    made: list[World] = []

    def world(mode: Mode, rules: dict[str, Any], events: Sequence[str] = EVENTS, **sections: Any) -> World:
        made.append(world_with(tmp_path / f"world-{len(made)}", mode, rules, events, **sections))
        return made[-1]

    yield world
    for one in made:
        one.project.close()


def is_judge(sent: Sent) -> bool:
    return bool(sent.body["model"] == JUDGE_MODEL)


def test_a_verdict_that_was_cut_off_is_asked_for_with_more_room(make: MakeJudged) -> None:
    world = make(Mode.BATCH, JUDGED)
    limits: list[int] = []

    def reply(sent: Sent) -> list[bytes]:
        if not is_judge(sent):
            return [ok(sent)]
        if sent.event == "event-3":
            limits.append(sent.limit)
            return [truncated(sent) if len(limits) == 1 else ok(sent, ACCEPT)]
        return [ok(sent, ACCEPT)]

    world.provider.reply = reply
    assert world.run() is Came.DONE
    assert limits == [LIMIT, 4 * LIMIT]
    assert world.outcomes == [Outcome.SUCCEEDED] * len(EVENTS)


def answer_by(world: World, text: Callable[[Sent], str]) -> None:
    """Answer in both ways."""
    world.provider.reply = lambda sent: [ok(sent, text(sent))]
    world.provider.call = lambda sent, _: good_with(text(sent))


def good_with(text: str) -> ItemResult:
    return ItemResult("", Outcome.SUCCEEDED, text, USAGE, MODEL, billed=True)
