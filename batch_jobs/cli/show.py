"""The words and figures that people see: a label column and short sentences; pure text, no state."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import click

from batch_jobs.config import ModelEntry
from batch_jobs.models import BreakerState, GroupMode, JobOutcome, Mode, Phase, Status
from batch_jobs.output.words import count as count
from batch_jobs.output.words import duration as duration
from batch_jobs.output.words import money as money

if TYPE_CHECKING:  # `status` answers without loading what planning needs
    from batch_jobs.lifecycle.documents import Original
    from batch_jobs.lifecycle.grouping import GroupFigures
    from batch_jobs.lifecycle.plan import PlanFigures
    from batch_jobs.lifecycle.view import JobView
    from batch_jobs.storage.jobs import Job

LABEL_CHARS = 14


def line(label: str, text: str, color: str | None = None) -> str:
    """One line of the report: the label, then the text."""
    shown = f"{label:<{LABEL_CHARS}}"
    if "NO_COLOR" not in os.environ:
        shown = click.style(shown, fg=color or "cyan")
    return f"{shown}{text}"


def file_line(job: Job) -> str:
    """What was taken in."""
    text = f"{count(job.rows, 'row')}, {job.format.describe()}, {count(len(job.columns), 'column')}"
    return line(job.file_name, text) if len(job.file_name) < LABEL_CHARS else line("file", f"{job.file_name}: {text}")


def document_line(original: Original) -> str:
    """What a document was cut into, and which pages have no row."""
    pages = f"{count(original.pages, 'page')}, " if original.pages else ""
    named = ", ".join(f"{number:,}" for number in original.empty_pages[:10])
    more = ", ..." if len(original.empty_pages) > 10 else ""
    empty = f"; no text on page {named}{more} (blank, or scanned)" if named else ""
    text = f"{original.file_name}: {pages}{count(original.chunks, 'chunk')}{empty}"
    return line("document", text, "yellow" if empty else None)


def plan_lines(job: Job, figures: PlanFigures, entry: ModelEntry | None) -> list[str]:
    """What it will take, before anything is sent."""
    known = f"; {figures.known:,} answered before" if figures.known else ""
    sends = f", {figures.to_send:,} to send in {_ways(figures)}" if figures.to_send else ", nothing to send"
    lines = [line("plan", f"{count(figures.rows, 'row')} = {count(figures.items, 'item')}{known}{sends}")]
    if figures.grouped is not None:
        lines += _group_lines(figures.grouped)
    if figures.cut_rows:
        rows = count(figures.cut_rows, "row")
        lines.append(line("shortened", f"{rows}, in the prompt and not in your file, as config.json asks"))
    if figures.failed_rows:
        first = "; ".join(f"row {number:,}: {why}" for number, why in figures.first_errors[:3])
        lines.append(line("prompt", f"{count(figures.failed_rows, 'row')} can't be rendered ({first})", "yellow"))
    if figures.to_send:
        lines.append(line("mode", f"{figures.mode}: {figures.why}"))
        lines.append(line("cost", _cost(job, figures, entry)))
        if figures.output_tokens:
            tokens = f"about {figures.input_tokens:,} in, {figures.output_tokens:,} out"
            lines.append(line("tokens", tokens))
        lines += _rules_lines(job, figures)
    if job.simulated:
        lines.append(
            line("sandbox", "simulated answers from this machine: nothing is sent out, nothing is billed", "yellow")
        )
    else:
        lines.append(line("columns", ", ".join(job.output_columns.values())))
    return lines


def _rules_lines(job: Job, figures: PlanFigures) -> list[str]:
    """What the judge adds, and what rows in one request save."""
    lines: list[str] = []
    if figures.saved_tokens:
        asked = f"{count(figures.requests, 'request')} of up to {job.rules.rows_per_request} rows"
        lines.append(line("together", f"{asked}: about {figures.saved_tokens:,} tokens less than one by one"))
    judge = job.rules.judge
    if judge is not None and figures.judge_calls:
        again = f"; what is rejected goes again, {_times(job.rules.repairs)} at most" if job.rules.repairs else ""
        tokens = f"about {figures.judge_tokens:,} tokens"
        lines.append(line("judge", f"{judge.model} looks at each answer ({tokens}){again}"))
        if figures.drafts:
            lines.append(line("", f"{count(figures.drafts, 'item')} answered before, to be judged only"))
    return lines


def _times(number: int) -> str:
    return {1: "once", 2: "twice"}.get(number, f"{number} times")


def _group_lines(groups: GroupFigures) -> list[str]:
    """How the rows are grouped, what of a group is not shown, and what the prompt cache may save."""
    a_group = "one answer a group" if groups.mode is GroupMode.OUTPUT else "each row sees its group"
    lines = [line("groups", f"{groups.groups:,} by {', '.join(groups.columns)}: {a_group}")]
    if groups.left_out_rows:
        where = count(groups.cut_groups, "group")
        rows = count(groups.left_out_rows, "row")
        lines.append(line("left out", f"{rows} of {where} in the prompts, as max_rows_per_group says", "yellow"))
    if groups.repeated_tokens:
        text = f"about {groups.repeated_tokens:,} of the tokens in repeat their group"
        if groups.batch_saving_usd is not None:
            by_batch, at_once = (money(usd) for usd in (groups.batch_saving_usd, groups.concurrent_saving_usd))
            most = "up to " if by_batch.startswith("$") else ""
            text += f": {most}{by_batch} less by batch, {at_once} at once, where the provider's cache hits"
        lines.append(line("caching", text))
    return lines


def _ways(figures: PlanFigures) -> str:
    if figures.mode is not Mode.BATCH:
        return "single calls"
    waves = f", {figures.waves:,} waves: the provider's queue takes no more at once" if figures.waves > 1 else ""
    return count(figures.shards, "batch") + waves


def _cost(job: Job, figures: PlanFigures, entry: ModelEntry | None) -> str:
    if entry is None:
        return f"unknown: config.json has no price for {job.model} (providers.{job.provider}.models)"
    prices = f"{job.model}, prices of {entry.date.isoformat()}"
    return f"{_about(figures.batch_usd)} by batch, {_about(figures.concurrent_usd)} at once ({prices})"


def _about(usd: float | None) -> str:
    text = money(usd)
    return f"about {text}" if text.startswith("$") else text


def done_lines(view: JobView) -> list[str]:
    """How a job ended."""
    parts = [f"{view.succeeded:,} of {count(view.rows, 'row')} answered"]
    parts += [f"{number:,} {reason}" for reason, number in view.reasons.items()]
    parts += [duration(view.seconds), money(view.cost_usd) if view.price_known else "price unknown"]
    if view.simulated:
        parts.append("simulated")
    color = {JobOutcome.COMPLETE: "green", JobOutcome.FAILED: "red"}.get(view.outcome or JobOutcome.PARTIAL, "yellow")
    lines = [line("cancelled" if view.outcome is JobOutcome.CANCELLED else "done", ", ".join(parts), color)]
    if view.verdicts:
        lines.append(line("judge", _verdicts(view.verdicts)))
    lines += [line("", f"row {number:,}: {reason}") for number, reason in view.first_failures]
    if view.failed > len(view.first_failures):
        lines.append(line("", f"and {view.failed - len(view.first_failures):,} more: see the status column"))
    if view.cells_changed:
        lines.append(
            line("note", f"{count(view.cells_changed, 'cell')} of ours did not fit the file's format as written")
        )
    return lines


def _verdicts(verdicts: dict[str, int]) -> str:
    """`accepted 45 answers, 3 of them only when asked again; rejected 2`."""
    accepted, again = verdicts.get("accept", 0), verdicts.get("accepted_again", 0)
    later = f", {again:,} of them only when asked again" if again else ""
    return f"accepted {count(accepted, 'answer')}{later}; rejected {verdicts.get('reject', 0):,}"


def report_line(view: JobView) -> str:
    """How to see more of a job that is done."""
    return line("report", f"how it went, in one page: batch-jobs report {view.task_id[:12]}")


def status_lines(view: JobView) -> list[str]:
    """How a job stands."""
    simulated = " (sandbox)" if view.simulated else ""
    lines = [
        line("job", f"{view.task_id}{simulated}"),
        line("file", f"{view.file_name}, {count(view.rows, 'row')}, {view.task} / {view.data_case}"),
        line("model", f"{view.provider} {view.model}, {view.mode}"),
    ]
    if view.status is Status.DONE:
        lines += done_lines(view)
    else:
        lines.append(line("status", f"{view.status}: {_standing(view)}"))
    if view.message:
        lines.append(line("needs you", view.message, "red"))
    if view.unknown_outcomes:
        text = f"{count(view.unknown_outcomes, 'batch')} may or may not have been accepted; being looked for"
        lines.append(line("unknown", text, "yellow"))
    if view.waits_for_room is not None:
        lines.append(line("waits", view.waits_for_room.words(), "yellow"))
    for other, number in view.waits_for.items():
        text = f"for {count(number, 'item')} that job {other[:12]} has under way; its answers are taken, not paid again"
        lines.append(line("waits", text, "yellow"))
    if view.pool and view.phase is Phase.RUNNING:
        lines.append(line("calls", _calls(view.pool)))
    if view.output:
        lines.append(line("file", view.output))
    return lines


def _calls(pool: dict[str, Any]) -> str:
    """How single calls went when last looked at."""
    text = (
        f"{pool['calls_per_minute']:,} and {pool['tokens_per_minute']:,} tokens a minute, "
        f"{pool['concurrency']} at once, {pool['refused_429']:,} refused (429)"
    )
    if pool["breaker"] != BreakerState.CLOSED:
        return f"{text}; the provider fails call after call, so they wait"
    return f"{text}; cooling down" if pool["waits_seconds"] else text


def _standing(view: JobView) -> str:
    if view.phase is not Phase.RUNNING:
        return {Phase.RECEIVED: "not planned yet", Phase.PLANNED: "waits for the word to send"}.get(
            view.phase, view.phase.value
        )
    if view.mode is Mode.CONCURRENT or not view.batch_total:
        return f"{view.answered_items:,} of {count(view.items, 'item')} answered"
    eta = f", about {duration(view.eta_seconds)} left" if view.eta_seconds else ""
    state = (view.provider_state or "").replace("_", " ")
    return f"round {view.round + 1}, {state} {view.batch_done:,}/{view.batch_total:,}{eta}"


def job_table(views: list[JobView]) -> list[str]:
    """The list of jobs, newest first, with what each still needs from somebody."""
    if not views:
        return []
    lines = [f"{'task_id':<14}{'status':<12}{'outcome':<12}{'rows':>10}  {'cost':>12}  task / data case, file"]
    for seen in views:
        how = seen.outcome or (seen.phase if seen.phase is not Phase.DONE else "")
        cost = money(seen.cost_usd) if seen.price_known else "?"
        what = f"{seen.task} / {seen.data_case}, {seen.file_name}{' (sandbox)' if seen.simulated else ''}"
        lines.append(f"{seen.task_id[:12]:<14}{seen.status:<12}{how:<12}{seen.rows:>10,}  {cost:>12}  {what}")
        if seen.message:
            lines.append(line("", seen.message))
    return lines


def preview_lines(rows: list[list[str]], width: int) -> list[str]:
    """A small table: the first line is the header, every cell cut so that a line fits `width` characters."""
    if len(rows) < 2:
        return []
    columns = list(zip(*([_flat(cell) for cell in row] for row in rows), strict=True))
    widths = _widths([max(len(cell) for cell in column) for column in columns], width - LABEL_CHARS)
    lines = [
        "  ".join(_cut(cell, room) for cell, room in zip(row, widths, strict=True))
        for row in zip(*columns, strict=True)
    ]
    rule = "  ".join("-" * room for room in widths)
    return [line("", text.rstrip()) for text in (lines[0], rule, *lines[1:])]


def _widths(wanted: list[int], width: int) -> list[int]:
    """Room per column: what it wants, the widest ones giving way."""
    room = list(wanted)
    while sum(room) + 2 * (len(room) - 1) > width and max(room) > 6:
        room[room.index(max(room))] -= 1
    return room


def _flat(cell: str) -> str:
    return " ".join(cell.split())


def _cut(cell: str, room: int) -> str:
    return f"{cell:<{room}}" if len(cell) <= room else f"{cell[: room - 1]}…"
