"""The call cache: the first answer stays, questions are answered in order, and no writer loses anything."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from batch_jobs.errors import StoreError
from batch_jobs.storage.call_cache import Answer, CallCache
from batch_jobs.storage.results import result_document
from tests.contract.storage.kit import together

WRITE = """
import sys
from pathlib import Path
from batch_jobs.storage.call_cache import Answer, CallCache
cache = CallCache.open(Path(sys.argv[1]))
mine, total = int(sys.argv[2]), int(sys.argv[3])
print("ready", flush=True)
sys.stdin.readline()
for start in range(0, total, 20):
    cache.put([
        Answer(b"%016d%016d" % (who, number), '{"by": %d}' % mine, "p", "m", "t", False, 1, 0, 1, 0.5, "job", 1.0)
        for number in range(start, start + 20)
        for who in (mine, 99)
    ])
print("written")
"""
OPEN = """
import sys
from pathlib import Path
from batch_jobs.storage.call_cache import CallCache
print("ready", flush=True)
sys.stdin.readline()
CallCache.open(Path(sys.argv[1])).close()
print("opened")
"""


def key(number: int) -> bytes:
    return b"%032d" % number


def an_answer(number: int, text: str = '{"a": "事故"}') -> Answer:
    return Answer(key(number), text, "openai", "model-1", "summarize", True, 10, 5, 3, 0.25, "a" * 32, 12.5)


def test_every_field_comes_back(cache: CallCache) -> None:
    cache.put([an_answer(1)])
    assert cache.get([key(1)]) == {key(1): an_answer(1)}
    assert cache.get([key(1)])[key(1)].simulated == 1
    assert result_document(cache.get([key(1)])[key(1)])["simulated"] is True


def test_the_first_answer_stays(cache: CallCache) -> None:
    first = an_answer(1)
    cache.put([first, first._replace(answer="{}")])
    cache.put([first._replace(answer="[]", cost_usd=9.0)])
    cache.put([])
    assert cache.get([key(1)]) == {key(1): first}


def test_what_is_not_there_is_left_out(cache: CallCache) -> None:
    cache.put([an_answer(1)])
    assert list(cache.get([key(0), key(1), key(2)])) == [key(1)]
    assert cache.get([]) == {}


def test_known_answers_in_order_also_over_chunks(cache: CallCache) -> None:
    cache.put([an_answer(number) for number in range(0, 12_000, 3)])
    asked = [*range(12_000), 0, 1, 0]
    assert list(cache.known(key(number) for number in asked)) == [number % 3 == 0 for number in asked]
    assert len(cache.get([key(number) for number in range(12_000)])) == 4_000


@pytest.mark.parametrize("stored", [0, 1])
def test_known_of_little(cache: CallCache, stored: int) -> None:
    cache.put([an_answer(0)][:stored])
    assert list(cache.known([])) == []
    assert list(cache.known([key(0), key(1)])) == [stored == 1, False]


def test_known_streams(cache: CallCache) -> None:
    """It asks for a chunk at a time: a million fingerprints are never in memory at once."""
    asked = 0

    def source() -> Iterator[bytes]:
        nonlocal asked
        for number in range(100_000):
            asked += 1
            yield key(number)

    known = cache.known(source())
    next(known)
    assert asked <= 5_000
    known.close()  # type: ignore[attr-defined]


def test_a_write_that_fails_stores_none_of_it(cache: CallCache) -> None:
    with cache.engine.begin() as connection:
        connection.exec_driver_sql(
            "CREATE TRIGGER full BEFORE INSERT ON answers WHEN NEW.cost_usd > 1 "
            "BEGIN SELECT RAISE(ABORT, 'database or disk is full'); END"
        )
    with pytest.raises(StoreError, match="disk is full: free some space"):
        cache.put([an_answer(1), an_answer(2), an_answer(3)._replace(cost_usd=2.0)])
    assert cache.get([key(1), key(2), key(3)]) == {}


def test_processes_that_write_at_once_lose_nothing(tmp_path: Path) -> None:
    path, total = tmp_path / "cache.sqlite", 200
    assert together(WRITE, [[str(path), str(mine), str(total)] for mine in range(3)]) == ["written"] * 3
    cache = CallCache.open(path)
    for mine in range(3):
        found = cache.get([b"%016d%016d" % (mine, number) for number in range(total)])
        assert len(found) == total
        assert {answer.answer for answer in found.values()} == {f'{{"by": {mine}}}'}
    assert len(cache.get([b"%016d%016d" % (99, number) for number in range(total)])) == total
    cache.close()


def test_processes_may_open_a_new_one_at_once(tmp_path: Path) -> None:
    assert together(OPEN, [[str(tmp_path / "cache.sqlite")]] * 4) == ["opened"] * 4
