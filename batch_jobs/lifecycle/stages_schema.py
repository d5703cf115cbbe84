"""The schema of a task, written by an LLM: one call, one module of pydantic models, checked before it is put in place.

A schema that is there is kept. What the call brought is durable in the call cache before anything is made of it, so
that a crash after it never pays twice; a module that fails is asked for once more, with what was wrong with it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from batch_jobs import system
from batch_jobs.config import pick
from batch_jobs.config_tasks import DataCase, Task
from batch_jobs.errors import ConfigError, RequestRejected
from batch_jobs.intake.recognise import open_table
from batch_jobs.lifecycle.checking import answer_of, checked_result
from batch_jobs.lifecycle.plan import render_spec
from batch_jobs.lifecycle.project import Project
from batch_jobs.lifecycle.receive import Order, Way, check_columns, intake_limits, way_to_model
from batch_jobs.lifecycle.schema_fit import check_schema
from batch_jobs.lifecycle.stages import Made, State, archive
from batch_jobs.models import ItemResult, Mode, Outcome, Parameters, Request, Usage
from batch_jobs.render.cleaning import cleaner
from batch_jobs.render.context import context_of
from batch_jobs.render.prompt import DataCaseView, Prompt, rendered
from batch_jobs.render.prompt_yaml import read_yaml
from batch_jobs.render.prompts import load_prompt
from batch_jobs.render.schema_check import SchemaModule, checked_module
from batch_jobs.render.schema_files import MODULE_NAME
from batch_jobs.render.spec import RenderSpec, fingerprint
from batch_jobs.storage.calls import cost_of
from batch_jobs.storage.files import atomic_write
from batch_jobs.storage.jobs import Job
from batch_jobs.table import FileKind, TableFormat
from providers.connect import codec_for

AUTO_PROMPT = "schema_auto.yaml"
NO_JOB = "0" * 32
"""What stands for a task_id in the call cache: no job asked this."""
PLACES = ("output_fields", "sample_rows", "feedback")
SAMPLE_ROWS = 5
SAMPLE_CELL_CHARS = 500
ATTEMPTS = 2


class Sample(NamedTuple):
    """A file whose first rows the LLM gets to see."""

    file: Path
    file_name: str
    sheet: str | None = None


@dataclass(frozen=True, slots=True)
class SchemaOrder:
    """What the user asks for. None means the config's default."""

    task: str
    data_case: str
    sample: Sample | None = None
    provider: str | None = None
    model: str | None = None
    force: bool = False


@dataclass(frozen=True, slots=True)
class Bill:
    """What a schema took.

    Attributes:
        calls: made now; 0 where the answer was known.
        cost_usd: None where config.json has no price for the model.
    """

    provider: str = ""
    model: str = ""
    calls: int = 0
    usage: Usage = field(default_factory=Usage)
    cost_usd: float | None = 0.0

    def plus(self, result: ItemResult, cost_usd: float | None) -> Bill:
        """One call more."""
        mine, more = self.usage, result.usage
        usage = Usage(
            mine.input_tokens + more.input_tokens,
            mine.cached_tokens + more.cached_tokens,
            mine.output_tokens + more.output_tokens,
        )
        total = None if cost_usd is None or self.cost_usd is None else self.cost_usd + cost_usd
        return replace(self, calls=self.calls + 1, usage=usage, cost_usd=total)


@dataclass(frozen=True, slots=True)
class SchemaMade:
    """What became of it; without `module` and `bill` where a schema was there and is kept."""

    made: Made
    module: SchemaModule | None = None
    bill: Bill = field(default_factory=Bill)

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        bill, module = self.bill, self.module
        return {
            "stage": "schema",
            **self.made.as_json(),
            "answer": module.model if module else None,
            "fields": list(module.fields) if module else None,
            "provider": bill.provider or None,
            "model": bill.model or None,
            "calls": bill.calls,
            "tokens": {"input": bill.usage.input_tokens, "output": bill.usage.output_tokens},
            "cost_usd": bill.cost_usd,
        }


def make_schema(project: Project, order: SchemaOrder, tell: Callable[[str], None]) -> SchemaMade:
    """Have an LLM write the schema module that a task's YAML prompt names, unless it is there.

    Args:
        project: opened.
        order: what is asked for.
        tell: is told in a line when a call goes out, and why a module was refused.

    Raises:
        UnknownName: there is no such task, data case, provider or model.
        ConfigError: the prompt names no module; no key; the LLM's module can't be used: says where it is kept.
        FileRefused: the sample can't be read, or lacks columns.
        ProviderError: the call failed.
    """
    task = pick("task", order.task, project.settings.tasks)
    data_case = pick("data case", order.data_case, task.data_cases, f'task "{order.task}"')
    target = schema_target(project, order.task, task)
    if target.exists() and not order.force:
        return SchemaMade(Made(State.UNCHANGED, target))
    author = _author(project, order, task, data_case, tell)
    with system.exclusive_lock(project.workspace.store / f".schema-{target.name}.lock"):
        if target.exists() and not order.force:  # another process was faster
            return SchemaMade(Made(State.UNCHANGED, target))
        first, module = author.write(target)
        archived = archive(target, project.clock())
        atomic_write(target, f"{_head(order.task, first, simulated=project.simulated)}{module.source}".encode())
    return SchemaMade(Made(State.WRITTEN, target, archived), module, author.bill)


def _head(task: str, call: bytes, *, simulated: bool) -> str:
    command = f"batch-jobs stage schema --task {task}"
    written = f"# Written by an LLM: {command}. Yours to change; it is kept as it is.\n"
    if simulated:
        written = f"# Simulated (--sandbox). For one that an LLM has written: {command} --force\n"
    return f"{written}# Request: {call.hex()}\n"


def schema_target(project: Project, task_name: str, task: Task) -> Path:
    """Where the schema module of a task lies, or shall lie.

    Raises:
        ConfigError: its prompt is no YAML file, or names no module.
    """
    path = project.prompt_lib / task.prompt
    if path.suffix == ".py":
        raise ConfigError(f"{path}: a prompt module has its schema in itself; only that of a .yaml prompt is written")
    if not path.is_file():
        raise ConfigError(f"{path}: there is no such prompt (tasks.{task_name}.prompt)")
    given = read_yaml(path, path.read_bytes()).get("schema")
    if not isinstance(given, str) or not MODULE_NAME.fullmatch(given):
        what = f'names "{given}"' if isinstance(given, str) else "holds a schema"
        raise ConfigError(
            f"{path}: {what}, which is written by hand. "
            f'To have it written, name a module: "schema: {path.stem}_schema.py"'
        )
    return path.parent / given


def _author(
    project: Project, order: SchemaOrder, task: Task, data_case: DataCase, tell: Callable[[str], None]
) -> _Author:
    way = way_to_model(project, order.provider, order.model)
    job = _stand_in(project, order, way)
    prompt = _auto_prompt(project)
    spec = render_spec(project, job)
    values = {
        "output_fields": "\n".join(f'- {field}: column "{column}"' for field, column in task.output_columns.items()),
        "sample_rows": "\n".join(_samples(project, order, data_case, spec)) or "(none was given)",
    }
    return _Author(project, way, job, spec, prompt, values, tuple(task.output_columns), tell)


def _stand_in(project: Project, order: SchemaOrder, way: Way) -> Job:
    """What connecting and rendering need to know, as a job that is in no ledger."""
    now = project.clock()
    return Job(
        task_id=NO_JOB,
        task=order.task,
        data_case=order.data_case,
        provider=way.provider,
        dialect=way.entry.dialect,
        endpoint=project.endpoint(way.provider),
        model=way.model,
        parameters=Parameters(**way.entry.parameters.model_dump()),
        mode=Mode.CONCURRENT,
        account=way.account,
        simulated=project.simulated,
        file_name="",
        file_sha256="",
        suffix="",
        format=TableFormat(FileKind.TEXT),
        columns=(),
        output_columns={},
        rows=0,
        created_at=now,
    )


def _auto_prompt(project: Project) -> Prompt:
    prompt = load_prompt(project.prompt_lib, AUTO_PROMPT)
    strange = [name for name in prompt.columns if name not in PLACES]
    if strange:
        raise ConfigError(f"{prompt.path}: {{{strange[0]}}} is no placeholder of it (there is: {', '.join(PLACES)})")
    if len(prompt.output.fields) != 1:
        raise ConfigError(f"{prompt.path}: its schema must have one field, the module's source")
    return prompt


def _samples(project: Project, order: SchemaOrder, data_case: DataCase, spec: RenderSpec) -> Iterator[str]:
    """The first rows of the sample as the task's prompt would show them, cut."""
    if order.sample is None:
        return
    file, name, sheet = order.sample
    limits = intake_limits(project)
    table = open_table(file, filename=name, sheet=sheet, limits=limits)
    check_columns(table, data_case, Order(file, name, order.task, order.data_case))
    clean = cleaner(spec.cleaning)
    rules = replace(
        spec.context, max_cell_chars=min(spec.context.max_cell_chars or SAMPLE_CELL_CHARS, SAMPLE_CELL_CHARS)
    )
    for row in islice(table.rows(), SAMPLE_ROWS):
        cells = row.cells if clean is None else map(clean, row.cells)
        yield context_of(rules, spec.mandatory_columns, dict(zip(table.columns, cells, strict=True))).text


@dataclass
class _Author:
    """Asks the LLM, at most twice."""

    project: Project
    way: Way
    job: Job
    spec: RenderSpec
    prompt: Prompt
    values: Mapping[str, str]
    wanted: tuple[str, ...]
    tell: Callable[[str], None]

    def __post_init__(self) -> None:
        self.bill = Bill(self.way.provider, self.way.model)

    def write(self, target: Path) -> tuple[bytes, SchemaModule]:
        """Get a module that passes, and the fingerprint of the first request."""
        feedback, first, source, problem = "", b"", "", ""
        for attempt in range(ATTEMPTS):
            body = self._body(feedback)
            call = fingerprint(self.spec.fingerprint_prefix(), body)
            first = first or call
            source = self._answer(call, body)
            try:
                return first, self._checked(source)
            except ValueError as error:
                problem = str(error)
            if attempt + 1 < ATTEMPTS:
                self.tell(f"the module can't be used ({problem.splitlines()[0]}); asking once more")
            feedback = f"Your last module can't be used:\n{source.strip()}\n\nWhat is wrong with it:\n{problem}"
        draft = target.parent / "drafts" / f"{target.stem}-{hashlib.sha256(source.encode()).hexdigest()[:8]}.py"
        atomic_write(draft, source.encode())
        raise ConfigError(
            f"{self.way.model} wrote no schema that can be used, twice: {problem.splitlines()[0]}. Its draft is kept: "
            f"{draft}. Mend it and put it at {target}, or say more in the task's description, or use another --model"
        )

    def _body(self, feedback: str) -> bytes:
        spec = self.spec
        view = DataCaseView(
            spec.data_case, spec.data_case_description, spec.mandatory_columns, spec.task_description, spec.context
        )
        fixed, text, *_ = rendered(self.prompt, view, {**self.values, "feedback": feedback})
        output = self.prompt.output
        request = Request(fixed, text.strip(), output.schema, output.name, spec.model, spec.parameters)
        return codec_for(spec.dialect, spec.endpoint).encode_body(request)

    def _answer(self, call: bytes, body: bytes) -> str:
        """The module's source, from the cache, or by one call whose answer is durable before it is looked at."""
        known = self.project.cache.texts([call]).get(call)
        if known is None:
            known = self._ask(call, body)
        source = orjson.loads(known)[self.prompt.output.fields[0]]
        return source if isinstance(source, str) else ""

    def _ask(self, call: bytes, body: bytes) -> str:
        self.tell(f"asking {self.way.provider} {self.way.model}")
        result = checked_result(self.prompt.output, self.project.provider(self.job).complete(body))
        price = self.project.price(self.way.provider, self.way.model, Mode.CONCURRENT)
        if result.billed:
            self.bill = self.bill.plus(result, cost_of(result.usage, price) if price else None)
        if result.outcome is not Outcome.SUCCEEDED:
            fix = ". Raise max_output_tokens of the provider" if result.outcome is Outcome.TRUNCATED else ""
            raise RequestRejected(
                f"{self.way.model} gave no schema: {result.outcome} {result.code}: {result.detail}{fix}"
            )
        self.project.cache.put([answer_of(self.job, price, call, result, self.project.clock())])
        return result.text

    def _checked(self, source: str) -> SchemaModule:
        """The module, if it passes and has the fields of config.json.

        Raises:
            ValueError: it does not; what is wrong, for the LLM and for people.
        """
        module = checked_module(source)
        missing = [name for name in self.wanted if name not in module.fields]
        if missing:
            raise ValueError(
                f"output_columns of config.json names {', '.join(missing)}, which {module.model} does not have "
                f"(there is: {', '.join(module.fields)})"
            )
        try:
            check_schema(self.way.provider, self.way.entry.dialect, module.schema)
        except ConfigError as error:
            raise ValueError(error.message) from None
        return module
