"""A single call: checked, answered, billed, with the faults of items where they make sense.

The three dialects share it; only the endpoint and the place of the model's name differ.
"""

from __future__ import annotations

from functools import partial

from starlette.responses import Response

from .faults import Subject, call_faults
from .handling import Incoming, refusal, reply
from .items import Asker, answered, bill_line
from .sandbox import Sandbox
from .wire import Place, Problem, Refused


def single_call(box: Sandbox, incoming: Incoming, place: Place) -> Response:
    """Answer one request now.

    Raises:
        Refused: the provider would refuse it.
    """
    wire = incoming.wire
    remaining, wait = box.take_token(incoming.owner)
    headers = wire.call_headers(box.behaviour.requests_per_minute or 10_000, remaining)
    if wait:
        refused = refusal(wire, wire.rate_problem(wait))
        refused.headers.update(headers)
        return refused
    body = incoming.json()
    ident = box.new_id()
    take = partial(box.state.take_hit, subject=ident)
    met = call_faults(box.behaviour, Subject(wire.dialect, incoming.contains, take, incoming.lot))
    done = answered(box, wire, body, place, Asker(incoming.owner, f"call/{ident}"), met)
    if isinstance(done, Problem):
        raise Refused(done)
    ask, answer = done
    incoming.mischief.delay_seconds += box.behaviour.call_ms / 1000
    box.state.add_bill([bill_line(box, wire, ask, answer)])
    return reply(wire.reply(ask, answer, ident), headers=headers)
