"""docs/failures.md and the tests say the same: each failure is tested for each dialect and mode that it names."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

from batch_jobs.models import Dialect, Mode
from tests.conftest import REPOSITORY

FAILURES = 38
MODES = {"batch": {"batch"}, "concurrent": {"concurrent"}, "both": {"batch", "concurrent"}}
PAGE = (REPOSITORY / "docs" / "failures.md").read_text(encoding="utf-8")

Cell = tuple[int, str, str]
"""A failure, a dialect (or `own`) and a mode."""


def documented() -> dict[int, tuple[set[str], set[str]]]:
    """Dialects and modes of each failure of the page."""
    found = re.findall(r"^\| (\d+) \| [^|]+ \| [^|]+ \| ([a-z, ]+) \| ([a-z]+) \|$", PAGE, re.MULTILINE)
    return {int(number): (set(dialects.split(", ")), MODES[mode]) for number, dialects, mode in found}


def numbered() -> Iterator[tuple[str, Callable[..., None]]]:
    """Every test of this folder's numbered modules."""
    for path in sorted(Path(__file__).parent.glob("test_f*.py")):
        module = importlib.import_module(f"tests.contract.failures.{path.stem}")
        yield from ((name, found) for name, found in vars(module).items() if name.startswith("test_"))


def values_of(test: Callable[..., None], name: str, otherwise: str) -> set[str]:
    """What a test is parametrised with under a name."""
    marks: list[Any] = getattr(test, "pytestmark", [])
    chosen = [mark.args[1] for mark in marks if mark.name == "parametrize" and mark.args[0] == name]
    return {str(value) for values in chosen for value in values} or {otherwise}


def covered() -> set[Cell]:
    """What the tests are for; those for a failure of our own may use any dialect."""
    cells: set[Cell] = set()
    for name, test in numbered():
        named = re.match(r"test_f(\d\d)_[a-z0-9_]+$", name)
        assert named is not None, f"{name} names no failure"
        number = int(named[1])
        own = documented().get(number, (set(), set()))[0] == {"own"}
        dialects = {"own"} if own else values_of(test, "dialect", "own")
        cells |= set(product([number], dialects, values_of(test, "mode", Mode.BATCH)))
    return cells


def test_the_page_lists_every_failure_once() -> None:
    assert list(documented()) == list(range(1, FAILURES + 1))
    assert len(re.findall(r"^\| \d+ \|", PAGE, re.MULTILINE)) == FAILURES
    assert {dialect for dialects, _ in documented().values() for dialect in dialects} == {*Dialect, "own"}


def test_each_failure_is_tested_for_each_dialect_and_mode_and_no_test_is_for_anything_else() -> None:
    wanted = {cell for number, (dialects, modes) in documented().items() for cell in product([number], dialects, modes)}
    assert sorted(wanted - covered()) == [], "documented, and not tested"
    assert sorted(covered() - wanted) == [], "tested, and not documented"
