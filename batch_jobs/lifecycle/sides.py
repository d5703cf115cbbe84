"""A job from the side of whom is asked: the model that answers, or the judge with a provider and account of his own."""

from __future__ import annotations

from dataclasses import replace

from batch_jobs.lifecycle.project import SANDBOX_ACCOUNT
from batch_jobs.models import AskKind
from batch_jobs.storage.jobs import Job


def side_of(job: Job, kind: AskKind) -> Job:
    """The job as the one sees it who is asked for this kind of thing: with his provider, model, price and account."""
    judge = job.rules.judge
    if kind is not AskKind.JUDGE or judge is None:
        return job
    return replace(
        job,
        provider=judge.provider,
        dialect=judge.dialect,
        endpoint=judge.endpoint,
        model=judge.model,
        parameters=judge.parameters,
        account=judge.account,
    )


def realm_of(job: Job) -> str:
    """What keeps answers apart that would look alike: rehearsals, providers, and the editions of a task."""
    realm = f"{SANDBOX_ACCOUNT}:{job.provider}" if job.simulated else job.provider
    return f"{realm} edition:{job.rules.edition}" if job.rules.edition else realm
