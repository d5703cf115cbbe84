"""Imports only downward, heavy libraries only where they are used, print only in the command line."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOUNDATION = {
    "batch_jobs.models",
    "batch_jobs.errors",
    "batch_jobs.config",
    "batch_jobs.config_tasks",
    "batch_jobs.system",
    "batch_jobs.table",
    "batch_jobs.arrow",
    "batch_jobs.workers",
    "batch_jobs.shipped",
}
MIDDLE = {"batch_jobs.intake", "batch_jobs.render", "batch_jobs.output", "batch_jobs.storage", "providers"}
ALLOWED: dict[str, set[str]] = {
    "batch_jobs": {"batch_jobs.frames", "batch_jobs.errors"},  # only when it is asked for: see below
    "batch_jobs.__main__": {"batch_jobs.cli"},
    "batch_jobs.cli": {"batch_jobs.api", "batch_jobs.lifecycle", *MIDDLE, *FOUNDATION, "providers.sandbox"},
    "batch_jobs.api": {"batch_jobs.lifecycle", *MIDDLE, *FOUNDATION},
    "batch_jobs.frames": {"batch_jobs.lifecycle", *MIDDLE, *FOUNDATION},
    "batch_jobs.lifecycle": {*MIDDLE, *FOUNDATION, "providers.sandbox"},
    # siblings: output reads an upload as intake does, and files become durable in one place
    "batch_jobs.intake": {*FOUNDATION},
    "batch_jobs.render": {*FOUNDATION, "batch_jobs.storage", "providers"},
    "batch_jobs.output": {*FOUNDATION, "batch_jobs.intake", "batch_jobs.storage"},
    "batch_jobs.storage": {*FOUNDATION},
    "providers": {*FOUNDATION},
    "providers.sandbox": {*FOUNDATION, "providers"},
    "batch_jobs.config": {"batch_jobs.config_tasks", "batch_jobs.errors", "batch_jobs.models"},
    "batch_jobs.config_tasks": {"batch_jobs.models"},
    "batch_jobs.system": {"batch_jobs.errors"},
    "batch_jobs.errors": {"batch_jobs.models"},
    "batch_jobs.models": set(),
    "batch_jobs.table": set(),
    "batch_jobs.arrow": set(),
    "batch_jobs.workers": {"batch_jobs.errors", "batch_jobs.system"},
    "batch_jobs.shipped": {"batch_jobs.errors"},
}
"""cli, api, frames -> lifecycle -> intake | render | output | storage | providers -> models, errors, config, system."""
HEAVY = {
    *("openai", "anthropic", "google", "pandas", "duckdb", "pyarrow", "fastapi", "apscheduler", "uvicorn", "tinydb"),
    *("alembic", "openpyxl", "python_calamine", "tqdm", "numpy", "matplotlib", "jinja2"),
    *("pypdfium2", "docx", "lxml", "semantic_text_splitter"),
}
SDK_HOMES = {"providers/openai.py", "providers/anthropic.py", "providers/gemini.py"}
"""Loaded by `providers.connect.connect` when a provider is used, and by nothing else."""


def modules(*roots: str) -> list[Path]:
    return sorted(path for root in roots for path in (ROOT / root).rglob("*.py"))


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def layer_of(module: str) -> str:
    parts = module.split(".")
    if parts[0] == "providers":
        return "providers.sandbox" if parts[1:2] == ["sandbox"] else "providers"
    return ".".join(parts[:2])


def imported(node: ast.AST, module: str, package: bool) -> Iterator[str]:
    """The modules that a statement imports, relative ones resolved."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        base = node.module or ""
        if node.level:
            parts = module.split(".")[: None if package and node.level == 1 else (-node.level + package)]
            base = ".".join([*parts, base] if base else parts)
        yield from (f"{base}.{alias.name}" for alias in node.names) if base in {"batch_jobs", "providers"} else [base]


def imports_of(path: Path, body: list[ast.stmt] | None = None) -> Iterator[str]:
    """All imports of a module; with `body`, only those that run when it is imported."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = ast.walk(tree) if body is None else top_level(body)
    for node in nodes:
        yield from imported(node, name_of(path), path.name == "__init__.py")


def top_level(body: list[ast.stmt]) -> Iterator[ast.AST]:
    """Statements that run at import: not inside functions, not under TYPE_CHECKING."""
    for statement in body:
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if isinstance(statement, ast.If) and "TYPE_CHECKING" in ast.unparse(statement.test):
            yield from top_level(statement.orelse)
            continue
        yield statement
        for field in ("body", "orelse", "finalbody", "handlers"):
            yield from top_level(getattr(statement, field, []))


def at_import(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return set(imports_of(path, tree.body))


@pytest.mark.parametrize("path", modules("batch_jobs", "providers"), ids=name_of)
def test_imports_only_lead_downward(path: Path) -> None:
    mine = layer_of(name_of(path))
    ours = {layer_of(name) for name in imports_of(path) if name.split(".")[0] in {"batch_jobs", "providers"}}
    upward = ours - {mine} - ALLOWED[mine]
    assert not upward, f"{name_of(path)} may not import {', '.join(sorted(upward))}"


def test_the_table_has_no_layer_that_is_gone_and_no_cycle() -> None:
    assert {layer_of(name_of(path)) for path in modules("batch_jobs", "providers")} == set(ALLOWED)
    done: set[str] = set()
    while len(done) < len(ALLOWED):
        ready = {layer for layer, below in ALLOWED.items() if layer not in done and below <= done}
        assert ready, f"a cycle among {set(ALLOWED) - done}"
        done |= ready


@pytest.mark.parametrize(
    "path", [path for path in modules("batch_jobs") if "api" not in path.relative_to(ROOT).parts], ids=name_of
)
def test_heavy_libraries_are_imported_where_they_are_used(path: Path) -> None:
    if "migrations" in path.parts:
        return  # run by alembic itself
    heavy = {name.split(".")[0] for name in at_import(path)} & HEAVY
    assert not heavy, f"{name_of(path)} imports {', '.join(sorted(heavy))} when it is imported"


@pytest.mark.parametrize("path", modules("providers"), ids=name_of)
def test_an_sdk_is_imported_by_its_own_provider_only(path: Path) -> None:
    if path.relative_to(ROOT).as_posix() in SDK_HOMES:
        return
    found = {name.split(".")[0] for name in at_import(path)}
    assert not found & {"openai", "anthropic", "google"}
    homes = {home.removesuffix(".py").replace("/", ".") for home in SDK_HOMES}
    assert not at_import(path) & homes, "would load an SDK"


@pytest.mark.parametrize("path", modules("batch_jobs", "providers"), ids=name_of)
def test_only_the_command_line_prints(path: Path) -> None:
    if "cli" in path.parts:
        return
    tree = ast.parse(path.read_text(encoding="utf-8"))
    calls = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
    assert not [call for call in calls if isinstance(call, ast.Name) and call.id == "print"]


def test_the_reader_of_imports_sees_them_all() -> None:
    """What this file relies on: nested, conditional, relative and typed-only imports."""
    source = """
import a.b
from batch_jobs import errors
from . import sibling
try:
    import c
except ImportError:
    import d
class X:
    import e
def f():
    import g
if TYPE_CHECKING:
    import h
else:
    import i
"""
    tree = ast.parse(source)
    every = {name for node in ast.walk(tree) for name in imported(node, "batch_jobs.cli.run", False)}
    assert every == {"a.b", "batch_jobs.errors", "batch_jobs.cli", *"cdeghi"}
    early = {name for node in top_level(tree.body) for name in imported(node, "batch_jobs.cli.run", False)}
    assert early == every - {"g", "h"}
