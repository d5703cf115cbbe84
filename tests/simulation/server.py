"""The provider's side of a simulated world: its batches, what it executes and bills, its files.

It lives on through every crash of ours, keeps its own time, and notices by itself when something is paid for twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from batch_jobs.models import BatchProblem, BatchState, BatchView, Counts, Mode
from tests.contract.lifecycle.kit import answer_text
from tests.simulation.asked import Asked
from tests.simulation.audit import Audit, Handed, Rules
from tests.simulation.faults import Fault, Faults
from tests.simulation.lines import BILLED, Fate, Said, answered, mass_error, not_executed, price_of
from tests.simulation.model import Model
from tests.simulation.violations import Kind, Violation

HOUR = 3600.0
TRANSIENT_PROBLEM = "token_limit_exceeded"
QUEUE_TAKES = 4
"""Requests under way, where the queue is limited: one shard of 3, or two of 2."""
PROBLEMS = ("invalid_json_line", "duplicate_custom_id", "model_mismatch")


@dataclass
class Batch:
    """A batch at the provider. Times are the provider's.

    Attributes:
        key: the shard key that came with the create; a keyless provider keeps it to itself.
        account: of which provider it is.
        too_late: the create took longer than any quarantine: the one double that can't be prevented.
        said: what was said to each request, by its id, once the batch has ended.
        looked: how often our side has asked for it: then it is the one that the ledger goes by.
        left_alone: a double that ran on in plain sight when our side looked at the batch that it goes by.
        fetched: its results were handed out.
        gone: the provider denied that there is such a batch.
        without_room: the queue was full when it was made, so it will fail.
    """

    batch_id: str
    key: str
    account: str
    requests: list[Asked]
    accepted_at: float
    visible_at: float
    ends_at: float
    too_late: bool = False
    state: BatchState = BatchState.IN_PROGRESS
    word: str = "in_progress"
    problems: tuple[BatchProblem, ...] = ()
    cancel_at: float | None = None
    said: dict[str, Said] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    looked: int = 0
    left_alone: bool = False
    fetched: bool = False
    gone: bool = False
    without_room: bool = False

    @property
    def refused(self) -> bool:
        """It failed for want of room in the queue, nothing of it was executed, and its shard may be sent again."""
        return any(problem.code == TRANSIENT_PROBLEM for problem in self.problems)

    @property
    def job(self) -> str:
        return self.key.partition("-")[0]

    @property
    def executed(self) -> int:
        """Requests that were answered in some way."""
        return sum(said.fate in BILLED for said in self.said.values())

    @property
    def results(self) -> list[tuple[Asked, Said]]:
        """Each request, and what was said to it."""
        return [(asked, self.said[asked.custom_id]) for asked in self.requests if asked.custom_id in self.said]


@dataclass
class Call:
    """One single call that was executed, and whether what it gave is durable on our side."""

    asked: Asked
    job: str
    said: Said
    process: int
    cached: bool = False
    counted: bool = False
    lost: bool = False


class Server:
    """One provider account and what is behind it.

    Args:
        faults: what goes wrong.
        now: the true time.
        report: takes a violation.
        quarantine: how late a create may be accepted at most, in the promise's terms.
        rules: how answers come about.
        forgiven: how often an item of a job was opened again by our side, because not it was at fault.
    """

    def __init__(
        self,
        faults: Faults,
        now: Callable[[], float],
        report: Callable[[Violation], None],
        quarantine: float,
        rules: Rules,
        forgiven: Callable[[str, str], int],
    ) -> None:
        self.faults, self.now, self.report, self.quarantine = faults, now, report, quarantine
        self.rules, self.forgiven = rules, forgiven
        self.model = Model(faults, judged=rules.judged)
        self.low_balance = False
        self.step_began = 0.0
        self.keyless = faults.strikes(Fault.KEYLESS, chance=1.0)
        self.batches: list[Batch] = []
        self.calls: list[Call] = []
        self.strangers: list[BatchView] = []
        self.uploads = 0
        self._stranger_ends = 0.0

    # --- batches ---------------------------------------------------------------------------------------------

    def accept(self, key: str, account: str, requests: list[Asked], delay: float = 0.0) -> Batch:
        """Take a batch in, perhaps only after a while; whatever was answered before should not be in it."""
        at, faults = self.now() + delay, self.faults
        lag = faults.between("lag", 5, 300) if faults.strikes(Fault.LIST_LAG) else 0.0
        takes = faults.between("takes", 20, 1500)
        if faults.strikes(Fault.SLOW_BATCH):
            takes = faults.between("takes", 24, 30) * HOUR
        batch = Batch(f"batch-{len(self.batches) + 1}", key, account, requests, at, at + lag, at + takes)
        batch.too_late = delay > self.quarantine
        self._audit(batch)
        self.batches.append(batch)
        return batch

    def has_room(self, number: int) -> bool:
        """Whether so many requests fit into the queue beside those that are under way; none of it is a draw."""
        if self.faults.quiet or Fault.QUEUE_FULL not in self.faults.on:
            return True
        now = self.now()
        running = [b for b in self.batches if b.accepted_at <= now < b.ends_at and not b.state.terminal]
        fits = not running or sum(len(batch.requests) for batch in running) + number <= QUEUE_TAKES
        if not fits:
            self.faults.note(Fault.QUEUE_FULL)
        return fits

    def _audit(self, new: Batch) -> None:
        """The promise itself, at the moment when money is about to be spent."""
        if new.too_late:
            return
        for other in self.batches:
            self.settle(other)
            if other.key == new.key and not other.too_late and not other.refused:
                self.report(Violation(Kind.PAID_TWICE, f"a second batch was made for shard {_short(new.key)}"))
        self._audit_all(new.requests, new.job, _short(new.key), new)

    def _audit_all(self, requests: Iterable[Asked], job: str, place: str, new: Batch | None) -> None:
        audit = Audit(self.rules, self._history(new), self.forgiven, by_calls=new is None)
        for asked in requests:
            for violation in audit.of(asked, job, place):
                self.report(violation)

    def _history(self, new: Batch | None) -> list[Handed]:
        """What was sent before, and what became of it, as far as our side goes by it."""
        history = list[Handed]()
        for batch in self.batches:
            self.settle(batch)
            if not batch.refused and not self._is_orphan(batch, new):
                place = batch.batch_id
                history += [Handed(sent, batch.job, place, batch.said.get(sent.custom_id)) for sent in batch.requests]
        calls = (call for call in self.calls if not call.lost)
        return history + [Handed(call.asked, call.job, "a call", call.said, call.counted) for call in calls]

    def _is_orphan(self, batch: Batch, new: Batch | None) -> bool:
        """One of two batches of a shard, and not the one that our side goes by."""
        others = [each for each in self.batches if each is not batch and not each.refused] + ([new] if new else [])
        return not batch.looked and (batch.too_late or any(other.key == batch.key for other in others))

    def find(self, batch_id: str, account: str) -> Batch | None:
        """A batch of this account that exists by now, as it stands now."""
        for batch in self.batches:
            if (batch.batch_id, batch.account) == (batch_id, account) and batch.accepted_at <= self.now():
                self.settle(batch)
                return batch
        return None

    def look(self, batch: Batch) -> None:
        """Our side looks at this batch, so at its doubles it had to look as well."""
        batch.looked += 1
        for other in self.batches:
            if other is not batch and other.key == batch.key and other.visible_at <= self.step_began:
                self.settle(other)
                other.left_alone = not other.state.terminal and other.cancel_at is None

    def listed(self, account: str, oldest: float) -> list[Batch]:
        """What a listing of an account shows now, newest first, down to a time."""
        mine = (batch for batch in self.batches if batch.account == account)
        shown = [batch for batch in mine if max(batch.visible_at, batch.accepted_at) <= self.now()]
        for batch in shown:
            self.settle(batch)
        shown.sort(key=lambda batch: (batch.accepted_at, batch.batch_id), reverse=True)
        return [batch for batch in shown if batch.accepted_at >= oldest]

    def cancel(self, batch: Batch) -> bool:
        """Whether the provider will stop: not what has ended, and not twice."""
        if batch.state.terminal or batch.cancel_at is not None:
            return False
        batch.cancel_at = self.now() + self.faults.between("cancel", 1, 600)
        batch.state, batch.word = BatchState.CANCELLING, "cancelling"
        return True

    def next_changes(self) -> list[float]:
        """When something will happen at the provider by itself."""
        times = [t for b in self.batches if not b.state.terminal for t in (b.ends_at, b.cancel_at) if t]
        times += [self._stranger_ends] if self.strangers else []
        return sorted(at for at in times if at > self.now())

    def view(self, batch: Batch) -> BatchView:
        """The batch as the API shows it now; what it counts, and its words, may be nonsense."""
        total, done = len(batch.requests), batch.executed
        counts = Counts(total, done, total - done if batch.state.terminal else 0)
        word = batch.word
        if not self.keyless and self.faults.strikes(Fault.COUNTS_LIE):
            counts = Counts(total + 7, self.faults.pick("lie", [0, total, 10 * total]), 3)
        if not batch.state.terminal and self.faults.strikes(Fault.UNKNOWN_STATE):
            word = "paused_by_moonlight"
        at = datetime.fromtimestamp(batch.accepted_at, UTC)
        key = None if self.keyless else batch.key
        return BatchView(batch.batch_id, batch.state, word, counts, at, key, batch.problems)

    # --- how a batch ends ------------------------------------------------------------------------------------

    def settle(self, batch: Batch) -> None:
        """End a batch whose time has come."""
        if batch.state.terminal:
            return
        if batch.cancel_at is not None and batch.cancel_at <= min(self.now(), batch.ends_at):
            if self.faults.strikes(Fault.CANCEL_TOO_LATE, chance=1.0):
                self._complete(batch)
            else:
                self._half(batch, BatchState.CANCELLED, "batch_cancelled", Fate.CANCELLED)
        elif batch.ends_at <= self.now():
            if batch.cancel_at is not None:
                self.faults.note(Fault.CANCEL_TOO_LATE)
            self._end(batch)

    def _end(self, batch: Batch) -> None:
        strikes = self.faults.strikes
        if batch.without_room or strikes(Fault.TOKEN_LIMIT):
            self._fail(batch, TRANSIENT_PROBLEM, Fate.NOT_NOW)
        elif strikes(Fault.VALIDATION):
            self._fail(batch, self.faults.pick("problem", PROBLEMS), Fate.NOT_RUN)
        elif strikes(Fault.EXPIRES):
            self._half(batch, BatchState.EXPIRED, "batch_expired", Fate.EXPIRED)
        elif strikes(Fault.PROVIDER_CANCELS):
            self._half(batch, BatchState.CANCELLED, "batch_cancelled", Fate.CANCELLED)
        else:
            self._complete(batch)

    def _fail(self, batch: Batch, code: str, fate: Fate) -> None:
        batch.state, batch.word = BatchState.FAILED, "failed"
        batch.problems = (BatchProblem(code, f"{code}: see the guide", 1),)
        batch.said = {sent.custom_id: Said(fate) for sent in batch.requests}

    def _half(self, batch: Batch, state: BatchState, code: str, fate: Fate) -> None:
        """Some are executed and paid for, the others are not; they are named in the error file, or are not."""
        batch.state, batch.word = state, state.value
        done = {s.custom_id for s in self.faults.shuffled("half", batch.requests)[: len(batch.requests) // 2 + 1]}
        named = self.faults.draw("named") < 0.5
        said = [
            (s, self.model.say(s) if s.custom_id in done else Said(fate, not_executed(s, code), error=True))
            for s in batch.requests
        ]
        batch.said = {sent.custom_id: one for sent, one in said}
        self._write(batch, said if named else [(s, one) for s, one in said if s.custom_id in done])

    def _complete(self, batch: Batch) -> None:
        batch.state, batch.word = BatchState.COMPLETED, "completed"
        if self._is_low():
            said = [(sent, mass_error(sent)) for sent in batch.requests]
        elif self.faults.strikes(Fault.ONLY_ERROR_FILE):
            said = [(sent, self.model.fail(sent)) for sent in batch.requests]
        else:
            said = [(sent, self.model.say(sent)) for sent in batch.requests]
        batch.said = {sent.custom_id: one for sent, one in said}
        if self.faults.strikes(Fault.NO_FILE):
            self._forget(batch, batch.requests)
        else:
            self._write(batch, said)

    def _is_low(self) -> bool:
        """From when on everything fails alike, until somebody tops the account up."""
        self.low_balance = not self.faults.quiet and (self.low_balance or self.faults.strikes(Fault.MASS_ERRORS))
        return self.low_balance

    def _forget(self, batch: Batch, which: Iterable[Asked]) -> None:
        """Executed and billed, and never handed out."""
        batch.said.update({sent.custom_id: Said(Fate.MISSING) for sent in which})

    def _write(self, batch: Batch, said: list[tuple[Asked, Said]]) -> None:
        """The files of an ended batch, spoiled by whatever is on."""
        lines, errors = self._spoiled(batch, [(s, one) for s, one in said if self.keyless or not one.error]), []
        if not self.keyless:
            errors = [one.line for _, one in said if one.error]
        if self.faults.strikes(Fault.SHUFFLED):
            lines = self.faults.shuffled("order", lines)
        for name, content in (("output.jsonl", lines), ("errors.jsonl", errors)):
            if content:
                batch.files[name] = b"".join(line + b"\n" for line in content)
        if len(batch.files) == 2:
            self.faults.note(Fault.BOTH_FILES)

    def _spoiled(self, batch: Batch, said: list[tuple[Asked, Said]]) -> list[bytes]:
        lines: list[bytes] = []
        for sent, one in said:
            if self.faults.strikes(Fault.ROW_MISSING):
                self._forget(batch, [sent])
            elif self.faults.strikes(Fault.BAD_LINE):
                self._forget(batch, [sent])
                lines.append(self.faults.pick("bad", [one.line[: len(one.line) // 2], b"{}", b"\xff\xfe", b"[1, 2]"]))
            elif one.fate is Fate.GOOD and self.faults.strikes(Fault.ROW_DOUBLED):
                batch.said[sent.custom_id] = Said(Fate.DOUBLED)
                lines += self.faults.shuffled("twice", [one.line, answered(sent, answer_text("somebody else"))])
            else:
                lines.append(one.line)
        if self.faults.strikes(Fault.UNKNOWN_ID) and batch.requests:
            lines.insert(0, self._stray(batch))
        return lines

    def _stray(self, batch: Batch) -> bytes:
        """An answer under an id that is none of this shard's."""
        round_no = batch.key.replace("-r0-", "-r9-") if "-r0-" in batch.key else batch.key.replace("-r", "-r9")
        ids = [f"{'0' * 32}-r0-s0-i0", f"{batch.key}-i99", f"{batch.key}-i00", f"{round_no}-i0", "request-1"]
        text = answer_text("somebody else")
        return answered(batch.requests[0], text, custom_id=self.faults.pick("stray", ids))

    def stranger(self, size: int) -> list[BatchView]:
        """Another program's batch of the same size in the same account, made at about the same time."""
        if not self.strangers and self.faults.strikes(Fault.STRANGER, chance=0.5):
            at = datetime.fromtimestamp(self.now(), UTC)
            view = BatchView("stranger-1", BatchState.IN_PROGRESS, "in_progress", Counts(size), at)
            self.strangers.append(view)
            self._stranger_ends = self.now() + self.faults.between("stranger", 60, 3 * HOUR)
        if self.strangers and self.now() >= self._stranger_ends:
            self.strangers = [replace(self.strangers[0], state=BatchState.COMPLETED)]
        return [view for view in self.strangers if view.counts.total == size]

    # --- single calls ----------------------------------------------------------------------------------------

    def call(self, asked: Asked, job: str, process: int, *, replaced: bool) -> Said:
        """Execute one call now; one of a process that was replaced and has not noticed yet can't be prevented."""
        if not replaced:
            self._audit_all([asked], job, "a call", None)
        said = mass_error(asked) if self._is_low() else self.model.say(asked)
        self.calls.append(Call(asked, job, said, process, lost=replaced))
        return said

    def reject_call(self, asked: Asked, job: str, process: int, *, replaced: bool) -> None:
        """Refuse to execute a call, for good."""
        self.calls.append(Call(asked, job, Said(Fate.FAILED), process, lost=replaced))

    # --- the bill --------------------------------------------------------------------------------------------

    def handed_out(self, batches: Iterable[Batch]) -> float:
        """What the job has to have counted of these batches, in USD."""
        handed = ((asked, said) for batch in batches for asked, said in batch.results)
        return sum(price_of(asked, Mode.BATCH) for asked, said in handed if said.fate in BILLED)


def _short(key: str) -> str:
    return key.partition("-")[2]
