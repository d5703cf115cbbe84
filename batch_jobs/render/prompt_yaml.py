"""Prompts that are YAML files of prompt_lib: texts with named placeholders, and the schema of the answer.

    schema: incident.json            # a JSON Schema or a .py with pydantic models beside it, or a schema written here
    system: |                        # the same for every row: providers cache it
      {task_description}
      Answer with JSON of this schema: {llm_schema}
    user: |                          # each row's own; "{context}" where it is left out
      {context}
    judge: |                         # optional: what another model is asked about each answer
      {context}
      Is this true of it, and complete? {answer}

A placeholder is a name in braces; braces around anything else, as in a piece of JSON, stay as they are. What is put in
may hold braces, too: it is never looked at again.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from batch_jobs.config import nearest
from batch_jobs.errors import ConfigError
from batch_jobs.models import GroupMode
from batch_jobs.render.context import context_of
from batch_jobs.render.grouping import CONTEXT, GROUP
from batch_jobs.render.prompt import DataCaseView, Prompt, Rendered, sha256_of_parts
from batch_jobs.render.schema_files import read_schema

PLACEHOLDER = re.compile(r"\{([^\W\d][^{}\n\"':,]*)\}")
KEYS = ("system", "user", "schema", "judge")
JUDGE = "judge"
"""The text that the answers of this prompt are judged by, see `batch_jobs.render.judge_prompt`."""
FIXED = ("llm_schema", "task_description", "data_description", "columns")
"""Placeholders that are the same for every row."""
USER = {
    GroupMode.NONE: f"{{{CONTEXT}}}",
    GroupMode.OUTPUT: f"{{{GROUP}}}",
    GroupMode.CONTEXT: f"{{{GROUP}}}\n{{{CONTEXT}}}",
}
"""What `user` is where it is left out."""
MAX_BYTES = 1_000_000
SPACES = str.maketrans({"\u00a0": " ", "\u202f": " ", "\u2007": " ", "\ufeff": ""})
"""What editors and web pages put in the place of a space; a name with one in it would never be found."""


class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    """Refuses a key that stands twice: YAML's own would take the last one without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Make a mapping."""
        seen: set[str] = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f'"{key.value}" stands twice', key.start_mark)
            seen.add(key.value)
        made: dict[Any, Any] = super().construct_mapping(node, deep)
        return made


@dataclass(frozen=True, slots=True)
class _Texts:
    """The two texts with their placeholders, and what all rows have in common."""

    system: str
    user: str
    llm_schema: str

    def render(self, data_case: DataCaseView, row: Mapping[str, str]) -> Rendered:
        """The fixed part and the row's part."""
        columns = tuple(data_case.mandatory_columns.items())
        about = data_case.task_description, data_case.description, columns
        values, cut = dict(row), 0
        shared, user = _split(self.user, data_case.grouping)
        if f"{{{CONTEXT}}}" in user:
            values[CONTEXT], cut = context_of(data_case.context, data_case.mandatory_columns, row)
        if data_case.grouping is not GroupMode.NONE:
            values[GROUP] = data_case.group
        fixed = _fixed(self.system, self.llm_schema, *about)
        return Rendered(fixed, filled(user, values), cut, filled(shared, values) if shared else "")


@lru_cache(maxsize=8)
def _split(user: str, grouping: GroupMode) -> tuple[str, str]:
    """What of the row's text is the same for all of its group (down to the last {group}), and what is its own."""
    text = user or USER[grouping]
    if grouping is not GroupMode.CONTEXT:
        return "", text
    shared, group, own = text.rpartition(f"{{{GROUP}}}")
    return shared + group, own.strip()


@lru_cache(maxsize=8)
def _fixed(
    system: str, llm_schema: str, task_description: str, data_description: str, columns: tuple[tuple[str, str], ...]
) -> str:
    """The system text, filled; made once for all rows."""
    return filled(system, fixed_values(llm_schema, task_description, data_description, columns))


def fixed_values(
    llm_schema: str, task_description: str, data_description: str, columns: tuple[tuple[str, str], ...]
) -> dict[str, str]:
    """What the placeholders of `FIXED` stand for."""
    return {
        "llm_schema": llm_schema,
        "task_description": task_description,
        "data_description": data_description,
        "columns": "\n".join(f"- {name}: {meaning}" for name, meaning in columns),
    }


def load_yaml(path: Path, source: bytes) -> Prompt:
    """Read a YAML prompt, and its schema.

    Args:
        path: where it lies.
        source: what was read there.

    Raises:
        ConfigError: it is no such file; says where and what is wrong with it.
    """
    found = read_yaml(path, source)
    missing = [key for key in ("system", "schema") if found.get(key) in (None, "", {})]
    if missing:
        raise ConfigError(f'{path}: lacks "{missing[0]}"')
    schema = read_schema(path, found["schema"])
    system, user = (text_of(path, found, key) for key in ("system", "user"))
    _check_placeholders(path, system)
    placeholders = tuple(PLACEHOLDER.findall(user))
    names = dict.fromkeys(placeholders)
    late = [name for name in names if name in FIXED]
    if late:
        raise ConfigError(f"{path}: {{{late[0]}}} is the same for every row: put it into system, which is paid once")
    texts = _Texts(system, user, schema.text)
    return Prompt(
        path,
        sha256_of_parts(source, *schema.sources),
        schema.output,
        texts.render,
        (path, *schema.files),
        tuple(name for name in names if name != CONTEXT),
        placeholders if user else None,
    )


def read_yaml(path: Path, source: bytes) -> dict[str, Any]:
    """Read a file of texts; its keys are those there are, what they hold is not looked at.

    Raises:
        ConfigError: it is no YAML, or has other keys; says where.
    """
    if len(source) > MAX_BYTES:
        raise ConfigError(f"{path}: has more than {MAX_BYTES:,} bytes, so it is no prompt")
    try:
        found = yaml.load(source.decode("utf-8-sig"), _Loader)
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is no UTF-8 text (byte {error.start:,}). Save it as UTF-8") from error
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ConfigError(f"{path}{line}: {error.problem}") from error
    except (yaml.YAMLError, RecursionError) as error:
        raise ConfigError(f"{path}: is no YAML: {type(error).__name__}") from error
    return _with_known_keys(path, found)


def _with_known_keys(path: Path, found: object) -> dict[str, Any]:
    if not isinstance(found, dict):
        raise ConfigError(f"{path}: has to hold the keys {_listed(KEYS)}")
    unknown = [str(key) for key in found if key not in KEYS]
    if unknown:
        raise ConfigError(
            f'{path}: there is no key "{unknown[0]}"{nearest(unknown[0], KEYS)} (there is: {_listed(KEYS)})'
        )
    return found


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join(names)


def text_of(path: Path, found: Mapping[str, Any], key: str) -> str:
    """A text of the file, its odd spaces made plain; empty where there is none.

    Raises:
        ConfigError: it is no text.
    """
    text = found.get(key) or ""
    if not isinstance(text, str):
        raise ConfigError(f'{path}: "{key}" has to be a text, as in: {key}: |')
    return text.translate(SPACES).replace("\r\n", "\n").strip()


def _check_placeholders(path: Path, system: str) -> None:
    for name in PLACEHOLDER.findall(system):
        if name == CONTEXT or name not in FIXED:
            raise ConfigError(
                f"{path}: {{{name}}} is no placeholder of system{nearest(name, FIXED)} (there is: {_listed(FIXED)}). "
                "What differs from row to row belongs into user"
            )


def filled(text: str, values: Mapping[str, str]) -> str:
    """Put values in, in one pass: a brace within a value means nothing.

    Raises:
        ValueError: there is no value for a placeholder.
    """

    def value(found: re.Match[str]) -> str:
        if found[1] not in values:
            raise ValueError(f"the row has no column {{{found[1]}}}{nearest(found[1], values)}")
        return values[found[1]]

    return PLACEHOLDER.sub(value, text)
