"""extract_df: the answers at once, beside their rows; submit_df and prepare_df: the same question as a job in hand."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

from batch_jobs.errors import UserError
from batch_jobs.frames.asked import read_prompt
from batch_jobs.frames.handle import JobHandle
from batch_jobs.frames.jobs import Found, Question, begin, find_or_make, question_of
from batch_jobs.frames.rows import shown_columns
from batch_jobs.frames.store import How, opened

ROWS_PER_REQUEST = 5

if TYPE_CHECKING:
    import pandas as pd

    from batch_jobs.frames.asked import AnswerSchema, Prompted

    Folder = str | os.PathLike[str]


class Options(TypedDict, total=False):
    """The keywords of `extract_df` beside `prompt`, for the functions that pass them on."""

    schema: AnswerSchema | None
    model: str | None
    backend: str
    id_col: str | None
    text_col: str | Sequence[str] | Mapping[str, str] | None
    chunk_size: int
    max_workers: int
    cache_path: Folder | None
    fresh: bool | str
    sandbox: bool
    progress: bool
    description: str
    max_output_tokens: int | None
    temperature: float | None


def extract_df(
    df: pd.DataFrame,
    *,
    prompt: Prompted,
    schema: AnswerSchema | None = None,
    model: str | None = None,
    backend: str = "openai",
    id_col: str | None = None,
    text_col: str | Sequence[str] | Mapping[str, str] | None = None,
    chunk_size: int = ROWS_PER_REQUEST,
    max_workers: int = 20,
    mode: str = "concurrent",
    cache_path: Folder | None = None,
    fresh: bool | str = False,
    sandbox: bool = False,
    progress: bool = True,
    description: str = "",
    max_output_tokens: int | None = None,
    temperature: float | None = None,
) -> pd.DataFrame:
    """Ask the same of every row, and return the rows with the answers.

    An answer is durable as soon as it is there: stopped or killed, the same call goes on, and pays for nothing twice.

    Args:
        df: the rows; it stays as it is.
        prompt: instructions, with the row's text as data; or the path of a YAML prompt or a prompt module.
        schema: of the answer: a pydantic model, a JSON Schema or the path of one; None for the prompt's own, else for
            one text field, `answer`.
        model: None for the backend's in config.json.
        backend: a provider of config.json: `openai`, `anthropic`, `gemini`, or one of your own.
        id_col: the column that names a row; unique and complete.
        text_col: the column or columns that are shown to the model; a dict also says what they hold. None for all.
        chunk_size: rows that go into one request, to pay for the prompt once; 1 asks for each alone.
        max_workers: calls that are in flight at once.
        mode: `concurrent` (at once), `batch` (half the price, within a day), or `auto`.
        cache_path: the folder that holds the store; None for the user's own.
        fresh: True asks anew; a word asks once under that word.
        sandbox: rehearse on a local server: simulated answers, no key, no cost.
        progress: show a bar on stderr.
        description: what `{task_description}` of a YAML prompt becomes.
        max_output_tokens: of one answer.
        temperature: None is not sent.

    Returns:
        The same rows, index, columns and types; then a typed column for each field, and `status`: `ok` or
        `failed: ` and why.

    Raises:
        BatchJobsError: of a kind that says who has to act; rows that fail are no error, see `status`.
    """
    options = Options(
        schema=schema,
        model=model,
        backend=backend,
        id_col=id_col,
        text_col=text_col,
        chunk_size=chunk_size,
        max_workers=max_workers,
        cache_path=cache_path,
        fresh=fresh,
        sandbox=sandbox,
        progress=progress,
        description=description,
        max_output_tokens=max_output_tokens,
        temperature=temperature,
    )
    return answered(question(df, prompt, mode, options))


def prepare_df(df: pd.DataFrame, *, prompt: Prompted, mode: str = "batch", **options: Unpack[Options]) -> JobHandle:
    """Make a job of the rows without sending anything: `plan()` tells what it would cost, `submit()` sends it.

    Args:
        df: the rows.
        prompt: see `extract_df`.
        mode: `batch`, `concurrent` or `auto`.
        options: see `extract_df`.

    Raises:
        UserError: no row can be sent; or what `extract_df` raises.
    """
    return _in_hand(question(df, prompt, mode, options))


def submit_df(df: pd.DataFrame, *, prompt: Prompted, mode: str = "batch", **options: Unpack[Options]) -> JobHandle:
    """Make a job of the rows and send it; returns once its batches are with the provider.

    Remember `task_id` and `cache_path`: `batch_jobs.job(task_id, cache_path=...)` finds it again from anywhere.

    Args:
        df: the rows.
        prompt: see `extract_df`.
        mode: `batch`, `concurrent` or `auto`.
        options: see `extract_df`.

    Raises:
        UserError: no row can be sent; or what `extract_df` raises.
    """
    handle = _in_hand(question(df, prompt, mode, options))
    handle.submit()
    return handle


def question(df: pd.DataFrame, prompt: Prompted, mode: str, options: Options) -> Question:
    """Read a call's arguments.

    Raises:
        UserError: one of them can't be.
    """
    import pandas as pd

    if not isinstance(df, pd.DataFrame):
        raise UserError(f"df: has to be a pandas DataFrame, not {type(df).__name__}")
    given: dict[str, Any] = dict(options)
    unknown = given.keys() - Options.__annotations__.keys()
    if unknown:
        raise UserError(
            f"there is no option {', '.join(sorted(unknown))} (there is: {', '.join(Options.__annotations__)})"
        )
    schema = given.get("schema")
    how = How(
        backend=given.get("backend", "openai"),
        model=given.get("model"),
        concurrent={"max_workers": given.get("max_workers", 20)},
        parameters={name: given.get(name) for name in ("max_output_tokens", "temperature")},
        simulated=given.get("sandbox", False),
    )
    id_col = None if given.get("id_col") is None else str(given["id_col"])
    same = {name: given[name] for name in ("cache_path", "fresh", "progress") if name in given}
    return question_of(
        df,
        read_prompt(prompt, schema, given.get("description", "")),
        shown_columns(df, given.get("text_col"), id_col),
        how,
        mode=mode,
        id_col=id_col,
        model=schema if isinstance(schema, type) else None,
        chunk_size=given.get("chunk_size", ROWS_PER_REQUEST),
        **same,
    )


def answered(asked: Question) -> pd.DataFrame:
    """Take a question to its end, and put the answers beside the rows."""
    from batch_jobs.frames.results import with_answers

    found = find_or_make(asked, autostart=True)
    if found.job is None:
        return with_answers(asked.frame, (), found.problems, asked.prompt.schema)
    return ended(asked, found).result()


def ended(asked: Question, found: Found) -> JobHandle:
    """The handle of a question's job, with the word given that it may be sent."""
    assert found.job is not None
    if not found.known:
        with opened(asked.folder, asked.how) as project:
            begin(project, found.job)
    return JobHandle(found.job.task_id, asked.folder, asked.frame, asked.model, asked.how, asked.progress)


def _in_hand(asked: Question) -> JobHandle:
    found = find_or_make(asked, autostart=False)
    if found.job is None:
        first = next(iter(found.problems.values()), "there are none")
        raise UserError(f"no row of the DataFrame can be sent: {first}")
    handle = JobHandle(found.job.task_id, asked.folder, asked.frame, asked.model, asked.how, asked.progress)
    handle.keep_rows()
    return handle
