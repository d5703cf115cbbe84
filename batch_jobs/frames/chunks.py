"""process_chunks: the same question about many texts that are no table, in order, with what each call took."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from batch_jobs.errors import UserError
from batch_jobs.frames.asked import SYSTEM, KeptPrompt, texts_as_prompt
from batch_jobs.frames.extract import ended
from batch_jobs.frames.jobs import Found, Question, find_or_make, question_of
from batch_jobs.frames.store import How, backend_of, folder_of, opened

if TYPE_CHECKING:
    from pathlib import Path

    from batch_jobs.lifecycle.project import Project

TEXT = "text"
PLACEHOLDERS = ("text", "fields")
_PLACEHOLDER = re.compile(r"\{([^\W\d]\w*)\}")


class Chunk(Protocol):
    """A piece of a document, of whatever class."""

    @property
    def text(self) -> str:
        """What is in it."""
        ...


@dataclass(frozen=True, slots=True)
class ProcessedChunk:
    """What one chunk came to.

    Attributes:
        chunk: as it was given.
        result: field -> value; None where there is no answer.
        error: why there is none; None where there is one.
        processing_metadata: `processing_time` in seconds, `token_count`, `model_name`, `attempt_count`; zeros where
            the answer was known before.
    """

    chunk: str | Chunk
    result: dict[str, Any] | None
    error: str | None
    processing_metadata: dict[str, Any]


@dataclass
class _Took:
    """What the calls for one item took."""

    seconds: float = 0.0
    tokens: int = 0
    attempts: int = 0
    model: str = ""


def process_chunks(
    chunks: Sequence[str | Chunk],
    prompt_template: str,
    fields: Sequence[str] | Mapping[str, str],
    model_name: str,
    max_concurrency: int = 20,
    timeout: float = 60,
    retry_attempts: int = 3,
    *,
    backend: str | None = None,
    cache_path: str | os.PathLike[str] | None = None,
    fresh: bool | str = False,
    sandbox: bool = False,
    progress: bool = True,
) -> list[ProcessedChunk]:
    """Extract fields from texts, many at once; equal texts are asked once.

    Args:
        chunks: texts, or objects with a `text`.
        prompt_template: instructions. Where it says {text} the chunk's text is put in, and {fields} the fields' names;
            without {text}, the text follows as data.
        fields: names of what is to be found, or name -> what it is; null in an answer where the text does not say.
        model_name: of the backend.
        max_concurrency: calls that are in flight at once.
        timeout: of one call, in seconds.
        retry_attempts: at one chunk.
        backend: a provider of config.json; None for the one that has the model, else openai.
        cache_path: see `extract_df`; also the next ones.
        fresh: True asks anew; a word asks once under that word.
        sandbox: rehearse on a local server.
        progress: show a bar on stderr.

    Returns:
        One for each chunk, in the same order.

    Raises:
        BatchJobsError: nothing could be asked at all; a chunk that fails is no error, see its `error`.
    """
    import pandas as pd

    frame = pd.DataFrame({TEXT: pd.array([_text_of(chunk) for chunk in chunks], dtype="object")})
    how = How(
        backend=backend or _having(folder_of(cache_path), model_name) or "openai",
        model=model_name,
        timeout_seconds=timeout,
        concurrent={"max_workers": max_concurrency, "attempts": retry_attempts},
        simulated=sandbox,
    )
    prompt = _prompt_of(prompt_template, fields)
    options = {"cache_path": cache_path, "fresh": fresh, "progress": progress}
    asked = question_of(frame, prompt, {TEXT: ""}, how, **options)  # type: ignore[arg-type]
    found = find_or_make(asked, autostart=True)
    outcomes = _outcomes(asked, found) if found.job is not None else {}
    return [_processed(chunk, position, outcomes, found, model_name) for position, chunk in enumerate(chunks)]


def _text_of(chunk: str | Chunk) -> str:
    text = chunk if isinstance(chunk, str) else getattr(chunk, "text", None)
    if not isinstance(text, str):
        raise UserError(f"chunks: {type(chunk).__name__} is no text and has none; give str, or objects with a .text")
    return text


def _having(folder: Path, model: str) -> str | None:
    """The provider that has the model, by the folder's config.json, or the shipped one."""
    from batch_jobs.config import load_settings
    from batch_jobs.frames.store import CONFIG
    from batch_jobs.shipped import shipped_folder

    path = folder / CONFIG
    return backend_of(load_settings(path if path.exists() else shipped_folder() / CONFIG).providers, model)


def _prompt_of(template: str, fields: Sequence[str] | Mapping[str, str]) -> KeptPrompt:
    """Make a prompt of a template.

    Raises:
        UserError: it has a placeholder that does not exist, or there are no fields.
    """
    described = dict(fields) if isinstance(fields, Mapping) else dict.fromkeys(fields, "")
    if isinstance(fields, str) or not described or not all(isinstance(name, str) and name for name in described):
        raise UserError("fields: give a list of names, or a dict of name -> what it is")
    if not template.strip():
        raise UserError("prompt_template: is empty")
    strange = [name for name in _PLACEHOLDER.findall(template) if name not in PLACEHOLDERS]
    if strange:
        raise UserError(f"prompt_template: there is no {{{strange[0]}}} (there is: {{text}}, {{fields}})")
    schema = _schema_of(described)
    text = template.replace("{fields}", ", ".join(described)).strip()
    if "{text}" not in text:
        return texts_as_prompt({"system": SYSTEM}, schema, description=text)
    system = "Answer with one JSON object and nothing else. It has to fit this schema:\n{llm_schema}"
    return texts_as_prompt({"system": system, "user": text}, schema, description="")


def _schema_of(fields: Mapping[str, str]) -> dict[str, Any]:
    found = {
        name: {"anyOf": [{"type": "string"}, {"type": "null"}], **({"description": text} if text else {})}
        for name, text in fields.items()
    }
    return {
        "title": "Fields",
        "type": "object",
        "properties": found,
        "required": list(found),
        "additionalProperties": False,
    }


@dataclass(frozen=True, slots=True)
class _Outcome:
    result: dict[str, Any] | None
    error: str | None
    took: _Took


def _outcomes(asked: Question, found: Found) -> dict[int, _Outcome]:
    """Take the job to its end, and read what each chunk came to, by position."""
    from batch_jobs.lifecycle.answers import answers_of
    from batch_jobs.storage import jobs

    handle = ended(asked, found)
    handle.wait()
    with opened(asked.folder, asked.how) as project:
        with project.ledger.read() as connection:
            job = jobs.get(connection, handle.task_id)
        took = {} if found.known else _took(project, job.task_id)
        outcomes = {}
        for row in answers_of(project, job):
            of_item = took.get(row.item) if row.item is not None else None
            result = row.answer if row.reason is None else None
            outcomes[int(row.row)] = _Outcome(result, row.reason, of_item or _Took())
        return outcomes


def _took(project: Project, task_id: str) -> dict[int, _Took]:
    """What the calls for each item took, as the artefact of what came back tells."""
    from batch_jobs.lifecycle.pool.artefacts import read_received

    took: defaultdict[int, _Took] = defaultdict(_Took)
    for call in read_received(project.workspace.calls_received(task_id)):
        of_item = took[call["item"]]
        usage = call.get("usage", {})
        of_item.tokens += usage.get("input_tokens", 0) + usage.get("output_tokens", 0)
        of_item.seconds = max(of_item.seconds, call.get("seconds", 0.0))
        of_item.attempts = max(of_item.attempts, call.get("begun", 1))
        of_item.model = call.get("model") or of_item.model
    return took


def _processed(
    chunk: str | Chunk, position: int, outcomes: Mapping[int, _Outcome], found: Found, model: str
) -> ProcessedChunk:
    outcome = outcomes.get(position) or _Outcome(None, found.problems.get(position, "it was not sent"), _Took())
    took = outcome.took
    metadata = {
        "processing_time": round(took.seconds, 6),
        "token_count": took.tokens,
        "model_name": took.model or model,
        "attempt_count": took.attempts,
    }
    return ProcessedChunk(chunk, outcome.result, outcome.error, metadata)
