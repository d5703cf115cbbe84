"""What the rules of a job's answers add to its plan: drafts that are there already, a judge's calls, rows together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import compress, islice
from operator import not_

import orjson

from batch_jobs.lifecycle.project import Project
from batch_jobs.lifecycle.sides import realm_of
from batch_jobs.render.bodies import BYTES_PER_TOKEN, BodyReader
from batch_jobs.render.bundles import bundle_schema
from batch_jobs.render.items import PlannedItem, read_items
from batch_jobs.render.prompts import kept_prompt
from batch_jobs.render.spec import RenderSpec, call_prefix, fingerprint
from batch_jobs.storage.jobs import Job
from providers.connect import codec_for

VERDICT_TOKENS = 40
"""Of a typical verdict."""
CHUNK = 5_000


@dataclass(frozen=True, slots=True)
class Estimate:
    """What the rules add to a plan.

    Attributes:
        drafts: items that were answered before, and have to be judged only.
        requests: for answers; fewer than items where these are asked for together.
        saved_tokens: of the input, as rows that are asked for together share the fixed part.
        judge_calls: if nothing is rejected.
        judge_input_tokens, judge_output_tokens: of these calls together.
    """

    drafts: int = 0
    requests: int = 0
    saved_tokens: int = 0
    judge_calls: int = 0
    judge_input_tokens: int = 0
    judge_output_tokens: int = 0


def estimate(
    project: Project, job: Job, spec: RenderSpec, known: bytes, lengths: Sequence[int], answer_tokens: float
) -> Estimate:
    """Estimate what a job's rules add.

    Args:
        project: opened.
        job: whose plan is made.
        spec: what it was rendered with.
        known: one byte an item, 1 where its answer is there.
        lengths: of the bodies of the other items, in bytes.
        answer_tokens: of a typical answer.
    """
    if not lengths:
        return Estimate()
    rows = job.rules.rows_per_request
    drafts = _drafts(project, job, spec, known) if job.rules.judge is not None else 0
    asked = len(lengths) - drafts
    requests = -(-asked // rows)
    saved = (asked - requests) * _fixed_tokens(job, spec, known) if rows > 1 else 0
    if job.rules.judge is None:
        return Estimate(requests=requests, saved_tokens=saved)
    seen = sum(lengths) // BYTES_PER_TOKEN + int(len(lengths) * answer_tokens)
    return Estimate(drafts, requests, saved, len(lengths), seen, len(lengths) * VERDICT_TOKENS)


def _unknown(spec: RenderSpec, known: bytes) -> Iterator[PlannedItem]:
    return compress(read_items(spec.plan), map(not_, known))


def _drafts(project: Project, job: Job, spec: RenderSpec, known: bytes) -> int:
    """How many of the items that are to be sent have a draft in the cache."""
    prefix = call_prefix(realm_of(job), job.dialect, job.endpoint, job.model, job.rules.rows_per_request)
    found, source = 0, _unknown(spec, known)
    with BodyReader(spec.plan) as reader:
        while chunk := list(islice(source, CHUNK)):
            calls = [fingerprint(prefix, reader.read(planned)) for planned in chunk]
            found += sum(project.cache.known(calls))
    return found


def _fixed_tokens(job: Job, spec: RenderSpec, known: bytes) -> int:
    """What each request of its own pays for besides its row: the fixed part and the schema."""
    with BodyReader(spec.plan) as reader:
        body = reader.read(next(_unknown(spec, known)))
    fixed, _ = codec_for(spec.dialect, job.endpoint).texts(body)
    schema = orjson.dumps(bundle_schema(kept_prompt(spec.prompt_folder, spec.prompt_file).output.schema))
    return (len(fixed.encode()) + len(schema)) // BYTES_PER_TOKEN
