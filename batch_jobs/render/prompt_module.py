"""Prompts that are Python modules of prompt_lib: loaded by path, checked once.

The module is the users' own code, so everything that can be wrong with it is found here, before a row is rendered,
and said with its file and line.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import inspect
import re
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from types import CodeType, ModuleType

from pydantic import BaseModel

from batch_jobs.errors import ConfigError
from batch_jobs.render.answers import ModelOutput
from batch_jobs.render.prompt import DataCaseView, Prompt, sha256_of_parts

RENDER_NAME = re.compile(r"render_\w+_prompt")
_RUNNING = threading.Lock()  # two loads of one source share a place in sys.modules


class _ReadOnce(importlib.machinery.SourceFileLoader):
    """Runs exactly the bytes that were hashed, and neither reads nor writes a __pycache__."""

    def __init__(self, name: str, path: Path, source: bytes) -> None:
        super().__init__(name, str(path))
        self.source = source

    def get_code(self, fullname: str) -> CodeType:  # noqa: ARG002
        """Compile the source that was read."""
        return compile(self.source, self.path, "exec", dont_inherit=True)


def load_module(path: Path, source: bytes) -> Prompt:
    """Load a prompt module and check that it has all that rendering needs.

    For `X_prompt.py` the function is `render_X_prompt(data_case, row)`, or else the module's only function that is
    named `render_*_prompt`. The output model is `OUTPUT_MODEL`, or else the only pydantic model of the module.

    Args:
        path: where it lies.
        source: what was read there.

    Raises:
        ConfigError: it fails to import, or lacks a part.
    """
    sha256 = sha256_of_parts(source)
    module = _imported(path, source, sha256)
    return Prompt(path, sha256, _output(module, path), _render_function(module, path), (path,))


def load_models(path: Path, source: bytes) -> tuple[ModelOutput, tuple[type[BaseModel], ...]]:
    """Load a module of pydantic models: the schema of a prompt that is no module itself.

    Args:
        path: where it lies.
        source: what was read there.

    Returns:
        The answer, which is `OUTPUT_MODEL`, or else the last model; and all of its models, in order.

    Raises:
        ConfigError: it fails to import, or there is no such model.
    """
    module = _imported(path, source, sha256_of_parts(source))
    models = _models(module)
    if models and "OUTPUT_MODEL" not in vars(module):
        return _of_model(models[-1], path), models
    return _output(module, path), models


def _imported(path: Path, source: bytes, sha256: str) -> ModuleType:
    # Named by its content alone: a schema may hold the module's name, and must be the same in every process.
    name = f"_batch_jobs_prompt_{path.stem.replace('-', '_')}_{sha256[:16]}"
    with _RUNNING:
        return _run(path, source, name)


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


def _output(module: ModuleType, path: Path) -> ModelOutput:
    model = vars(module)["OUTPUT_MODEL"] if "OUTPUT_MODEL" in vars(module) else _only_model(module, path)
    if not (isinstance(model, type) and issubclass(model, BaseModel)):
        raise ConfigError(f"{path}: OUTPUT_MODEL must be a class derived from pydantic.BaseModel")
    return _of_model(model, path)


def _of_model(model: type[BaseModel], path: Path) -> ModelOutput:
    try:
        return ModelOutput.of(model)
    except Exception as error:  # pydantic has several unrelated classes for this
        raise ConfigError(f"{path}: {model.__name__} has no JSON schema: {_first_line(error)}") from error


def _only_model(module: ModuleType, path: Path) -> type[BaseModel]:
    models = {model.__name__: model for model in _models(module)}
    if not models:
        raise ConfigError(f"{path}: expected a class derived from pydantic.BaseModel: the answer the LLM has to give")
    if len(models) > 1:
        raise ConfigError(f"{path}: has {len(models)} models ({', '.join(models)}): say OUTPUT_MODEL = the answer's")
    return next(iter(models.values()))


def _models(module: ModuleType) -> tuple[type[BaseModel], ...]:
    """The models that a module declares, in order, each once."""
    found = (value for value in vars(module).values() if isinstance(value, type) and issubclass(value, BaseModel))
    return tuple(dict.fromkeys(model for model in found if model.__module__ == module.__name__))
