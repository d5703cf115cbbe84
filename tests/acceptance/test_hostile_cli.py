"""Every hostile name at every option of the command line and in config.json: exit 2, or exactly the one file asked for.

The command line's user may write where they like, so a path is no attack here: it must lead to that path alone. All
that would lead out of the test's own folder is left out. Names are tried in this process; the last ones in their own.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from batch_jobs.cli import main
from batch_jobs.errors import EXIT_BAD_INPUT, EXIT_OK, EXIT_OPERATOR
from tests.acceptance import api_kit, hostile
from tests.acceptance.api_kit import CONFIG

DEEP = "b/c/d/e/f/g/h/i/j"
ROWS = api_kit.losses(2, "CLI")
NO_TABLE = b"a,b\n1,2\n"
MAX_FILE_NAME_BYTES = 255
CASE = ("--task", "summarize", "--data-case", "external_loss")


def _can_be_said(name: str) -> bool:
    """Whether a process can be given the name as text; what is no text is told apart below."""
    try:
        return b"\0" not in name.encode()
    except UnicodeEncodeError:
        return False


NAMES = tuple(name for name in hostile.NAMES if _can_be_said(name))


def _can_be_a_name(name: str) -> bool:
    """Whether each part of a path is short enough; what is too long is told apart below."""
    return all(len(part.encode()) <= MAX_FILE_NAME_BYTES for part in name.split("/"))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds the root and all that the tests write."""
    return tmp_path_factory.mktemp("hostile-cli")


@pytest.fixture(scope="module")
def root(place: Path) -> Path:
    (place / "root").mkdir()
    return place / "root"


@pytest.fixture(autouse=True)
def here(place: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working folder, so far down that no `../` of ours leads out; nothing may ever appear above the place."""
    here = place / f"a{len(list(place.iterdir()))}" / DEEP
    here.mkdir(parents=True)
    monkeypatch.chdir(here)
    before = set(hostile.strays(place))
    yield here
    assert set(hostile.strays(place)) == before


def told(capsys: pytest.CaptureFixture[str], *arguments: str, config: Path = CONFIG, root: Path) -> tuple[int, str]:
    """Give one command in this process; returns its exit code and what it said on stderr."""
    with pytest.raises(SystemExit) as ended:
        main([*arguments, f"--config={config}", f"--root={root}"])
    assert isinstance(ended.value.code, int)
    said = capsys.readouterr().err
    assert "Traceback" not in said, (arguments, said)
    return ended.value.code, said


def _tree(place: Path) -> set[str]:
    """All that lies below, but for what SQLite keeps beside an open database."""
    return {name for name in api_kit.files_of(place) if not name.endswith(("-wal", "-shm"))}


def test_as_a_task_id(capsys: pytest.CaptureFixture[str], place: Path, root: Path) -> None:
    commands = (("status",), ("status", "--download"), ("cancel",), ("resume",), ("status", "--watch"))
    told(capsys, "jobs", root=root)
    before = _tree(place)
    for number, name in enumerate(NAMES):
        code, _ = told(capsys, *commands[number % 5], "--", name, root=root)
        assert code == EXIT_BAD_INPUT, name
    assert _tree(place) == before


def test_as_any_name_of_a_run(capsys: pytest.CaptureFixture[str], place: Path, here: Path, root: Path) -> None:
    (here / "good.csv").write_bytes(api_kit.csv_bytes(ROWS))
    options = ("--task", "--data-case", "--provider", "--model", "--sheet", "--mode")
    told(capsys, "jobs", root=root)
    before = _tree(place)
    for number, name in enumerate(filter(None, NAMES)):
        chosen = f"{options[number % 6]}={name}"
        code, said = told(capsys, "run", "--file=good.csv", *CASE, chosen, "--yes", "--sandbox", root=root)
        assert code == EXIT_BAD_INPUT, (chosen, said)
    assert _tree(place) == before


def test_as_a_file_that_is_no_table(capsys: pytest.CaptureFixture[str], place: Path, here: Path, root: Path) -> None:
    made = [name for name in NAMES if hostile.can_lie_in(here, name)]
    assert len(made) > 120
    for name in made:
        (here / name).write_bytes(NO_TABLE)
    told(capsys, "jobs", root=root)
    before = _tree(place)
    for name in filter(_can_be_a_name, NAMES):
        code, said = told(capsys, "run", f"--file={name}", *CASE, "--yes", "--sandbox", root=root)
        assert code == EXIT_BAD_INPUT, (name, said)
    assert _tree(place) == before
    assert {(here / name).read_bytes() for name in made} == {NO_TABLE}


CONFIG_PLACES: tuple[tuple[str, ...], ...] = (
    ("tasks", "summarize"),
    ("tasks", "summarize", "data_cases", "external_loss"),
    ("providers", "openai"),
)


def test_as_a_name_or_a_prompt_of_config_json(
    capsys: pytest.CaptureFixture[str], place: Path, tmp_path: Path, root: Path
) -> None:
    config = tmp_path / "config.json"
    accepted = set()
    told(capsys, "jobs", root=root)
    before = _tree(place)
    for number, name in enumerate(NAMES):
        settings: dict[str, Any] = json.loads(CONFIG.read_bytes())
        if number % 4 == 3:
            settings["tasks"]["summarize"]["prompt"] = name
        else:
            *above, last = CONFIG_PLACES[number % 4]
            inner = settings
            for key in above:
                inner = inner[key]
            inner[name] = inner.pop(last) if number % 4 < 2 else inner[last]
        config.write_text(json.dumps(settings), encoding="utf-8")
        code, said = told(capsys, "jobs", config=config, root=root)
        assert code in {EXIT_OK, EXIT_BAD_INPUT}, said
        accepted |= {name} if code == EXIT_OK else set()
    assert all(name.replace("_", "").replace("-", "").isalnum() and name.isascii() for name in accepted)
    assert _tree(place) == before


STRANGE = f"-{hostile.MARK}\r\n\x1b[2J\u202e'; é"


@pytest.fixture(scope="module")
def done(place: Path, root: Path) -> Iterator[str]:
    """A job that is done, made by the real command of a link with controls in its name."""
    (place / "inbox").mkdir()
    (place / "elsewhere").mkdir()
    (place / "elsewhere" / "real.csv").write_bytes(api_kit.csv_bytes(ROWS))
    link = place / "inbox" / f"{STRANGE}.csv"
    link.symlink_to(place / "elsewhere" / "real.csv")
    ended = api_kit.command_line(root, "run", "--file", str(link), *CASE, "--yes", "--sandbox", "--json")
    assert ended.returncode == EXIT_OK, ended.stderr
    task_id: str = json.loads(ended.stdout)["task_id"]
    yield task_id
    api_kit.end_sandbox(root)


def test_as_a_file_that_is_a_link_with_controls_in_its_name(place: Path, root: Path, done: str) -> None:
    """What is kept is what it led to at that time; nothing of ours is a link, and one file has come."""
    kept = root / "batch_input" / done / "upload.csv"
    assert kept.is_file()
    assert not [path for path in root.rglob("*") if path.is_symlink()]
    assert not [name for name in api_kit.files_of(root) if hostile.MARK in name]
    assert kept.read_bytes() == (place / "elsewhere" / "real.csv").read_bytes() == api_kit.csv_bytes(ROWS)
    link, *_ = (place / "inbox").iterdir()
    assert link.is_symlink()
    around = [*(place / "inbox").iterdir(), *(place / "elsewhere").iterdir()]
    (came,) = (path for path in around if path.name not in {link.name, "real.csv"})
    assert came.name == f"{STRANGE}.summarize.csv"
    api_kit.check_answers(api_kit.csv_rows(came.read_bytes()), ROWS, "CLI")


def _within(place: Path, path: Path) -> bool:
    return Path(os.path.normpath(path)).is_relative_to(place)


@pytest.mark.parametrize("stride", [4, pytest.param(1, marks=pytest.mark.soak)])
def test_as_an_output(
    capsys: pytest.CaptureFixture[str], place: Path, here: Path, root: Path, done: str, stride: int
) -> None:
    """Exactly that file and no other, or none at all."""
    names = [name for name in NAMES if name and _can_be_a_name(name) and _within(place, here / name)]
    assert len(names) >= 200
    before, written = _tree(place), 0
    mine = place / here.relative_to(place).parts[0]
    around = _tree(mine)
    for name in names[::stride]:
        code, said = told(capsys, "status", done, f"--output={name}", root=root)
        assert code in {EXIT_OK, EXIT_BAD_INPUT, EXIT_OPERATOR}, (name, said)
        target = Path(os.path.realpath(here / name))
        if code == EXIT_OK:
            api_kit.check_answers(api_kit.csv_rows(target.read_bytes()), ROWS, "CLI")
            target.unlink()
            written += 1
        assert _tree(mine) == around, name
    assert written > 100 // stride
    assert _tree(place) == before


def test_an_output_that_is_a_link_is_replaced_and_its_target_is_not(
    capsys: pytest.CaptureFixture[str], here: Path, root: Path, done: str, tmp_path: Path
) -> None:
    outside = tmp_path / "outside.csv"
    outside.write_bytes(b"theirs")
    (here / "link.csv").symlink_to(outside)
    (here / "loose.csv").symlink_to(tmp_path / "not-there.csv")
    (here / "folder").symlink_to(tmp_path, target_is_directory=True)
    for name in ("link.csv", "loose.csv"):
        assert told(capsys, "status", done, f"--output={name}", root=root)[0] == EXIT_OK
        assert not (here / name).is_symlink()
        api_kit.check_answers(api_kit.csv_rows((here / name).read_bytes()), ROWS, "CLI")
    assert outside.read_bytes() == b"theirs"
    assert told(capsys, "status", done, "--output=folder", root=root)[0] == EXIT_BAD_INPUT
    assert {path.name for path in tmp_path.iterdir()} == {"outside.csv"}


def test_a_link_that_leads_to_itself_is_refused(capsys: pytest.CaptureFixture[str], here: Path, root: Path) -> None:
    (here / "loop.csv").symlink_to(here / "loop.csv")
    assert told(capsys, "run", "--file=loop.csv", *CASE, "--yes", "--sandbox", root=root)[0] == EXIT_BAD_INPUT


@pytest.mark.parametrize("length", [MAX_FILE_NAME_BYTES + 1, 5_000])
@pytest.mark.parametrize("option", ["--file", "--output"])
def test_a_name_that_no_file_can_have_is_refused(
    capsys: pytest.CaptureFixture[str], root: Path, done: str, option: str, length: int
) -> None:
    command = ("status", done) if option == "--output" else ("run", *CASE, "--yes", "--sandbox")
    assert told(capsys, *command, f"{option}={'n' * length}", root=root)[0] in {EXIT_BAD_INPUT, EXIT_OPERATOR}


def test_a_file_whose_name_is_no_text_is_taken_or_refused(root: Path, tmp_path: Path) -> None:
    """A name in an old encoding, as archives from other systems bring them."""
    path = os.fsencode(tmp_path) + b"/Z\xfcrich.csv"
    Path(os.fsdecode(path)).write_bytes(api_kit.csv_bytes(ROWS))
    before = api_kit.files_of(root / "batch_input")
    ended = api_kit.command_line(root, "run", "--file", os.fsdecode(path), *CASE, "--yes", "--sandbox")
    api_kit.end_sandbox(root)
    assert ended.returncode in {EXIT_OK, EXIT_BAD_INPUT}, ended.stderr
    assert ended.returncode == EXIT_OK or api_kit.files_of(root / "batch_input") == before


def test_the_output_of_a_file_with_the_longest_name_there_is_can_be_had(
    capsys: pytest.CaptureFixture[str], here: Path, root: Path, done: str
) -> None:
    """The finished job is given such a name, which saves a whole run; `run` ends in the same way."""
    name = "n" * (MAX_FILE_NAME_BYTES - len(".csv"))
    with closing(sqlite3.connect(root / "store" / "ledger.sqlite", timeout=10)) as ledger, ledger:
        before = ledger.execute("SELECT file_name, source_path FROM jobs WHERE task_id = ?", (done,)).fetchone()
        change = "UPDATE jobs SET file_name = ?, source_path = ? WHERE task_id = ?"
        ledger.execute(change, (f"{name}.csv", str(here / f"{name}.csv"), done))
        ledger.commit()
        code, said = told(capsys, "status", done, "--download", root=root)
        ledger.execute(change, (*before, done))
    assert (code, len(list(here.iterdir()))) == (EXIT_OK, 1), said


@pytest.mark.parametrize("outside", ["../../outside", "batch_input/../../outside"])
def test_a_folder_of_config_json_that_leaves_the_root_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, outside: str
) -> None:
    settings = json.loads(CONFIG.read_bytes())
    settings["paths"]["batch_input"] = outside
    (tmp_path / "config.json").write_text(json.dumps(settings), encoding="utf-8")
    root = tmp_path / "deep" / "root"
    code, _ = told(capsys, "jobs", config=tmp_path / "config.json", root=root)
    assert (code, list(tmp_path.rglob("outside"))) == (EXIT_BAD_INPUT, [])
