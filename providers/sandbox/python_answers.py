"""A simulated answer that is Python: a pydantic module made of the output fields, or else the columns, of the request.

Such a request is known by its schema alone: one property, a string of `text/x-python`.
"""

from __future__ import annotations

import json
import keyword
import re

from .wire import Ask

MEDIA_TYPE = "text/x-python"
_FIELDS = re.compile(r"<output_fields>(.*?)</output_fields>", re.DOTALL)
_NAME = re.compile(r"^- ([A-Za-z]\w{0,60})\b", re.MULTILINE)
_TASK = re.compile(r"^# The task[^\n]*\n(.*?)(?=^# |\Z)", re.DOTALL | re.MULTILINE)


def python_answer(ask: Ask) -> str | None:
    """The answer as JSON text; None where no Python is asked for."""
    name = _python_property(ask.schema)
    return None if name is None else json.dumps({name: module_for(ask.fixed, ask.text)}, ensure_ascii=False)


def _python_property(schema: object) -> str | None:
    properties = schema.get("properties") if isinstance(schema, dict) else None
    if not isinstance(properties, dict) or len(properties) != 1:
        return None
    name, part = next(iter(properties.items()))
    return str(name) if MEDIA_TYPE in json.dumps(part) else None


def module_for(fixed: str, text: str) -> str:
    """A module with one model: a field for each output field that the request wants.

    Args:
        fixed: the fixed part of the request, which tells the task and lists the columns.
        text: the rest, which lists the output fields.
    """
    wanted = _FIELDS.search(text)
    names = _NAME.findall(wanted[1] if wanted else fixed)
    fields = [name for name in dict.fromkeys(names) if not keyword.iskeyword(name)] or ["answer"]
    task = _TASK.search(fixed)
    about = " ".join((task[1] if task else "The answer.").split()).replace('"', "'").replace("\\", "/")
    lines = [
        '"""The answer of a task (simulated)."""',
        "",
        "from pydantic import BaseModel, ConfigDict, Field",
        "",
        "",
        "class Answer(BaseModel):",
        f'    """{about[:200]}"""',
        "",
        '    model_config = ConfigDict(extra="forbid")',
        "",
        *(f'    {name}: str = Field(min_length=1, description="{_about(name)}")' for name in fields),
    ]
    return "\n".join(lines) + "\n"


def _about(name: str) -> str:
    return f"What the record says of the {name.replace('_', ' ')}, in one sentence."
