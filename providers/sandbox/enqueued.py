"""The queue of each key and model: what its open batches weigh, and each dialect's own way to say that it is full.

OpenAI takes the create and lets the batch fail at its validation, with the limit in its words; Anthropic and Gemini
refuse the create with 429 and name no number. Tokens are those that the bill counts.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from batch_jobs.models import BatchProblem, Dialect

from .handling import Incoming
from .items import UNREADABLE
from .records import BatchRow, End
from .sandbox import Sandbox
from .timeline import ends_at
from .wire import Place, Problem, Refused, Wire
from .words import tokens

FULL = "token_limit_exceeded"
_REFUSALS = {
    Dialect.ANTHROPIC: "Your organization has too many batch requests in the processing queue. (simulated)",
    Dialect.GEMINI: "Resource has been exhausted: too many enqueued tokens for this model. (simulated)",
}


def enqueue(box: Sandbox, incoming: Incoming, batch: BatchRow) -> BatchRow:
    """Accept a batch into its queue, where the behaviour limits it; give the batch as it was accepted.

    Raises:
        Refused: 429, the queue is full (Anthropic, Gemini).
    """
    limit = box.behaviour.max_enqueued_tokens
    if not limit or batch.plan.end is End.FAILED:
        box.state.add_batch(batch)
        return batch
    weight = _weigh(incoming.wire, batch, box.state.folder / batch.input_path)
    with box.lock(f"queue {batch.dialect} {batch.owner} {batch.model}"):
        batch = replace(batch, plan=replace(batch.plan, tokens=weight))
        if _under_way(box, batch) + weight > limit:
            batch = _full(box, batch, limit)
        box.state.add_batch(batch)
    return batch


def _under_way(box: Sandbox, new: BatchRow) -> int:
    now = box.clock()
    open_ones = [each for each in box.state.unsettled() if ends_at(each) > now and each.plan.end is not End.FAILED]
    mine = (new.dialect, new.owner, new.model)
    return sum(each.plan.tokens for each in open_ones if (each.dialect, each.owner, each.model) == mine)


def _full(box: Sandbox, batch: BatchRow, limit: int) -> BatchRow:
    box.state.count_call(f"{batch.dialect} queue_full")
    if batch.dialect is not Dialect.OPENAI:
        raise Refused(Problem(429, _REFUSALS[batch.dialect]))
    words = (
        f"Enqueued token limit reached for {batch.model} in organization org-sim. Limit: {limit:,} enqueued tokens. "
        "Please try again once some in_progress batches have been completed. (simulated)"
    )
    problem = BatchProblem(FULL, words, None)
    return replace(batch, plan=replace(batch.plan, end=End.FAILED, problems=(problem,)))


def _weigh(wire: Wire, batch: BatchRow, path: Path) -> int:
    """The input tokens of all requests; what can't be read weighs nothing."""
    place = Place(batch.endpoint, batch.model, in_batch=True, version=str(batch.spec.get("version", "")))
    total = 0
    with path.open("rb") as handle:
        for line in handle:
            try:
                ask = wire.ask(wire.read_line(line)[1], place)
            except UNREADABLE:
                continue
            total += tokens(ask.fixed) + tokens(ask.text)
    return total
