"""A simulated answer that is Python: a pydantic module made of the output fields of the request.

Such a request is known by its schema alone: one property, a string of `text/x-python`.
"""

from __future__ import annotations

import json
import keyword
import re

from .question import Question

MEDIA_TYPE = "text/x-python"
_FIELDS = re.compile(r"<output_fields>(.*?)</output_fields>", re.DOTALL)
_NAME = re.compile(r"^- ([A-Za-z]\w{0,60})\b", re.MULTILINE)


def python_answer(question: Question) -> dict[str, str] | None:
    """The module in the form that was asked for; None where no Python is asked for."""
    name = _python_property(question.schema)
    return None if name is None else {name: module_for(question.whole)}


def _python_property(schema: object) -> str | None:
    properties = schema.get("properties") if isinstance(schema, dict) else None
    if not isinstance(properties, dict) or len(properties) != 1:
        return None
    name, part = next(iter(properties.items()))
    return str(name) if MEDIA_TYPE in json.dumps(part) else None


def module_for(text: str) -> str:
    """A module with one model: a field for each output field that the request wants.

    Args:
        text: of the request, which lists the output fields.
    """
    wanted = _FIELDS.search(text)
    names = _NAME.findall(wanted[1]) if wanted else []
    fields = [name for name in dict.fromkeys(names) if not keyword.iskeyword(name)] or ["answer"]
    lines = [
        '"""The answer of a task (simulated)."""',
        "",
        "from pydantic import BaseModel, ConfigDict, Field",
        "",
        "",
        "class Answer(BaseModel):",
        '    """The answer to one record (simulated)."""',
        "",
        '    model_config = ConfigDict(extra="forbid")',
        "",
        *(f'    {name}: str = Field(min_length=1, description="{_about(name)}")' for name in fields),
    ]
    return "\n".join(lines) + "\n"


def _about(name: str) -> str:
    return f"What the record says of the {name.replace('_', ' ')}, in one sentence."
