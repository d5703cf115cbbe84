"""The storage sweep: a 50-row job whose Nth write, sync or rename fails, for every N, and what must be true after it.

A case starts from a fresh root (`intake`) or from a copy of a root whose job is planned (`batch`, `concurrent`). Its
command is run with the first fault, again with the next, and at last without; after each run the store is looked at.
One case again: `python -m tests.faults.storage_sweep --start batch write:ENOSPC:17 sync:EIO:3:again`, or with one fault
`python -m tests.faults.storage_sweep --start batch --calls write --kind ENOSPC --position 17 [--again]`.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import re
import shutil
import sqlite3
import sys
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from batch_jobs.errors import EXIT_OK, EXIT_OPERATOR, Interrupted
from batch_jobs.lifecycle.check import check_store
from tests.acceptance.kit import Sandbox, clean_environ, losses, own_answer, read_csv, sandbox_server, write_csv
from tests.faults.shim import Arming, Call, Calls, Fault, build, read_log
from tests.faults.zygote import Ended, Zygote, zygote

REPOSITORY = Path(__file__).resolve().parents[2]
STARTS = ("intake", "batch", "concurrent")
ROWS, SHARDS, WORKERS = 50, 2, 4
FLYING = 2 * WORKERS
"""Single calls that a run has under way at most."""

SETTINGS = {
    "BATCH_JOBS__PROVIDERS__OPENAI__LIMITS__MAX_REQUESTS": str(ROWS // SHARDS),
    "BATCH_JOBS__CONCURRENT__MAX_WORKERS": str(WORKERS),
    "BATCH_JOBS__SUBMISSION__QUARANTINE_SECONDS": "0.3",
    "BATCH_JOBS__SUBMISSION__PARALLEL_TRANSFERS": "1",  # else what goes on beside a failed sync seems to follow it
}
BATCH_USD = {"input": 0.05e-6, "output": 0.25e-6, "cached": 0.005e-6}
SINGLE_USD = {name: 2 * usd for name, usd in BATCH_USD.items()}
"""As config.json has them for the default model."""

LOGS = ("job.log", "calls.jsonl")
ADVICE = re.compile(r"run the same command again|then resume|run it again|start it again")


@dataclass(frozen=True)
class Case:
    """A job, and the faults it meets: one a run."""

    start: str
    faults: tuple[Fault, ...]

    @property
    def command(self) -> str:
        """How to see it again."""
        faults = " ".join(f"'{fault}'" for fault in self.faults)
        return f"python -m tests.faults.storage_sweep --start {self.start} {faults}"


@dataclass
class Verdict:
    """What became of a case.

    Attributes:
        codes: exit codes of its runs.
        met: faults that were met; one past the end of its run is none.
        problems: what must not be, in words.
    """

    case: Case
    folder: Path
    codes: list[int] = field(default_factory=list)
    met: int = 0
    problems: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return "\n  ".join([f"{self.case.command}   (exit {self.codes}, {self.folder})", *self.problems])


@dataclass(frozen=True)
class Bill:
    """What the sandbox has executed and taken in so far."""

    calls: int
    tokens: dict[str, int]
    creates: int

    def since(self, earlier: Bill) -> Bill:
        tokens = {name: number - earlier.tokens[name] for name, number in self.tokens.items()}
        return Bill(self.calls - earlier.calls, tokens, self.creates - earlier.creates)

    def usd(self, prices: dict[str, float]) -> float:
        fresh = self.tokens["input"] - self.tokens["cached"]
        return fresh * prices["input"] + sum(self.tokens[name] * prices[name] for name in ("output", "cached"))


@dataclass
class Bench:
    """A warmed process with the library loaded, a sandbox, and planned roots to copy.

    Attributes:
        folder: where roots are made; gone after the bench.
        kept: where the root of a case with problems goes.
    """

    folder: Path
    kept: Path
    zygote: Zygote
    sandbox: Sandbox
    _templates: dict[str, tuple[Path, str]] = field(default_factory=dict)
    _calls: dict[str, list[Call]] = field(default_factory=dict)

    def fresh(self, start: str) -> tuple[Path, str]:
        """A root of its own, and the key for its runs: each key has batches of its own at the sandbox."""
        if start not in self._templates:
            self._templates[start] = self._blank() if start == "intake" else self._planned(start)
        template, old = self._templates[start]
        key = uuid.uuid4().hex
        root = self.folder / f"{start}-{key[:12]}"
        shutil.copytree(template, root)
        if start != "intake":
            with contextlib.closing(sqlite3.connect(root / "store" / "ledger.sqlite")) as ledger, ledger:
                values = (_digest(old), _digest(key), str(root / "losses.csv"))
                ledger.execute("UPDATE jobs SET account = replace(account, ?, ?), source_path = ?", values)
        return root, key

    def _blank(self) -> tuple[Path, str]:
        root = self.folder / f"blank-{uuid.uuid4().hex[:8]}"
        shutil.copytree(REPOSITORY / "prompt_lib", root / "prompt_lib", ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(REPOSITORY / "config.json", root)
        write_csv(root / "losses.csv", losses(ROWS))
        return root, ""

    def _planned(self, start: str) -> tuple[Path, str]:
        (root, _), key = self._blank(), uuid.uuid4().hex
        ended = self.run(root, key, start, ("tests.faults.shim:stop_when_planned", {}))
        assert ended.code == Interrupted.exit_code, ended.err
        return root, key

    def run(self, root: Path, key: str, start: str, arm: Arming | None = None) -> Ended:
        """The one command, as a user would give it again and again."""
        environ = {**clean_environ(self.sandbox.environ(key)), **SETTINGS}
        mode = "concurrent" if start == "concurrent" else "batch"
        arguments = ("--task", "summarize", "--data-case", "external_loss", "--mode", mode, "--yes", "--json")
        return self.zygote.run("run", "--file", "losses.csv", *arguments, cwd=root, environ=environ, arm=arm)

    def calls(self, start: str) -> list[Call]:
        """What a clean run does."""
        if start not in self._calls:
            root, key = self.fresh(start)
            log = root.with_suffix(".log")
            ended = self.run(root, key, start, Fault(Calls.ALL, "NONE", 0).arming(root, log))
            assert ended.code == EXIT_OK, ended.err
            self._calls[start] = read_log(log)
        return self._calls[start]

    def positions(self, start: str, calls: Calls) -> int:
        """How many calls of these kinds a clean run makes."""
        return sum(Calls[call.kind.upper()] in calls for call in self.calls(start))

    def bill(self) -> Bill:
        said = self.sandbox.ask("bill")
        tokens = {name: said[f"{name}_tokens"] for name in ("input", "output", "cached")}
        return Bill(said["calls"], tokens, self.sandbox.ask("calls").get("openai create", 0))

    def try_case(self, case: Case, bug: str = "") -> Verdict:
        """Run a job with the faults, look at what each leaves, and run it again without; `bug`: one that is planted."""
        root, key = self.fresh(case.start)
        log, verdict, before = root.with_suffix(".log"), Verdict(case, root), self.bill()
        for fault in case.faults:
            log.unlink(missing_ok=True)
            ended = self.run(root, key, case.start, fault.arming(root, log, bug=bug))
            _judge(verdict, ended, root, read_log(log), fault)
            if ended.code == EXIT_OK:
                break
        else:
            ended = self.run(root, key, case.start)
            verdict.codes.append(ended.code)
            if ended.code != EXIT_OK:
                verdict.problems.append(f"run without a fault: {_last_line(ended.err)}")
            verdict.problems += store_problems(root)
        verdict.problems += rows_problems(root)
        verdict.problems += bill_problems(
            case.start, root, self.bill().since(before), verdict.codes.count(EXIT_OPERATOR)
        )
        self._leave(verdict, log)
        return verdict

    def _leave(self, verdict: Verdict, log: Path) -> None:
        if verdict.problems:
            verdict.folder = Path(shutil.move(verdict.folder, self.kept))
            shutil.move(log, self.kept)
        else:
            shutil.rmtree(verdict.folder)
            log.unlink()


def _digest(key: str) -> str:
    return f"key:{hashlib.sha256(key.encode()).hexdigest()[:12]}"


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or [""])[-1]


def _judge(verdict: Verdict, ended: Ended, root: Path, calls: list[Call], fault: Fault) -> None:
    fired = any(call.failed for call in calls)
    verdict.codes.append(ended.code)
    verdict.met += fired
    verdict.problems += ending_problems(ended, root, fired)
    verdict.problems += sync_problems(calls, fault)
    verdict.problems += store_problems(root)


def ending_problems(ended: Ended, root: Path, fired: bool) -> list[str]:
    """A run is done, or ends with one clear message: what, where, and what to do; never with a traceback."""
    problems = [f"said {word!r}" for word in ("Traceback", "a bug", "Logging error") if word in ended.err + ended.out]
    if ended.code == EXIT_OK:
        return problems
    if ended.code != EXIT_OPERATOR or not fired:
        return [*problems, f"exit {ended.code}: {ended.err.strip()[-600:]}"]
    said = _last_line(ended.err)
    if not said.startswith("error  ") or str(root) not in said:
        problems.append(f"the message names no file of the store: {said}")
    if not ADVICE.search(said):
        problems.append(f"the message does not say what to do: {said}")
    return problems


def sync_problems(calls: list[Call], fault: Fault) -> list[str]:
    """After a failed sync nothing is made durable any more: what the kernel had to write may be lost already.

    Temporary files are still removed, logs that nobody syncs get their last lines, and a sync that was only interrupted
    may be asked for again. Some are SQLite's own affair: those with which a database is first made, and those with
    which it empties the log into a database that is closed; where that fails, the log stays and is read again. The next
    database is closed as well.
    """
    failed = next((n for n, call in enumerate(calls) if call.failed and call.kind == "sync"), None)
    if failed is None or fault.error == "EINTR" or _being_made(calls[: failed + 1]):
        return []
    closing = _database(calls[failed])
    later = [call for call in calls[failed + 1 :] if call.kind != "unlink" and Path(call.path).name not in LOGS]
    later = [call for call in later if not (closing and _empties_log(call) and _database(call) != closing)]
    return [f"after the failed sync of {calls[failed].path}: {call.kind} of {call.path}" for call in later[:3]]


def _being_made(calls: list[Call]) -> bool:
    """Whether the last call belongs to a database that has no log yet, or to the folder of them all."""
    name, last = _database(calls[-1]), Path(calls[-1].path)
    return last.name == "store" or bool(name and not any(call.path.endswith(f"{name}.sqlite-wal") for call in calls))


def _database(call: Call) -> str:
    """The database that a file belongs to, or nothing."""
    stem, found, _ = Path(call.path).name.partition(".sqlite")
    return stem if found else ""


def _empties_log(call: Call) -> bool:
    """As SQLite does on closing; a commit writes to the log."""
    return call.path.endswith(".sqlite") or (call.path.endswith(("-wal", "/store")) and call.kind == "sync")


def store_problems(root: Path) -> list[str]:
    """What check-store finds, once there is a job; before that a database may be half made."""
    if all(path.name.startswith(".") for path in (root / "batch_input").glob("*")):
        return []
    report = check_store(root / "config.json", None)
    found = [one for one in report.findings if not report.agrees and one.kind != "leftover"]
    skipped = [f"check-store skipped {task_id}" for task_id in report.skipped]
    return [f"check-store: {one.kind} {one.place}: {one.problem}" for one in found] + skipped


def rows_problems(root: Path) -> list[str]:
    """The file beside the upload: every row, in its order, with its own answer."""
    path = root / "losses.summarize.csv"
    if not path.exists():
        return ["there is no output"]
    given, made = read_csv(root / "losses.csv"), read_csv(path)
    if [{name: row[name] for name in given[0]} for row in made] != given:
        return ["the rows are not those of the upload"]
    return [f"row {row['id']}: {row['summary']!r}" for row in made if not own_answer(row)][:3]


def bill_problems(start: str, root: Path, bill: Bill, stops: int) -> list[str]:
    """By the sandbox's bill: one executed call an item.

    In concurrent mode the calls that are under way at a stop may be lost, and their cost.
    """
    cost, extra, usd = _recorded_usd(root), bill.calls - ROWS, bill.usd(SINGLE_USD)
    if start == "concurrent":
        problems = [] if 0 <= extra <= FLYING * stops else [f"{bill.calls} calls were executed for {ROWS} items"]
        if not -1e-9 <= usd - cost <= usd / bill.calls * (FLYING * stops + 0.5):
            problems.append(f"cost {cost:.6f}, bill {usd:.6f}, after {stops} stops")
        return problems
    problems = [f"{bill.calls} calls were executed for {ROWS} items"] if extra else []
    if bill.creates != SHARDS:
        problems.append(f"{bill.creates} creates for {SHARDS} shards")
    if abs(bill.usd(BATCH_USD) - cost) > 1e-9:
        problems.append(f"cost {cost:.9f}, bill {bill.usd(BATCH_USD):.9f}")
    return problems


def _recorded_usd(root: Path) -> float:
    with contextlib.closing(sqlite3.connect(root / "store" / "ledger.sqlite")) as ledger:
        return float(ledger.execute("SELECT coalesce(sum(cost_usd), 0) FROM calls").fetchone()[0])


@contextlib.contextmanager
def bench(kept: Path) -> Iterator[Bench]:
    """A bench for the block; what a case with problems leaves goes to `kept`.

    Roots lie in memory where the system has a place for that: the faults are ours, and a real sync only costs time.
    """
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(prefix="storage-", dir=memory if memory.is_dir() else None) as made:
        folder = Path(made).resolve()
        library = build(folder)
        with sandbox_server(folder / "sandbox", {"batch_seconds": 0.0}) as sandbox, zygote(folder, library) as warmed:
            assert warmed._process.stdout is not None
            with contextlib.closing(warmed._process.stdout):
                yield Bench(folder, kept, warmed, sandbox)


def main() -> None:
    """Repeat one case, and keep what it leaves."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("faults", nargs="*", help="calls:KIND:position[:again], one a run")
    parser.add_argument("--start", choices=STARTS, default="batch")
    parser.add_argument("--calls", default="write", help="write, sync, rename, ..., also several joined by |")
    parser.add_argument("--kind", default="ENOSPC", help="ENOSPC, EIO, EINTR, SHORT")
    parser.add_argument("--position", type=int)
    parser.add_argument("--again", action="store_true", help="every later call fails, too")
    asked = parser.parse_args()
    texts = list(asked.faults)
    if asked.position is not None:
        texts.append(f"{asked.calls}:{asked.kind}:{asked.position}{':again' if asked.again else ''}")
    case = Case(asked.start, tuple(map(Fault.parse, texts)))
    with bench(Path(tempfile.mkdtemp(prefix="storage-sweep-"))) as made:
        verdict = made.try_case(case)
    sys.stdout.write(f"{verdict.met} of {len(case.faults)} faults met\n{verdict}\n")
    sys.exit(1 if verdict.problems else 0)


if __name__ == "__main__":
    main()
