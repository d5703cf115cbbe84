"""The error tree: as its docstring draws it, each with an exit code and a status, each with a message for people."""

from __future__ import annotations

import inspect
import pickle
import re

import pytest

from batch_jobs import errors
from batch_jobs.errors import BatchJobsError, FileRefused, FileTooLarge, ProviderError

CLASSES = [value for value in vars(errors).values() if inspect.isclass(value) and issubclass(value, BatchJobsError)]
EXIT_CODES = {value for name, value in vars(errors).items() if name.startswith("EXIT_")}


def drawn_tree() -> dict[str, str]:
    """Class -> parent, as the module's docstring draws it."""
    parents: dict[str, str] = {}
    path: list[str] = []
    for text in (errors.__doc__ or "").splitlines():
        found = re.match(r"^((?:    |│   |├── |└── )*)    ([A-Z]\w+)|^    ((?:│   |    |├── |└── )+)([A-Z]\w+)", text)
        if found is None:
            continue
        depth = len(found.group(3) or "") // 4
        name = found.group(2) or found.group(4)
        path[depth:] = [name]
        if depth:
            parents[name] = path[depth - 1]
    return parents


def test_the_docstring_draws_the_real_tree() -> None:
    real = {cls.__name__: cls.__mro__[1].__name__ for cls in CLASSES if cls is not BatchJobsError}
    assert drawn_tree() == real


@pytest.mark.parametrize("cls", CLASSES)
def test_every_class_has_its_codes_and_a_default_message(cls: type[BatchJobsError]) -> None:
    assert cls.exit_code in EXIT_CODES - {errors.EXIT_OK}
    assert 400 <= cls.http_status < 600
    doc = (cls.__doc__ or "").strip().splitlines()[0]
    error = cls("something") if issubclass(cls, FileRefused) else cls()
    assert error.message == ("something" if issubclass(cls, FileRefused) else doc)
    assert str(error) == error.message


def test_exit_codes_are_what_the_help_says() -> None:
    by_name = {name: value for name, value in vars(errors).items() if name.startswith("EXIT_")}
    assert by_name == {
        "EXIT_OK": 0,
        "EXIT_BUG": 1,
        "EXIT_BAD_INPUT": 2,
        "EXIT_ROWS_FAILED": 3,
        "EXIT_OPERATOR": 4,
        "EXIT_NOT_DONE": 5,
        "EXIT_INTERRUPTED": 130,
    }


@pytest.mark.parametrize("cls", [cls for cls in CLASSES if issubclass(cls, ProviderError)])
def test_a_provider_error_says_who_acts_and_whether_it_was_accepted(cls: type[ProviderError]) -> None:
    error = cls("x", code="c", status=418, retry_after_seconds=1.5)
    assert (error.code, error.status, error.retry_after_seconds) == ("c", 418, 1.5)
    if cls is not ProviderError:
        assert cls.definite or cls.transient, "neither refused nor passing: nobody would know what to do"
    assert not (cls.operator and cls.transient)
    assert cls.definite or not cls.operator


def test_only_what_is_said_to_be_definite_is() -> None:
    definite = {cls.__name__ for cls in CLASSES if issubclass(cls, ProviderError) and cls.definite}
    assert definite == {"RateLimited", "QuotaExhausted", "AuthRefused", "RequestRejected", "Unreachable"}


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (FileRefused("it is empty"), "it is empty"),
        (FileRefused("it is empty", fix="Fill it"), "it is empty. Fill it"),
        (FileRefused("bad", file="a.csv"), "a.csv: bad"),
        (FileRefused("bad", file="a.csv", rows=(5,)), "a.csv, row 5: bad"),
        (FileRefused("bad", file="a.csv", rows=(5, 1234567)), "a.csv, rows 5, 1,234,567: bad"),
        (FileRefused("bad", rows=(1, 2, 3, 4, 5)), "rows 1, 2, 3, 4, 5: bad"),
        (FileRefused("bad", rows=tuple(range(1, 1008))), "rows 1, 2, 3, 4, 5 and 1,002 more: bad"),
        (FileRefused("bad", column="x"), 'column "x": bad'),
        (FileRefused("bad", column=""), 'column "": bad'),
        (FileRefused("bad", file="a", rows=(2,), column="x", fix="Do"), 'a, row 2, column "x": bad. Do'),
        (FileTooLarge("9 GB", file="a.csv"), "a.csv: 9 GB"),
    ],
)
def test_a_refused_file_is_said_with_its_place(error: FileRefused, expected: str) -> None:
    assert error.message == expected


def test_the_parts_of_a_refusal_can_be_read() -> None:
    error = FileRefused("bad", file="a", rows=(2,), column="x", fix="Do")
    assert (error.problem, error.file, error.rows, error.column, error.fix) == ("bad", "a", (2,), "x", "Do")
    assert FileTooLarge.http_status == 413


@pytest.mark.parametrize("cls", CLASSES)
def test_errors_cross_processes(cls: type[BatchJobsError]) -> None:
    """Render workers raise them in a process of their own."""
    copy = pickle.loads(pickle.dumps(cls("what was wrong")))
    assert type(copy) is cls
    assert copy.message == "what was wrong"
