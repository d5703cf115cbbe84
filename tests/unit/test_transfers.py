"""Several things at once, bounded: what is begun is finished, the first failure stops the rest."""

from __future__ import annotations

import threading

import pytest

from batch_jobs.errors import ServerFailed, SyncFailed
from batch_jobs.lifecycle.transfers import side_by_side

SECONDS = 20


def test_as_many_at_once_as_allowed_and_no_more() -> None:
    together, over = threading.Barrier(3), threading.Semaphore(3)
    came: list[int] = []

    def work(number: int, _: threading.Event) -> int:
        assert over.acquire(blocking=False), "more than three at once"
        together.wait(SECONDS)
        over.release()
        return number

    side_by_side(range(9), work, came.append, 3)
    assert sorted(came) == list(range(9))


@pytest.mark.parametrize("workers", [1, 4])
def test_what_follows_runs_in_the_callers_thread_only(workers: int) -> None:
    threads: set[threading.Thread] = set()
    side_by_side(range(8), lambda _, __: None, lambda _: threads.add(threading.current_thread()), workers)
    assert threads == {threading.current_thread()}


def test_one_at_a_time_goes_in_order() -> None:
    order: list[str] = []
    side_by_side("abc", lambda letter, _: order.append(f"work {letter}"), lambda _: order.append("then"), 1)
    assert order == ["work a", "then", "work b", "then", "work c", "then"]


def test_what_is_begun_is_finished_and_nothing_new_is_begun() -> None:
    began, ended = [threading.Event() for _ in range(2)], list[int]()

    def work(number: int, halt: threading.Event) -> None:
        if number == 0:
            assert began[1].wait(SECONDS)
            raise ServerFailed
        began[number].set()
        assert halt.wait(SECONDS), "nobody told it to come to an end"
        ended.append(number)

    with pytest.raises(ServerFailed):
        side_by_side(range(2), work, lambda _: None, 2)
    assert ended == [1]


def test_a_failed_sync_goes_before_any_other_error() -> None:
    both = threading.Barrier(2)

    def work(number: int, halt: threading.Event) -> None:
        both.wait(SECONDS)
        if number == 0:
            raise ServerFailed
        assert halt.wait(SECONDS)
        raise SyncFailed

    with pytest.raises(SyncFailed):
        side_by_side(range(2), work, lambda _: None, 2)


def test_an_error_of_what_follows_ends_it_too() -> None:
    def then(_: None) -> None:
        raise ServerFailed

    with pytest.raises(ServerFailed):
        side_by_side(range(5), lambda _, __: None, then, 3)
