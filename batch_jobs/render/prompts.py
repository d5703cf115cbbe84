"""A prompt module of prompt_lib: loaded by path and checked once, then asked for the two texts of each row.

The module is the users' own code, so everything that can be wrong with it is found here, before a row is rendered,
and said with its file and line. How an answer is read and becomes a cell stands in the second half.
"""

from __future__ import annotations

import hashlib
import importlib.machinery
import importlib.util
import inspect
import json
import re
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

import orjson
from pydantic import BaseModel, ValidationError

from batch_jobs.config import nearest
from batch_jobs.errors import ConfigError

PLAIN_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*\.py")
RENDER_NAME = re.compile(r"render_\w+_prompt")
FENCE = "```"
MAX_ECHO_CHARS = 80
_RUNNING = threading.Lock()  # two loads of one source share a place in sys.modules


@dataclass(frozen=True, slots=True)
class DataCaseView:
    """What a prompt function gets to know from config.json, as its `data_case`.

    Attributes:
        name: the data case's name (`external_loss`).
        description: what kind of table it is.
        mandatory_columns: column name -> what it holds, in config order.
        task_description: what the task is.
    """

    name: str
    description: str
    mandatory_columns: dict[str, str]
    task_description: str


@dataclass(frozen=True, slots=True)
class PromptModule:
    """A loaded and checked prompt module. Not picklable: each process loads its own.

    Attributes:
        path: where it was loaded from.
        sha256: of the source that was run, in hex.
        output_model: what the LLM has to answer.
        render: the module's `render_X_prompt(data_case, row)`; call it through `render` below.
    """

    path: Path
    sha256: str
    output_model: type[BaseModel]
    render: Callable[[DataCaseView, Mapping[str, str]], object]


class _ReadOnce(importlib.machinery.SourceFileLoader):
    """Runs exactly the bytes that were hashed, and neither reads nor writes a __pycache__."""

    def __init__(self, name: str, path: Path, source: bytes) -> None:
        super().__init__(name, str(path))
        self.source = source

    def get_code(self, fullname: str) -> CodeType:  # noqa: ARG002
        """Compile the source that was read."""
        return compile(self.source, self.path, "exec", dont_inherit=True)


def load_prompt(folder: Path, file_name: str) -> PromptModule:
    """Load one prompt module from `folder` and check that it has all that rendering needs.

    For `X_prompt.py` the function is `render_X_prompt(data_case, row)`, or else the module's only function that is
    named `render_*_prompt`. The output model is `OUTPUT_MODEL`, or else the only pydantic model of the module.

    Args:
        folder: prompt_lib.
        file_name: a plain file name within it.

    Raises:
        ConfigError: the file is not there or not within the folder, fails to import, or lacks a part.
    """
    path = _find(folder, file_name)
    try:
        source = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: can't be read: {error.strerror}") from error
    sha256 = hashlib.sha256(source).hexdigest()
    # Named by its content alone: a schema may hold the module's name, and must be the same in every process.
    name = f"_batch_jobs_prompt_{path.stem.replace('-', '_')}_{sha256[:16]}"
    with _RUNNING:
        module = _run(path, source, name)
    return PromptModule(path, sha256, _output_model(module, path), _render_function(module, path))


@lru_cache(maxsize=4)
def kept_prompt(folder: Path, file_name: str) -> PromptModule:
    """The prompt module that is kept with a job, loaded once a process: it never changes."""
    return load_prompt(folder, file_name)


def _find(folder: Path, file_name: str) -> Path:
    if not PLAIN_FILE_NAME.fullmatch(file_name):
        raise ConfigError(
            f'prompt "{_shorten(file_name)}" is not a plain file name: use letters, digits, "_" and "-", ending in .py'
        )
    if not folder.is_dir():
        raise ConfigError(f"{folder}: there is no such folder for the prompt {file_name}")
    path = folder / file_name
    if not path.is_file():
        raise ConfigError(f"{path}: there is no such prompt{nearest(file_name, _names_in(folder))}")
    if not path.resolve().is_relative_to(folder.resolve()):
        raise ConfigError(f"{path}: is a link that leads out of {folder}; put the file itself there")
    return path


def _names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.py"))


def _run(path: Path, source: bytes, name: str) -> ModuleType:
    """Import `source` under a private name; it stays in sys.modules, where pydantic and inspect look things up."""
    loader = _ReadOnce(name, path, source)
    spec = importlib.util.spec_from_file_location(name, path, loader=loader)
    if spec is None:
        raise ConfigError(f"{path}: can't be imported")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        loader.exec_module(module)
    except (Exception, SystemExit) as error:  # it is the users' code: anything may come
        sys.modules.pop(name, None)
        raise ConfigError(f"{path}{_line_of(path, error)}: {type(error).__name__}: {_first_line(error)}") from error
    return module


def _line_of(path: Path, error: BaseException) -> str:
    """`, line 7` where the error is in this file, else the empty string."""
    if isinstance(error, SyntaxError) and error.filename == str(path) and error.lineno:
        return f", line {error.lineno}"
    lines = [line for frame, line in traceback.walk_tb(error.__traceback__) if frame.f_code.co_filename == str(path)]
    return f", line {lines[-1]}" if lines else ""


def _first_line(error: BaseException) -> str:
    if isinstance(error, SyntaxError):
        return error.msg
    return (str(error).splitlines() or [""])[0]


def _render_function(module: ModuleType, path: Path) -> Callable[[DataCaseView, Mapping[str, str]], object]:
    stem = path.stem.replace("-", "_")
    expected = f"render_{stem}" if stem.endswith("_prompt") else f"render_{stem}_prompt"
    found = {
        name: value
        for name, value in vars(module).items()
        if RENDER_NAME.fullmatch(name) and callable(value) and getattr(value, "__module__", "") == module.__name__
    }
    if expected not in found and len(found) != 1:
        there = f"there is {', '.join(found)}" if found else "there is none like it"
        raise ConfigError(f"{path}: expected a function {expected}(data_case, row); {there}")
    name, function = (expected, found[expected]) if expected in found else next(iter(found.items()))
    try:
        inspect.signature(function).bind("data_case", "row")
    except TypeError as error:
        raise ConfigError(f"{path}: {name} must take two arguments, (data_case, row): {error}") from error
    return function  # type: ignore[no-any-return]


def _output_model(module: ModuleType, path: Path) -> type[BaseModel]:
    model = vars(module)["OUTPUT_MODEL"] if "OUTPUT_MODEL" in vars(module) else _only_model(module, path)
    if not (isinstance(model, type) and issubclass(model, BaseModel)):
        raise ConfigError(f"{path}: OUTPUT_MODEL must be a class derived from pydantic.BaseModel")
    try:
        schema_of(model)
    except Exception as error:  # pydantic has several unrelated classes for this
        raise ConfigError(f"{path}: {model.__name__} has no JSON schema: {_first_line(error)}") from error
    return model


def _only_model(module: ModuleType, path: Path) -> type[BaseModel]:
    models = {
        value.__name__: value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, BaseModel) and value.__module__ == module.__name__
    }
    if not models:
        raise ConfigError(f"{path}: expected a class derived from pydantic.BaseModel: the answer the LLM has to give")
    if len(models) > 1:
        raise ConfigError(f"{path}: has {len(models)} models ({', '.join(models)}): say OUTPUT_MODEL = the answer's")
    return next(iter(models.values()))


def check_output_columns(task_name: str, output_columns: Mapping[str, str], model: type[BaseModel]) -> None:
    """Check that every field which config.json makes a column of is a field of the answer.

    Args:
        task_name: for the message.
        output_columns: field of the model -> name of the new column.
        model: the answer.

    Raises:
        ConfigError: a field is not there; names the nearest one.
    """
    fields = list(model.model_fields)
    for name in output_columns:
        if name not in fields:
            raise ConfigError(
                f'tasks.{task_name}.output_columns: {model.__name__} has no field "{name}"{nearest(name, fields)} '
                f"(there is: {', '.join(fields)})"
            )


def schema_of(model: type[BaseModel]) -> dict[str, Any]:
    """Return the JSON schema of the answer; equal sources give equal schemas, key order included."""
    return model.model_json_schema()


def render(module: PromptModule, data_case: DataCaseView, row: Mapping[str, str]) -> tuple[str, str]:
    """Render one row.

    Args:
        module: the prompt.
        data_case: what config.json says about the table.
        row: column name -> cell, for this row alone.

    Returns:
        The fixed part (the same for all rows; may be empty) and the row's part.

    Raises:
        ValueError: the prompt returned something else than that.
        Exception: whatever the prompt itself raises; it is this row's failure.
    """
    result = module.render(data_case, row)
    parts = ("", result) if isinstance(result, str) else result
    if not (isinstance(parts, tuple) and len(parts) == 2 and all(isinstance(part, str) for part in parts)):
        raise ValueError(f"{module.path.name} returned {_kind(result)}; it must return a str or (fixed, row_part)")
    if not parts[1].strip():
        raise ValueError(f"{module.path.name} returned an empty text for this row")
    return parts


def _kind(value: object) -> str:
    if isinstance(value, tuple):
        return f"a tuple of ({', '.join(type(part).__name__ for part in value)})"
    return type(value).__name__


def answer_text(model: type[BaseModel], text: str) -> str:
    """Read the LLM's text as the answer that was asked for.

    White space around it and one markdown code fence are taken off. How strict types are (`"5"` for a number,
    unknown fields) is the model's own setting.

    Returns:
        The answer as one compact JSON object: field name -> value.

    Raises:
        ValueError: the text is no such answer; a short reason for people, that names the field.
    """
    content = _without_fence(text.strip())
    if not content:
        raise ValueError("empty answer")
    try:
        answer = model.model_validate_json(content).model_dump(mode="json")
    except ValidationError as error:
        raise ValueError(_reason(error)) from None  # the original echoes the whole answer
    except Exception as error:  # a validator of the prompt module fell over: this row's failure, nobody else's
        raise ValueError(f"{model.__name__} could not check it: {type(error).__name__}") from error
    try:
        written = orjson.dumps(answer)
    except TypeError:
        written = b""
    # pydantic reads NaN, Infinity and integers of any length; our files can't hold them, and orjson writes null
    if not written or (b"null" in written and orjson.loads(written) != answer):
        raise ValueError("a number that is not finite, or beyond 64 bits")
    return written.decode()


def _without_fence(text: str) -> str:
    if len(text) < 2 * len(FENCE) or not (text.startswith(FENCE) and text.endswith(FENCE)):
        return text
    inside = text[len(FENCE) : -len(FENCE)]
    return (inside[4:] if inside[:4].lower() == "json" else inside).strip()


def _reason(error: ValidationError) -> str:
    """The first problem in a few words, and how many there are besides."""
    problems = error.errors(include_url=False, include_input=False)
    first = problems[0]
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    field = _shorten(".".join(str(part) for part in first["loc"]))
    match first["type"]:
        case "json_invalid":
            return f"not valid JSON: {_shorten(first['msg'].removeprefix('Invalid JSON: '))}"
        case "missing":
            return f'field "{field}" is missing{more}'
        case "extra_forbidden":
            return f'unknown field "{field}"{more}'
    said = _shorten(first["msg"].removeprefix("Value error, "))
    return f'field "{field}": {said}{more}' if field else f"{said}{more}"


def _shorten(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= MAX_ECHO_CHARS else f"{flat[: MAX_ECHO_CHARS - 1]}…"


def cell_text(value: object) -> str:
    """Write one field of an answer as a cell: lists of scalars joined by `; `, anything deeper as compact JSON."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "TRUE" if value else "FALSE"
    if isinstance(value, int | float | Decimal):
        return str(value)
    if isinstance(value, list | tuple) and all(_is_scalar(part) for part in value):
        return "; ".join(cell_text(part) for part in value)
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=str)


def _is_scalar(value: object) -> bool:
    return value is None or isinstance(value, str | int | float | Decimal)
