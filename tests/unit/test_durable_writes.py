"""Whatever must outlive a crash is written in one place; every other write to a disk is named here, with its reason."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HOMES = {"batch_jobs/storage/files.py", "batch_jobs/storage/folders.py", "batch_jobs/system.py"}
"""Temp file, sync, rename, sync of the folder; the folder store; the system's own calls."""

ADOPTED = "a temp file, which `files.adopt` syncs and renames"
EXPORTED = "into the open file of `files.atomic_file`"
NAMED = {
    "batch_jobs/frames/results.py:keep_frame": "a copy of the caller's frame that could not be had back",
    "batch_jobs/frames/rows.py:write_upload": "in the system's temp folder; intake copies it with a sync",
    "batch_jobs/intake/document.py:write_table": "the same",
    "batch_jobs/api/upload.py:ordered": "an upload in the system's temp folder, which intake copies with a sync",
    "batch_jobs/cli/starter.py:init": "a new project's config, prompts and example; no job has anything there yet",
    "batch_jobs/intake/snapshot.py:write_snapshot": "in a folder that appears by one rename when it is complete",
    "batch_jobs/intake/xlsx.py:_container": "in memory",
    "batch_jobs/lifecycle/check_databases.py:open_read_only": "opens a database to read it",
    "batch_jobs/lifecycle/pool/artefacts.py:open_artefacts": "a log for audit; the call cache is the truth",
    "batch_jobs/lifecycle/receive.py:_keep": "the rename by which a job's folder appears, synced right after it",
    "batch_jobs/lifecycle/rehearsal.py:_start": "the address of a sandbox that has ended",
    "batch_jobs/output/export.py:_write_parquet": EXPORTED,
    "batch_jobs/output/export_xlsx.py:write_workbook": EXPORTED,
    "batch_jobs/output/jsonl.py:write_jsonl": ADOPTED,
    "batch_jobs/output/parquet.py:write_parquet": ADOPTED,
    "batch_jobs/output/text.py:write_text": ADOPTED,
    "batch_jobs/output/xlsx.py:write_xlsx": ADOPTED,
    "batch_jobs/output/xlsx.py:_write_sheet": ADOPTED,
    "batch_jobs/render/group_table.py:__enter__": ADOPTED,
    "batch_jobs/render/join.py:_write": ADOPTED,
    "batch_jobs/render/ordering.py:order_groups": "the rename by which the ordered rows appear, between two syncs",
    "batch_jobs/render/worker.py:_write_segment": ADOPTED,
    "batch_jobs/storage/segments.py:new_segment": ADOPTED,
    "batch_jobs/render/worker.py:remove_bodies": "what only served to make the shards, once the job is done",
    "batch_jobs/lifecycle/cells.py:_taken": "what a worker left for this process, which has it now",
    "batch_jobs/lifecycle/cells.py:remove_left": "the same, of processes that were killed",
    "providers/_transport.py:save": "raw results: temp file, sync, rename, sync of the folder",
}

WRITING_MODE = re.compile(r"(?=.*[wax+])[rwaxbt+]+")
OF_MODULES = {
    "os": {"rename", "renames", "replace", "link", "symlink", "unlink", "remove", "rmdir", "removedirs"}
    | {"fsync", "fdatasync", "sync", "truncate", "ftruncate", "write", "pwrite", "sendfile", "copy_file_range"},
    "shutil": {"move", "copy", "copy2", "copyfile", "copytree", "rmtree", "unpack_archive", "make_archive"},
    "tempfile": {"NamedTemporaryFile", "TemporaryFile", "SpooledTemporaryFile", "mkstemp"},
    "pq": {"ParquetWriter", "write_table"},
    "sqlite3": {"connect"},
    "logging": {"FileHandler"},
}
OF_PATHS = {"write_text", "write_bytes", "touch", "unlink", "symlink_to", "hardlink_to"}
OF_PATHS_TO_ONE_TARGET = {"rename", "replace"}
"""`text.replace(old, new)` has two arguments, `path.replace(target)` one."""


@dataclass(frozen=True)
class Write:
    """One call that writes, renames, syncs or removes a file."""

    path: str
    function: str
    line: int
    text: str

    @property
    def place(self) -> str:
        return f"{self.path}:{self.function}"


def product_files() -> list[Path]:
    found = [*(ROOT / "batch_jobs").rglob("*.py"), *(ROOT / "providers").glob("*.py")]
    return sorted(path for path in found if "migrations" not in path.parts)


@functools.cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))


def writes_of(name: str, module: ast.Module) -> Iterator[Write]:
    """The calls of a module that change files, each with the outermost function that it stands in."""
    for top in module.body:
        inner = [node for node in ast.walk(top) if isinstance(node, ast.FunctionDef)] if _is_class(top) else [top]
        for function in inner or [top]:
            for node in ast.walk(function):
                if isinstance(node, ast.Call) and _writes(node):
                    yield Write(name, getattr(function, "name", ""), node.lineno, ast.unparse(node))


def _is_class(node: ast.stmt) -> bool:
    return isinstance(node, ast.ClassDef)


def _writes(call: ast.Call) -> bool:
    function = call.func
    if isinstance(function, ast.Name):
        return function.id == "open" and _opens_to_write(call)
    if not isinstance(function, ast.Attribute):
        return False
    owner = function.value.id if isinstance(function.value, ast.Name) else ""
    if owner in OF_MODULES:
        return function.attr in OF_MODULES[owner]
    if function.attr in {"open", "ZipFile"}:
        return _opens_to_write(call)
    one_target = len(call.args) == 1 and not call.keywords
    return function.attr in OF_PATHS or (function.attr in OF_PATHS_TO_ONE_TARGET and one_target)


def _opens_to_write(call: ast.Call) -> bool:
    given = [*call.args[:2], *(keyword.value for keyword in call.keywords if keyword.arg == "mode")]
    texts = [node.value for node in given if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    return any(WRITING_MODE.fullmatch(text) for text in texts)


def all_writes() -> list[Write]:
    return [write for path in product_files() for write in writes_of(path.relative_to(ROOT).as_posix(), tree_of(path))]


def test_durable_files_are_written_in_one_place() -> None:
    others = [write for write in all_writes() if write.path not in HOMES and write.place not in NAMED]
    assert not others, "\n".join(
        f"{write.path}:{write.line}: {write.text}: goes past storage/files.py; use it, or name the reason here"
        for write in others
    )


def test_every_named_exception_is_still_one() -> None:
    assert set(NAMED) - {write.place for write in all_writes()} == set()


@pytest.mark.parametrize("module", sorted(OF_MODULES))
def test_nothing_that_writes_is_imported_by_its_bare_name(module: str) -> None:
    """`from os import replace` would hide from the test above."""
    for path in product_files():
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.ImportFrom) and node.module == module:
                assert not {alias.name for alias in node.names} & OF_MODULES[module], path


@pytest.mark.parametrize(
    "line",
    [
        *(
            "open(a, 'w')",
            "path.open('wb')",
            "path.open(mode='r+b')",
            "out.open(entry, 'w')",
            "zipfile.ZipFile(t, 'w')",
        ),
        *("path.write_text('x')", "path.unlink(missing_ok=True)", "path.replace(target)", "temp.rename(target)"),
        *("os.replace(a, b)", "os.fsync(n)", "shutil.rmtree(a)", "pq.write_table(t, a)", "path.touch()"),
    ],
)
def test_the_search_finds(line: str) -> None:
    assert list(writes_of("a.py", ast.parse(f"def f():\n    {line}\n")))


@pytest.mark.parametrize(
    "line",
    ["open(a)", "path.open('rb')", "zipfile.ZipFile(t)", "text.replace('a', 'b')", "replace(job, phase=1)", "add(a)"],
)
def test_the_search_passes_by(line: str) -> None:
    assert not list(writes_of("a.py", ast.parse(f"def f():\n    {line}\n")))
