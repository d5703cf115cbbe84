"""The prompts of prompt_lib: found by their name, loaded by their kind of file."""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path

from batch_jobs.config import nearest
from batch_jobs.errors import ConfigError
from batch_jobs.render.answers import shorten
from batch_jobs.render.prompt import Prompt, sha256_of_parts
from batch_jobs.render.prompt_module import load_module

PLAIN_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*\.(py|yaml|yml)")


def load_prompt(folder: Path, file_name: str) -> Prompt:
    """Load one prompt from `folder` and check that it has all that rendering needs.

    Args:
        folder: prompt_lib.
        file_name: a plain file name within it, of a Python module or of a YAML file.

    Raises:
        ConfigError: the file is not there or not within the folder, or something is wrong with it.
    """
    path = _find(folder, file_name)
    try:
        source = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: can't be read: {error.strerror}") from error
    if path.suffix == ".py":
        return load_module(path, source)
    from batch_jobs.render.prompt_yaml import load_yaml

    return load_yaml(path, source)


@lru_cache(maxsize=4)
def kept_prompt(folder: Path, file_name: str) -> Prompt:
    """The prompt that is kept with a job, loaded once a process: it never changes."""
    return load_prompt(folder, file_name)


def sha256s_in(folder: Path) -> dict[str, Path]:
    """What the prompt that is kept in a job's folder may have as its sha256, and its file; told without running it."""
    prompts = [folder / name for name in _names_in(folder)]
    schemas = [(), *((path.read_bytes(),) for path in sorted([*folder.glob("*.json"), *folder.glob("*.py")]))]
    return {sha256_of_parts(path.read_bytes(), *schema): path for path in prompts for schema in schemas}


def _find(folder: Path, file_name: str) -> Path:
    if not PLAIN_FILE_NAME.fullmatch(file_name):
        raise ConfigError(
            f'prompt "{shorten(file_name)}" is not a plain file name: use letters, digits, "_" and "-", '
            "ending in .py or .yaml"
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
    return sorted(path.name for path in folder.glob("*") if PLAIN_FILE_NAME.fullmatch(path.name))
