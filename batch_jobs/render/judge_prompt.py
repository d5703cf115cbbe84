"""The prompt of a judge: what another model is asked about each answer before it is final.

It is the `judge` text of a YAML prompt, or a YAML file of its own with `system` and `user`. Beside the row's
placeholders it has {answer}, the answer as JSON, and {answer_schema}; its schema is `VERDICT` where it has none.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from batch_jobs.config import nearest
from batch_jobs.errors import ConfigError
from batch_jobs.models import GroupMode, Verdict
from batch_jobs.render.answers import JsonOutput, OutputSchema
from batch_jobs.render.context import as_data, context_of
from batch_jobs.render.grouping import CONTEXT, GROUP, Grouping
from batch_jobs.render.prompt import DataCaseView, Rendered
from batch_jobs.render.prompt_yaml import FIXED, JUDGE, PLACEHOLDER, filled, fixed_values, read_yaml, text_of
from batch_jobs.render.prompts import kept_prompt
from batch_jobs.render.schema_files import schema_of

ANSWER = "answer"
ANSWER_SCHEMA = "answer_schema"
COMMON = (*FIXED, ANSWER_SCHEMA)
"""Placeholders that are the same for every answer."""
VERDICT: dict[str, Any] = {
    "title": "Verdict",
    "type": "object",
    "properties": {
        "verdict": {
            "type": "string",
            "enum": [verdict.value for verdict in Verdict],
            "description": "accept, or reject when the answer is wrong, made up or incomplete.",
        },
        "score": {"type": "number", "minimum": 0, "maximum": 1, "description": "How good the answer is, 0 to 1."},
        "feedback": {
            "type": "string",
            "description": "What is wrong with it and how to put it right, in one or two sentences; else empty.",
        },
    },
    "required": ["verdict", "score", "feedback"],
    "additionalProperties": False,
}


FIELDS = 'there have to be "verdict" (accept or reject), "score" (0 to 1) and "feedback", all of them required'


class Judgement(NamedTuple):
    """What a judge said of one answer; `score` is 0 to 1."""

    verdict: Verdict
    score: float
    feedback: str


@dataclass(frozen=True, slots=True)
class JudgePrompt:
    """A loaded and checked prompt of a judge.

    Attributes:
        path: where it was loaded from.
        sha256: of its texts and schemas, in hex; not of what else its file holds.
        output: what the judge has to answer.
        files: all that it consists of.
        columns: that it names and the table must therefore have.
        system, user: its texts, with their placeholders.
        llm_schema: of the judge's own answer, as text.
        answer_schema: of the answers that are judged, as text.
    """

    path: Path
    sha256: str
    output: OutputSchema
    files: tuple[Path, ...]
    columns: tuple[str, ...]
    system: str
    user: str
    llm_schema: str
    answer_schema: str

    @property
    def placeholders(self) -> tuple[str, ...]:
        """Of his text for an answer, in order."""
        return tuple(PLACEHOLDER.findall(self.user))

    def render(self, data_case: DataCaseView, row: Mapping[str, str], answer: str) -> Rendered:
        """What the judge is asked about an answer: the fixed part, what is the same for its group, its own part."""
        columns = tuple(data_case.mandatory_columns.items())
        about = data_case.task_description, data_case.description, columns
        common = {**fixed_values(self.llm_schema, *about), ANSWER_SCHEMA: self.answer_schema}
        values = {**row, **common, ANSWER: f"<{ANSWER}>\n{as_data(answer, ANSWER)}\n</{ANSWER}>"}
        shared, user, cut = "", self.user, 0
        if data_case.grouping is not GroupMode.NONE:
            values[GROUP] = data_case.group
            shared, user = _split(user)
        if f"{{{CONTEXT}}}" in user:
            values[CONTEXT], cut = context_of(data_case.context, data_case.mandatory_columns, row)
        return Rendered(filled(self.system, common), filled(user, values), cut, filled(shared, values))


@lru_cache(maxsize=8)
def _split(user: str) -> tuple[str, str]:
    """What of the text is the same for all of a group, where it comes first, and the rest."""
    shared, group, own = user.partition(f"{{{GROUP}}}")
    alike = own.strip() and all(name in COMMON for name in PLACEHOLDER.findall(shared))
    return (shared + group, own.strip()) if alike else ("", user)


def judgement_of(text: str) -> Judgement:
    """Read a judge's answer, valid against his schema."""
    found = orjson.loads(text)
    score = min(max(float(found["score"]), 0.0), 1.0)
    return Judgement(Verdict(found["verdict"]), score, " ".join(str(found["feedback"]).split()))


def check_grouped(prompt: JudgePrompt, grouping: Grouping) -> None:
    """Check that a judge's text fits a task that groups its rows.

    Raises:
        ConfigError: it shows what differs from row to row, and he is asked about a whole group.
    """
    known = {GROUP, ANSWER, *COMMON, *grouping.columns}
    strange = [name for name in prompt.placeholders if name not in known]
    if strange and grouping.mode is GroupMode.OUTPUT:
        raise ConfigError(
            f"{prompt.path}: {{{strange[0]}}} differs from row to row, and the judge is asked about a whole group: "
            f"use {{{GROUP}}}, which shows its rows"
        )


def has_judge(path: Path) -> bool:
    """Whether a prompt brings the text that its answers are judged by."""
    return path.suffix != ".py" and bool(text_of(path, read_yaml(path, path.read_bytes()), JUDGE))


def load_judge(path: Path, answer: OutputSchema) -> JudgePrompt:
    """Read a judge's prompt.

    Args:
        path: a YAML prompt with a `judge` text, or a YAML file of a judge's own.
        answer: the answers that he is to judge.

    Raises:
        ConfigError: it is no such file; says where and what is wrong with it.
    """
    found = read_yaml(path, path.read_bytes())
    if user := text_of(path, found, JUDGE):
        key, system, own = JUDGE, "", None
    else:
        key, system, own = "user", text_of(path, found, "system"), found.get("schema")
        user = text_of(path, found, key)
    if f"{{{ANSWER}}}" not in user:
        raise ConfigError(f"{path}: the judge has to see {{{ANSWER}}}; put it into {key}")
    _check(path, system)
    schema, _, files = schema_of(path, own) if own else (VERDICT, (), (path,))
    try:
        output = JsonOutput(schema, "Verdict")
    except ValueError as error:
        raise ConfigError(f"{files[-1]}: {error}") from error
    lacking = [name for name in VERDICT["required"] if name not in schema.get("required", ())]
    if lacking:
        raise ConfigError(f'{files[-1]}: a judge\'s answer needs the field "{lacking[0]}" ({FIELDS})')
    names = dict.fromkeys(PLACEHOLDER.findall(user))
    columns = tuple(name for name in names if name not in (CONTEXT, ANSWER, *COMMON))
    parts = [system, user, json.dumps(schema, sort_keys=True), json.dumps(answer.schema, sort_keys=True)]
    sha256 = hashlib.sha256(orjson.dumps(parts)).hexdigest()
    return JudgePrompt(path, sha256, output, files, columns, system, user, _shown(schema), _shown(answer.schema))


@lru_cache(maxsize=4)
def kept_judge(folder: Path, judge_file: str, prompt_file: str) -> JudgePrompt:
    """The judge's prompt that is kept with a job, loaded once a process: it never changes."""
    return load_judge(folder / judge_file, kept_prompt(folder, prompt_file).output)


def _check(path: Path, system: str) -> None:
    for name in PLACEHOLDER.findall(system):
        if name not in COMMON:
            raise ConfigError(
                f"{path}: {{{name}}} is no placeholder of a judge's system{nearest(name, COMMON)} "
                f"(there is: {', '.join(COMMON)}). What differs from answer to answer belongs into user"
            )


def _shown(schema: dict[str, Any]) -> str:
    return json.dumps(schema, ensure_ascii=False, indent=2)
