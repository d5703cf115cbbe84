"""A single call: checked, answered, billed, with the faults of items where they make sense.

The three dialects share it; only the endpoint and the place of the model's name differ.
"""

from __future__ import annotations

from functools import partial

from starlette.responses import Response

from .faults import Subject, call_faults
from .handling import Incoming, refusal, reply
from .items import Asker, answered, bill_line
from .question import Judging
from .sandbox import Sandbox
from .wire import Place, Problem, Refused

ANSWER_TOKENS = 50
"""What an answer counts for when its call comes in: nobody knows yet how long it gets."""


def single_call(box: Sandbox, incoming: Incoming, place: Place) -> Response:
    """Answer one request now.

    Raises:
        Refused: the provider would refuse it.
    """
    wire = incoming.wire
    requests, tokens, wait = box.take_call(incoming.owner, len(incoming.body) // 4 + ANSWER_TOKENS)
    headers = wire.call_headers(requests, tokens)
    if wait:
        refused = refusal(wire, wire.rate_problem(wait))
        refused.headers.update(headers)
        return refused
    body = incoming.json()
    ident = box.new_id()
    take = partial(box.state.take_hit, subject=ident)
    met = call_faults(box.behaviour, Subject(wire.dialect, incoming.contains, take, incoming.lot))
    judging = Judging(box.behaviour.reject_share, box.behaviour.reject_first_only)
    done = answered(box, wire, body, place, Asker(incoming.owner, f"call/{ident}", judging), met)
    if isinstance(done, Problem):
        raise Refused(done)
    ask, answer = done
    incoming.mischief.delay_seconds += box.behaviour.call_ms / 1000
    box.state.add_bill([bill_line(box, wire, ask, answer)])
    return reply(wire.reply(ask, answer, ident), headers=headers)
