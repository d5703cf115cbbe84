"""What can go wrong, which of it goes wrong for a seed, and when.

As FoundationDB's BUGGIFY does it: for each seed a class of faults is switched on with 25 to 50 %; a site of it, where
it has several, with another 25 %; and what is on strikes with 25 %, or less where there are many moments to strike at.
Every draw comes from one `random.Random(seed)`; each site draws from a stream of its own, so that one draw more here
does not change what happens there.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Collection, Sequence
from enum import StrEnum
from hashlib import blake2b
from typing import TypeVar

CHANCE = 0.25
SITE_ON = 0.25
STRIKES_AT_MOST = 2
"""Of one class in one job: a provider that fails for ever ends no job."""

T = TypeVar("T")


class Fault(StrEnum):
    """Every class of faults. The table at the end of a run counts them."""

    # the create POST
    CREATE_REPLY_LOST = "create: accepted, the reply is lost"
    CREATE_ACCEPTED_THEN_500 = "create: accepted, answered by a 500"
    CREATE_ACCEPTED_LATE = "create: accepted late, within the quarantine"
    CREATE_ACCEPTED_TOO_LATE = "create: accepted after the quarantine"
    CREATE_UNCLEAR = "create: not accepted, no clear answer"
    CREATE_RATE_LIMITED = "create: refused, 429"
    CREATE_RETRY_AFTER = "create: refused, 429 with Retry-After"
    CREATE_REJECTED = "create: refused, 400"
    CREATE_UNREACHABLE = "create: no connection"
    # the other verbs
    LIST_LAG = "list: shows a batch late"
    LIST_FAILS = "list: fails"
    STRANGER = "list: somebody else's batch in the account"
    KEYLESS = "list: the batches carry no key"
    UPLOAD_FAILS = "upload: fails"
    UPLOAD_REJECTED = "upload: refused, 400"
    CHECK_500 = "check: 5xx"
    CHECK_TIMEOUT = "check: no answer in time"
    CHECK_RESET = "check: connection reset"
    CHECK_NOT_FOUND = "check: 404"
    FETCH_FAILS = "fetch: fails"
    FETCH_CUT = "fetch: broken off"
    CALL_FAILS = "call: 429, 5xx or no answer"
    CALL_REPLY_LOST = "call: executed, the reply is lost"
    CALL_REJECTED = "call: refused, 413"
    CANCEL_FAILS = "cancel: fails"
    DISCARD_FAILS = "discard: fails"
    CANCEL_TOO_LATE = "cancel: the batch completes all the same"
    # how a batch goes and ends
    UNKNOWN_STATE = "batch: a state that nobody knows"
    COUNTS_LIE = "batch: counts lie"
    SLOW_BATCH = "batch: takes over a day"
    QUEUE_FULL = "account: the queue takes only so many requests"
    TOKEN_LIMIT = "batch: fails, token_limit_exceeded"
    VALIDATION = "batch: fails at validation"
    EXPIRES = "batch: expires half done"
    PROVIDER_CANCELS = "batch: cancelled by the provider half done"
    MASS_ERRORS = "batch: every item has the same error"
    # what its files hold
    ONLY_ERROR_FILE = "results: an error file only"
    BOTH_FILES = "results: output and error file"
    NO_FILE = "results: no file at all"
    ROW_MISSING = "results: a row is missing"
    ROW_DOUBLED = "results: a row comes twice"
    UNKNOWN_ID = "results: an id that was never sent"
    BAD_LINE = "results: a line that can't be read"
    SHUFFLED = "results: in any order"
    # what one item gets
    ITEM_500 = "item: 500"
    ITEM_429 = "item: 429"
    ITEM_400 = "item: 400"
    ITEM_422_SILENT = "item: 422, error null"
    ITEM_STATUS_0 = "item: status 0, error null"
    ITEM_NO_BODY = "item: 200 without a reply"
    ITEM_QUOTA = "item: quota is used up"
    REFUSAL = "item: refused by the model"
    TRUNCATION = "item: cut off at the limit"
    INVALID_JSON = "item: no JSON"
    WRONG_SCHEMA = "item: JSON of another schema"
    NEVER_VALID = "item: invalid however often it is asked for"
    # what a judge says, and what comes of it
    REJECTED = "judge: rejects a draft"
    NEVER_CONTENT = "judge: rejects all drafts of a row"
    DRAFT_REPEATED = "judge: gets the rejected draft once more"
    # what a request for several rows gets
    PART_MISSING = "bundle: a row's part is missing"
    PART_DOUBLED = "bundle: a row's part comes twice"
    PART_INVALID = "bundle: a row's part is of another schema"
    PART_UNKNOWN = "bundle: a part that nobody asked for"
    PARTS_SHUFFLED = "bundle: its parts in any order"
    # the account
    QUOTA = "account: quota is used up"
    AUTH_REFUSED = "account: key refused"
    OTHER_KEY = "account: another key is set"
    # our processes, the machine, its clock
    CRASH_AT_VERB = "crash: at a call to the provider"
    CRASH_AT_COMMIT = "crash: at a commit of the ledger"
    CRASH_AT_CACHE = "crash: at a commit of the cache"
    CRASH_ON_THE_WAY = "crash: anywhere else"
    SYNC_FAILS = "disk: a sync fails"
    POWER_LOSS = "crash: what was not synced is gone"
    DIED_ELSEWHERE = "crash: on another machine, its lease lives on"
    TAKEOVER = "lease: taken over while its holder sleeps"
    STOP = "process: asked to stop"
    SLEEPS = "clock: the machine sleeps for hours"
    CLOCK_WRONG = "clock: hours off from the start"
    CLOCK_BACK = "clock: set back"
    CLOCK_ON = "clock: set forward"
    # people, and the other way to answer
    USER_CANCELS = "user: cancels"
    USER_LOOKS = "user: looks at the status"
    USER_RESUMES = "user: resumes"
    CONCURRENT = "mode: concurrent"
    JUDGED = "rules: a judge has the last word"
    BUNDLED = "rules: several rows in a request"
    GROUPED = "rules: one request for a group of rows"
    FEW_REPAIRS = "rules: one repair, or none"
    TWO_JOBS = "jobs: two with rows in common"
    AT_ONCE = "jobs: one is advanced in the middle of the other"


LONG_WAYS = frozenset({Fault.JUDGED, Fault.BUNDLED, Fault.GROUPED, Fault.FEW_REPAIRS})
ON_LONG_WAYS = frozenset(
    {
        Fault.REJECTED,
        Fault.NEVER_CONTENT,
        Fault.DRAFT_REPEATED,
        Fault.PART_MISSING,
        Fault.PART_DOUBLED,
        Fault.PART_INVALID,
        Fault.PART_UNKNOWN,
        Fault.PARTS_SHUFFLED,
    }
)
"""What can happen only there."""
KEPT_ON_LONG_WAYS = 0.4


class Faults:
    """The faults of one seed.

    Args:
        seed: decides everything.
        only: exactly these classes are on, and oftener: a search that is after one thing.
    """

    def __init__(self, seed: int, only: Collection[Fault] | None = None) -> None:
        self._key = random.Random(seed).randbytes(16)
        self._drawn: Counter[str] = Counter()
        self._open_sites: dict[str, bool] = {}
        self._searching = only is not None
        self.struck: Counter[Fault] = Counter()
        self.quiet = False
        share = 0.25 + 0.25 * self.draw("share")
        drawn = frozenset(fault for fault in Fault if self.draw(f"on {fault}") < share)
        self.on = frozenset(only) if only is not None else self._for_long_ways(drawn)

    def _for_long_ways(self, drawn: frozenset[Fault]) -> frozenset[Fault]:
        """Half of the others where there are more steps to an answer: else few items would ever get there."""
        if not drawn & {Fault.JUDGED, Fault.BUNDLED}:
            return drawn
        some = frozenset(fault for fault in Fault if self.draw(f"kept {fault}") < KEPT_ON_LONG_WAYS)
        return (drawn & (some | LONG_WAYS)) | (some & ON_LONG_WAYS)

    def draw(self, site: str) -> float:
        """A number from 0 to 1, the next one of this site."""
        self._drawn[site] += 1
        digest = blake2b(f"{site}/{self._drawn[site]}".encode(), digest_size=8, key=self._key).digest()
        return int.from_bytes(digest, "big") / 2**64

    def between(self, site: str, low: float, high: float) -> float:
        """A number between two others."""
        return low + (high - low) * self.draw(site)

    def pick(self, site: str, options: Sequence[T]) -> T:
        """One of several."""
        return options[int(self.draw(site) * len(options))]

    def shuffled(self, site: str, values: Sequence[T]) -> list[T]:
        """The same in another order."""
        return [value for _, value in sorted(((self.draw(site), n), value) for n, value in enumerate(values))]

    def strikes(self, fault: Fault, site: str = "", chance: float = CHANCE) -> bool:
        """Whether this fault happens here and now; counted when it does."""
        if self.quiet or fault not in self.on or self.struck[fault] >= STRIKES_AT_MOST:
            return False
        if site and not self._site_is_open(f"{fault} at {site}"):
            return False
        if self.draw(fault) >= (2 * chance if self._searching and not site else chance):
            return False
        self.note(fault)
        return True

    def note(self, fault: Fault) -> None:
        """Count what happened by itself."""
        self.struck[fault] += 1

    def _site_is_open(self, name: str) -> bool:
        if name not in self._open_sites:
            self._open_sites[name] = self.draw(f"site {name}") < (2 * SITE_ON if self._searching else SITE_ON)
        return self._open_sites[name]
