"""`batch-jobs check-store`."""

from __future__ import annotations

import click

from batch_jobs.cli import show
from batch_jobs.cli.options import Place, answer_json, project_options, say
from batch_jobs.errors import EXIT_OK, EXIT_ROWS_FAILED
from batch_jobs.lifecycle.check_report import Finding, Kind, Report


@click.command()
@project_options
def check_store(place: Place) -> int:
    """Say whether all that the store holds agrees: ledger, call cache, folders, files, manifests.

    Changes nothing, and may be run while jobs are under way: a job that a process is working on is skipped. Exit
    code 0 when all agrees, 3 when there is something to mend; each finding says what to do.
    """
    from batch_jobs.lifecycle import check

    report = check.check_store(place.config, place.root)
    for text in _lines(report):
        say(place, text)
    answer_json(place, report.as_json())
    return EXIT_OK if report.agrees else EXIT_ROWS_FAILED


def _lines(report: Report) -> list[str]:
    lines = [line for finding in report.findings for line in _finding_lines(finding)]
    lines += [
        show.line("skipped", f"{task_id}: a process is working on it; check again later", "yellow")
        for task_id in report.skipped
    ]
    counted = ", ".join(f"{number:,} {name}" for name, number in report.checked.items() if number)
    lines.append(show.line("checked", counted or "nothing: there are no jobs here"))
    if report.agrees:
        return [*lines, show.line("result", "all agrees", "green")]
    wrong = sum(finding.kind is not Kind.LEFTOVER for finding in report.findings)
    return [*lines, show.line("result", f"{show.count(wrong, 'finding')} to mend", "red")]


def _finding_lines(finding: Finding) -> list[str]:
    job = f"job {finding.task_id}: " if finding.task_id else ""
    color = "yellow" if finding.kind is Kind.LEFTOVER else "red"
    return [
        show.line(finding.kind, f"{job}{finding.place}", color),
        show.line("", finding.problem),
        show.line("", f"-> {finding.fix}"),
    ]
