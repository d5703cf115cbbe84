"""Plan: render every row, find equal requests, find known answers, count what it will take; nothing is sent.

The plan's figures are what the user is shown before the word to send is given.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import compress, islice
from itertools import count as count_from
from operator import not_
from typing import Any

import orjson

from batch_jobs.config import Store, pick
from batch_jobs.config_tasks import Clean, Context
from batch_jobs.lifecycle.admission import queue_of, shard_limits
from batch_jobs.lifecycle.estimates import Estimate, estimate
from batch_jobs.lifecycle.grouping import GroupFigures, figures_of, group_figures, grouping_of
from batch_jobs.lifecycle.kept_config import keep_config, workers_of
from batch_jobs.lifecycle.project import Project
from batch_jobs.lifecycle.room import Weight, waves
from batch_jobs.lifecycle.run import Progress, Run
from batch_jobs.lifecycle.sides import realm_of, side_of
from batch_jobs.models import AskKind, Dialect, EventName, Layout, Mode, Phase
from batch_jobs.render.bodies import BYTES_PER_TOKEN, cut, tokens_of
from batch_jobs.render.cleaning import COMMON_NULLS, Cleaning
from batch_jobs.render.context import ContextRules
from batch_jobs.render.items import cut_rows, figures, first_errors, read_fingerprints, read_lengths
from batch_jobs.render.join import join_items
from batch_jobs.render.judge_prompt import kept_judge, load_judge
from batch_jobs.render.pool import render_all
from batch_jobs.render.prompts import load_prompt
from batch_jobs.render.spec import RenderSpec, call_prefix, schema_sha256
from batch_jobs.render.worker import remove_ordered
from batch_jobs.storage import calls, events, items, jobs
from batch_jobs.storage.files import copy_file
from batch_jobs.storage.jobs import Job
from providers.contract import Limits

LINE_OVERHEAD_BYTES = 200


@dataclass(frozen=True, slots=True)
class PlanFigures:
    """What a job will take.

    Attributes:
        items: distinct requests.
        known: of these, answered before.
        failed_rows: rows whose prompt could not be rendered.
        cut_rows: rows of which something was left out of their prompt, as config.json asks.
        first_errors: the first of them: (row as the spreadsheet shows it, why).
        waves: in how many goes the batches are sent, where the provider's queue does not take all of them at once.
        input_tokens: estimate for all that is to send, a token per 4 bytes.
        output_tokens: estimate, from earlier calls of the model or else the task's config.
        drafts: items that were answered before, and have to be judged only.
        requests: for answers; fewer than items where rows are asked for together.
        saved_tokens: of the input, by that.
        judge_calls: if nothing is rejected; their tokens and cost are not in those above, but in those below.
        judge_tokens: of these calls, in and out.
        batch_usd: estimate by batch; None when config.json has no price for the model, or the judge's.
        concurrent_usd: estimate by single calls.
        why: why this mode was picked.
        grouped: of its groups; None where the job has none.
    """

    rows: int
    items: int
    known: int
    failed_rows: int
    cut_rows: int
    first_errors: list[tuple[int, str]]
    shards: int
    waves: int
    input_tokens: int
    output_tokens: int
    batch_usd: float | None
    concurrent_usd: float | None
    mode: Mode
    why: str
    drafts: int = 0
    requests: int = 0
    saved_tokens: int = 0
    judge_calls: int = 0
    judge_tokens: int = 0
    grouped: GroupFigures | None = None

    @property
    def to_send(self) -> int:
        """Items that need a call."""
        return self.items - self.known


def plan_of(job: Job) -> PlanFigures:
    """A planned job's figures."""
    assert job.plan is not None
    later = dict.fromkeys(("cut_rows", "drafts", "requests", "saved_tokens", "judge_calls", "judge_tokens"), 0)
    known = {"waves": 1, "grouped": None, **later, **job.plan}  # plans of older versions do not tell
    values: dict[str, Any] = {name: known[name] for name in PlanFigures.__slots__}
    values["first_errors"] = [tuple(entry) for entry in values["first_errors"]]
    values["grouped"] = figures_of(values["grouped"])
    return PlanFigures(**{**values, "mode": Mode(values["mode"])})


def plan_job(run: Run, job: Job) -> None:
    """RECEIVED to PLANNED. May be run again after a crash: finished files are kept, the commit is one."""
    project = run.project
    _keep_prompts(project, job)
    spec = render_spec(project, job)
    prompt = load_prompt(spec.prompt_folder, spec.prompt_file)
    done = 0

    def count(rows: int) -> None:
        nonlocal done
        done += rows
        run.notify(Progress(job.task_id, "rendering", done, job.rows))

    count(0)
    ranges = render_all(spec, count, project.workers)
    list(project.workers.run(join_items, [(spec.plan,)], here=ranges == 1))
    remove_ordered(spec.plan)
    known = _known_items(project, spec)
    chosen = _figures(project, job, spec, known)
    planned = zip(count_from(0), read_fingerprints(spec.plan), known, strict=False)
    kept = {"config_sha256": keep_config(project, job), "workers": workers_of(project)}
    if job.rules.judge is not None:
        kept["judge_sha256"] = kept_judge(spec.prompt_folder, job.rules.judge.prompt, spec.prompt_file).sha256
    with run.write() as connection:
        if jobs.get(connection, job.task_id).phase is not job.phase:
            return  # cancelled meanwhile
        items.add_all(connection, job.task_id, planned)
        jobs.move(
            connection,
            job,
            Phase.PLANNED,
            plan={**asdict(chosen), **kept, "layout": choose_layout(project.settings.store, job.rows)},
            mode=chosen.mode,
            prompt_sha256=prompt.sha256,
            schema_sha256=schema_sha256(prompt.output.schema),
        )
        events.add(connection, job.task_id, EventName.JOB_PLANNED, {"items": chosen.items, "known": chosen.known})


def render_spec(project: Project, job: Job) -> RenderSpec:
    """What the render workers need for a job."""
    task = pick("task", job.task, project.settings.tasks)
    data_case = pick("data case", job.data_case, task.data_cases)
    return RenderSpec(
        snapshot=project.workspace.snapshot(job.task_id),
        plan=project.workspace.plan(job.task_id),
        prompt_folder=project.workspace.prompt(job.task_id, task.prompt).parent,
        prompt_file=task.prompt,
        task_description=task.description,
        data_case=job.data_case,
        data_case_description=data_case.description,
        mandatory_columns=dict(data_case.mandatory_columns),
        identity_columns=data_case.identity,
        realm=realm_of(job),
        dialect=Dialect(job.dialect),
        endpoint=job.endpoint,
        model=job.model,
        parameters=job.parameters,
        cleaning=_cleaning(data_case.clean),
        context=_context(data_case.context),
        accepted_by=_accepted_by(project, job, task.prompt),
        rows_per_request=job.rules.rows_per_request,
        grouping=grouping_of(data_case.grouping),
    )


def _accepted_by(project: Project, job: Job, prompt_file: str) -> str:
    """A digest of the judge: what he is asked, and who he is."""
    judge = job.rules.judge
    if judge is None:
        return ""
    folder = project.workspace.prompt(job.task_id, prompt_file).parent
    who = call_prefix(realm_of(side_of(job, AskKind.JUDGE)), judge.dialect, judge.endpoint, judge.model)
    parameters = orjson.dumps(judge.parameters, option=orjson.OPT_SORT_KEYS)
    prompt = kept_judge(folder, judge.prompt, prompt_file)
    return hashlib.sha256(b"\n".join([prompt.sha256.encode(), who, parameters])).hexdigest()


def _context(context: Context) -> ContextRules:
    values = context.model_dump(exclude={"columns"})
    return ContextRules(all_columns=context.columns == "all", **values)


def _cleaning(clean: Clean) -> Cleaning:
    common = COMMON_NULLS if clean.null_tokens is True else ()
    tokens = common if isinstance(clean.null_tokens, bool) else clean.null_tokens
    return Cleaning(unescape=clean.unescape, collapse=clean.collapse, trim=clean.trim, null_tokens=tokens)


def _keep_prompts(project: Project, job: Job) -> None:
    """Keep the prompts as they are now: this job's rows and answers are read with them to the end."""
    name = pick("task", job.task, project.settings.tasks).prompt
    kept = project.workspace.prompt(job.task_id, name)
    if kept.exists():
        return
    prompt = load_prompt(project.prompt_lib, name)
    judge = job.rules.judge
    judges = load_judge(project.prompt_lib / judge.prompt, prompt.output).files if judge is not None else ()
    for file in [*judges, *reversed(prompt.files)]:  # the prompt's own file last
        copy_file(file, kept.with_name(file.name))


def _known_items(project: Project, spec: RenderSpec) -> bytes:
    """One byte per item: 1 where its answer is in the cache. Looked up once, so that plan and ledger say the same."""
    return bytes(project.cache.known(read_fingerprints(spec.plan)))


def _figures(project: Project, job: Job, spec: RenderSpec, known_items: bytes) -> PlanFigures:
    failed, total = figures(spec.plan)
    known = sum(known_items)
    lengths = array("q", compress(read_lengths(spec.plan), map(not_, known_items)))
    to_send = total - known
    with project.ledger.read() as connection:
        weights = shard_weights(lengths, shard_limits(project, connection, job))
        queue = queue_of(project, connection, job)
        typical = calls.typical_output_tokens(connection, job.model, simulated=job.simulated)
    per_answer = typical or project.settings.tasks[job.task].expected_output_tokens
    more = estimate(project, job, spec, known_items, lengths, per_answer)
    output_tokens = int((to_send - more.drafts) * per_answer)
    mode, why = choose_mode(job.mode, to_send, project.settings.defaults.concurrent_below_items)
    asked = (to_send - more.drafts) / to_send if to_send else 0
    input_tokens = max(int(sum(lengths) // BYTES_PER_TOKEN * asked) - more.saved_tokens, 0)
    tokens = input_tokens, output_tokens
    return PlanFigures(
        rows=job.rows,
        items=total,
        known=known,
        failed_rows=failed,
        cut_rows=cut_rows(spec.plan) if spec.context.cuts else 0,
        first_errors=first_errors(spec.plan) if failed else [],
        shards=len(weights),
        waves=waves(weights, queue.limits),
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        batch_usd=_cost(project, job, Mode.BATCH, tokens, more),
        concurrent_usd=_cost(project, job, Mode.CONCURRENT, tokens, more),
        mode=mode,
        why=why,
        drafts=more.drafts,
        requests=more.requests,
        saved_tokens=more.saved_tokens,
        judge_calls=more.judge_calls,
        judge_tokens=more.judge_input_tokens + more.judge_output_tokens,
        grouped=_group_figures(project, job, spec, known_items),
    )


def _group_figures(project: Project, job: Job, spec: RenderSpec, known_items: bytes) -> GroupFigures | None:
    if spec.grouping is None:
        return None
    prices = [project.price(job.provider, job.model, mode) for mode in (Mode.BATCH, Mode.CONCURRENT)]
    return group_figures(spec.plan, spec.grouping, known_items, spec.dialect, (prices[0], prices[1]))


def shard_weights(lengths: Sequence[int], limits: Limits) -> list[Weight]:
    """What each shard will weigh, from the lengths of the bodies in bytes."""
    sizes, source = (length + LINE_OVERHEAD_BYTES for length in lengths), iter(lengths)
    most = limits.max_requests, limits.max_bytes, limits.max_enqueued_tokens
    counts = cut(sizes, *most, overhead_bytes=LINE_OVERHEAD_BYTES)
    return [Weight(sum(map(tokens_of, islice(source, number))), number) for number in counts]


def _cost(project: Project, job: Job, mode: Mode, tokens: tuple[int, int], more: Estimate) -> float | None:
    """What the answers cost, and the judge's; None where a price is not known."""
    judge, judged = side_of(job, AskKind.JUDGE), (more.judge_input_tokens, more.judge_output_tokens)
    costs = [_usd(project, job, mode, tokens), *([_usd(project, judge, mode, judged)] if more.judge_calls else [])]
    return None if None in costs else sum(cost for cost in costs if cost is not None)


def _usd(project: Project, side: Job, mode: Mode, tokens: tuple[int, int]) -> float | None:
    price = project.price(side.provider, side.model, mode)
    if price is None:
        return None
    return (tokens[0] * price.input + tokens[1] * price.output) / calls.PER_MILLION


def choose_mode(asked: Mode, to_send: int, concurrent_below_items: int) -> tuple[Mode, str]:
    """Pick the mode, and say why."""
    if asked is not Mode.AUTO:
        return asked, "as asked"
    if to_send < concurrent_below_items:
        return Mode.CONCURRENT, f"fewer than {concurrent_below_items:,} items to send: answered at once"
    return Mode.BATCH, f"{concurrent_below_items:,} items or more to send: half the price by batch"


def choose_layout(store: Store, rows: int) -> Layout:
    """Pick the layout of a job's results; it is kept with the plan, so that a changed config never splits a job."""
    if store.layout is not Layout.AUTO:
        return store.layout
    return Layout.PACKED if rows > store.packed_above_rows else Layout.FOLDERS


def layout_of(job: Job) -> Layout:
    """The layout that a planned job's results have."""
    return Layout((job.plan or {}).get("layout", Layout.FOLDERS))
