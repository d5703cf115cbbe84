"""What is asked next of an open item: for its answer, again with what was wrong with the last one, or the judge.

A request is made of the plan and of the item's draft alone, so that any process makes the same one, and finds its
answer in the call cache where it was given before.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple

from batch_jobs.lifecycle.plan import render_spec
from batch_jobs.lifecycle.project import Project
from batch_jobs.lifecycle.sides import realm_of, side_of
from batch_jobs.models import AskKind, GroupMode, Request
from batch_jobs.render.bodies import BodyReader
from batch_jobs.render.bundles import bundle_body
from batch_jobs.render.cleaning import cleaner
from batch_jobs.render.grouping import cells_of
from batch_jobs.render.judge_prompt import kept_judge
from batch_jobs.render.prompt import DataCaseView
from batch_jobs.render.prompts import kept_prompt
from batch_jobs.render.rows import ItemReader, RowReader
from batch_jobs.render.spec import call_prefix, fingerprint
from batch_jobs.render.worker import view_of
from batch_jobs.storage.drafts import Draft
from batch_jobs.storage.jobs import Job
from providers.connect import codec_for

INVALID = (
    "Your answer can't be used: {why}. Give the whole answer again, as one JSON object that fits the schema, with that "
    "put right."
)
REJECTED = (
    "A reviewer did not accept your answer: {why} Give the whole answer again, as one JSON object that fits the "
    "schema, with that put right."
)
NOTHING = "(no answer)"
"""In the place of an empty one: the providers take no empty turn."""


class Ask(NamedTuple):
    """One request.

    Attributes:
        items: whose it is; named after the first of them.
        calls: under which fingerprint each one's part of the answer is kept.
    """

    kind: AskKind
    items: tuple[int, ...]
    calls: tuple[bytes, ...]
    body: bytes


class Asker:
    """Makes the requests of one job; use as a context manager."""

    def __init__(self, project: Project, job: Job) -> None:
        self._project, self._job = project, job
        self._spec = render_spec(project, job)
        plan = self._spec.plan
        self._bodies, self._items = BodyReader(plan), ItemReader(plan)
        self._codec = codec_for(self._spec.dialect, job.endpoint)
        self._output = kept_prompt(self._spec.prompt_folder, self._spec.prompt_file).output
        self._prefix = _prefix(job)
        self._rows: RowReader | None = None
        self._clean = cleaner(self._spec.cleaning)
        self._texts: dict[bytes, str] = {}

    def __enter__(self) -> Asker:
        return self

    def __exit__(self, *exc: object) -> None:
        self._bodies.__exit__()
        if self._rows is not None:
            self._rows.close()

    def planned(self, item: int) -> bytes:
        """An item's request as it was planned."""
        return self._bodies.read(self._items.item(item))

    def fingerprint(self, item: int) -> bytes:
        """An item's own."""
        return self._items.item(item).fingerprint

    def share(self, item: int) -> bytes:
        """Under which fingerprint an item's part of an answer to several is kept."""
        return fingerprint(_prefix(self._job, self._job.rules.rows_per_request), self.planned(item))

    def look_up(self, found: Iterable[Draft]) -> None:
        """Read the texts of drafts that are to be asked about next, at once."""
        self._texts = self._project.cache.texts([draft.draft for draft in found if draft.draft is not None])

    def ask(self, kind: AskKind, item: int, draft: Draft | None) -> Ask:
        """Ask for an item's answer, or the judge about its draft."""
        if kind is not AskKind.JUDGE:
            return self.answer(item, draft)
        assert draft is not None
        return self.judge(item, draft)

    def bundle(self, items: Sequence[int]) -> Ask:
        """Ask for the answers of several items."""
        bodies = [(item, self.planned(item)) for item in items]
        together = _prefix(self._job, self._job.rules.rows_per_request)
        calls = tuple(fingerprint(together, body) for _, body in bodies)
        body = bundle_body(self._codec, bodies, self._output, self._job.model, self._job.parameters)
        return Ask(AskKind.BUNDLE, tuple(items), calls, body)

    def answer(self, item: int, draft: Draft | None) -> Ask:
        """Ask for an item's answer; with a draft that was not taken, again."""
        body = self.planned(item)
        if draft is not None and draft.feedback is not None:
            body = self._codec.revise(body, self._text(draft) or NOTHING, _said(draft))
        return Ask(AskKind.ANSWER, (item,), (fingerprint(self._prefix, body),), body)

    def judge(self, item: int, draft: Draft) -> Ask:
        """Ask the judge about an item's draft."""
        judge = self._job.rules.judge
        assert judge is not None
        side = side_of(self._job, AskKind.JUDGE)
        prompt = kept_judge(self._spec.prompt_folder, judge.prompt, self._spec.prompt_file)
        cells, view, rows = self._shown(item)
        fixed, text, _, shared = prompt.render(view, cells, self._text(draft))
        answer = prompt.output.schema, prompt.output.name
        request = Request(fixed, text, *answer, judge.model, judge.parameters, shared, rows)
        body = codec_for(self._project.entry(judge.provider).dialect, judge.endpoint).encode_body(request)
        return Ask(AskKind.JUDGE, (item,), (fingerprint(_prefix(side), body),), body)

    def _shown(self, item: int) -> tuple[dict[str, str], DataCaseView, int]:
        """What a judge may see of an item: its cells, the data case with its group, and how many rows that has."""
        if self._rows is None:
            self._rows = RowReader(self._spec.plan, self._spec.snapshot)
        key, group, rows = self._rows.group(item)
        view, grouping = view_of(self._spec), self._spec.grouping
        if grouping is not None:
            view = replace(view, grouping=grouping.mode, group=group)
            if grouping.mode is GroupMode.OUTPUT:
                return dict(zip(grouping.columns, cells_of(key), strict=True)), view, rows
        cells, clean = self._rows.cells(item), self._clean
        return (cells if clean is None else {name: clean(cell) for name, cell in cells.items()}), view, rows

    def _text(self, draft: Draft) -> str:
        if draft.draft is None:
            return draft.text or ""
        known = self._texts.get(draft.draft)
        return known if known is not None else self._project.cache.texts([draft.draft])[draft.draft]


def _prefix(side: Job, rows_per_request: int = 1) -> bytes:
    return call_prefix(realm_of(side), side.dialect, side.endpoint, side.model, rows_per_request)


def _said(draft: Draft) -> str:
    return (INVALID if draft.draft is None else REJECTED).format(why=draft.feedback)
