"""What the simulator finds: one broken promise, by its kind."""

from __future__ import annotations

from enum import StrEnum


class Kind(StrEnum):
    """Which promise was broken."""

    PAID_TWICE = "paid twice"
    SENT_AGAIN = "sent again without a reason"
    NOT_IN_LEDGER = "sent, and the ledger does not know"
    MIXED_ROWS = "an answer stands for another row"
    NOT_IN_CACHE = "counted before it was in the cache"
    LOST_ANSWER = "a paid answer is lost"
    OUTCOME = "an item has not exactly the outcome it should have"
    COST = "the cost is not the bill"
    ILLEGAL_MOVE = "a move that the table does not allow"
    FENCING = "written without the lease"
    ACCOUNT = "another account was used"
    DOUBLE_LEFT = "a late double was not cancelled"
    NO_END = "the job does not end"
    TROUBLE = "an error that nobody should see"
    OUTPUT = "the output is not the upload with answers"
    STORE = "check-store finds something"


class Violation(AssertionError):
    """A broken promise."""

    def __init__(self, kind: Kind, detail: str) -> None:
        super().__init__(f"{kind}: {detail}")
        self.kind, self.detail = kind, detail

    def __reduce__(self) -> tuple[type[Violation], tuple[Kind, str]]:
        return Violation, (self.kind, self.detail)
