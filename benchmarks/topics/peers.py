"""The peers from the package index, each in its own virtual environment, on the same file and the same server.

No peer's figure is quoted that was not measured in the same run: one that can't be installed is a line that says so.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import measure
from benchmarks.floors import fixed_prompt
from benchmarks.lines import Bar, Line, Outcome, Side, Unit, not_run
from benchmarks.measure import ProgramFailed, Sample, TookTooLong
from benchmarks.stage import FULL_ROWS, PRODUCT, ROOT, Stage, clean_environ, packed_environ, run_arguments
from benchmarks.topics.calls import WORKERS

HOME = ROOT / "benchmarks" / ".peers"
PROGRAM = ROOT / "benchmarks" / "peer_programs.py"
LIVE_ROWS = 5_000
FEWER = 10
"""A peer that reaches its time limit is measured at a tenth of the rows, and the product too."""
LIMIT_SECONDS = 120.0
INSTALL_SECONDS = 300.0
LEAST_SHARE = 0.95
"""A run that made fewer requests than this share of its rows is none; equal rows may have been asked once."""
FASTER = Bar(1, strict=True)
BUILT = "until the last upload of batch input begins, or the process ends; the product: `run --detach`, all of it sent"


@dataclass(frozen=True, slots=True)
class Peer:
    """A tool for the same purpose.

    Attributes:
        package: on the index, with its version.
        more: what it needs besides and does not ask for.
        live: whether it also makes single calls.
    """

    package: str
    version: str
    more: tuple[str, ...] = ()
    live: bool = True

    @property
    def python(self) -> Path:
        """Its own interpreter."""
        return HOME / f"{self.package}-{self.version}" / "bin" / "python"

    @property
    def title(self) -> str:
        """For the table."""
        return f"{self.package} {self.version}"


PEERS = (
    Peer("lmsyz-genai-ie-rfs", "0.1.4"),
    Peer("ondine", "2.1.1"),
    Peer("loom-batch", "0.7.0"),
    Peer("openai-batch", "0.3.4", more=("httpx",), live=False),
)


def install(peer: Peer) -> str:
    """Make a peer's virtual environment, once; returns why it could not be made, or the empty string."""
    done = peer.python.parent.parent / ".installed"
    if done.exists():
        return ""
    pip = [str(peer.python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    for command in (
        [sys.executable, "-m", "venv", "--clear", str(peer.python.parent.parent)],
        [*pip, f"{peer.package}=={peer.version}", *peer.more],
    ):
        try:
            ended = subprocess.run(
                command, check=False, capture_output=True, text=True, timeout=INSTALL_SECONDS, env=clean_environ()
            )
        except subprocess.TimeoutExpired:
            return f"its installation took more than {INSTALL_SECONDS:.0f} s"
        if ended.returncode:
            last = (ended.stderr.strip().splitlines() or ["no reason given"])[-1]
            return f"it can't be installed: {last[:200]}"
    done.touch()
    return ""


def peers_line(stage: Stage) -> list[Outcome]:
    """Every peer's way to a batch's input, and every peer's live run, against ours."""
    outcomes: list[Outcome] = []
    for peer in PEERS:
        stage.say(f"installing {peer.title}")
        why = install(peer)
        if why:
            outcomes.append(not_run("peers", f"against {peer.title}", why))
            continue
        outcomes += _compared(stage, peer, "build", stage.rows(FULL_ROWS))
        if peer.live:
            outcomes += _compared(stage, peer, "live", stage.rows(LIVE_ROWS))
    return outcomes


def _compared(stage: Stage, peer: Peer, what: str, rows: int) -> list[Outcome]:
    """A peer against us, at fewer rows where it takes too long."""
    try:
        return _pair(stage, peer, what, rows, "")
    except TookTooLong:
        fewer = max(rows // FEWER, 1)
        note = f"{peer.title} was not done with {rows:,} rows after {LIMIT_SECONDS:.0f} s, so both ran on {fewer:,}"
        try:
            return _pair(stage, peer, what, fewer, note)
        except ProgramFailed as error:
            return [not_run("peers", f"{what}, {fewer:,} rows, against {peer.title}", str(error))]
    except ProgramFailed as error:
        return [not_run("peers", f"{what}, {rows:,} rows, against {peer.title}", " ".join(str(error).split())[-200:])]


def _pair(stage: Stage, peer: Peer, what: str, rows: int, note: str) -> list[Outcome]:
    theirs = _their_run(stage, peer, what, rows)
    ours = stage.once(f"{what} {rows}", lambda: _our_run(stage, what, rows))
    words = {"build": "batch input built", "live": "whole live run"}[what]
    title = f"{words}, {rows:,} rows, against {peer.title}"
    note = "; ".join(part for part in (note, BUILT if what == "build" else "whole processes") if part)
    faster, smaller = theirs.seconds / ours.seconds, theirs.peak_bytes / max(ours.peak_bytes, 1)
    return [
        Outcome("peers", f"{title}: times faster", Unit.TIMES, faster, FASTER, ours, theirs, note),
        Outcome("peers", f"{title}: times less memory", Unit.TIMES, smaller, FASTER, ours, theirs, note),
    ]


def _our_run(stage: Stage, what: str, rows: int) -> Side:
    project, server = stage.project("ours"), stage.open_server if what == "build" else stage.server
    mode = ("--mode", "batch", "--detach") if what == "build" else ("--mode", "concurrent")
    arguments = run_arguments(stage.table(rows), *mode, "--output", str(project / "output.csv"))
    environ = {**server.environ, "BATCH_JOBS__CONCURRENT__MAX_WORKERS": str(WORKERS)}
    if rows > LIVE_ROWS:
        environ.update(packed_environ())
    server.reset()
    sample = stage.command_line(*arguments, project=project, environ=environ, expected=(0, 5))
    ours = _side(PRODUCT, sample, what, rows, server.stats())
    server.reset()
    stage.drop(project)
    return ours


def _their_run(stage: Stage, peer: Peer, what: str, rows: int) -> Side:
    folder, server = stage.folder / "theirs", stage.server
    stage.drop(folder)
    folder.mkdir()
    (folder / "prompt.txt").write_text(fixed_prompt())
    server.reset()
    stage.say(f"{peer.title} {what} {rows:,}")
    sample = measure.run(
        _command(peer, what, stage.table(rows), folder),
        cwd=folder,
        environ={**clean_environ(), **server.environ, "LOOM_HOME": str(folder / "loom"), "HOME": str(folder)},
        limit_seconds=LIMIT_SECONDS,
    )
    seen = server.stats()
    theirs = _side(peer.title, sample, what, rows, seen)
    done = int(seen["answered"]) if what == "live" else int(seen["batched"]) or _lines_in(folder)
    if done < rows * LEAST_SHARE:
        raise ProgramFailed(f"it made {done:,} requests for {rows:,} rows")
    server.reset()
    stage.drop(folder)
    return theirs


def _lines_in(folder: Path) -> int:
    """Requests in the input files that a peer wrote."""
    found = 0
    for path in folder.rglob("*.jsonl"):
        with path.open("rb") as handle:
            found += sum(1 for _ in handle)
    return found


def _command(peer: Peer, what: str, file: Path, folder: Path) -> Sequence[str | Path]:
    if peer.package == "loom-batch":
        loom: list[str | Path] = [
            peer.python.with_name("loom"),
            "run",
            "--file",
            file,
            "--provider",
            "openai",
            "--model",
            "gpt-4o-mini",
        ]
        mode = ["--sync", "--workers", str(WORKERS)] if what == "live" else []
        return [*loom, "--col", "DescriptionOfEvent", "--system", fixed_prompt(), "--no-cache", "--force", *mode]
    return [peer.python, PROGRAM, peer.package, what, file, folder]


def _side(name: str, sample: Sample, what: str, rows: int, stats: dict[str, float]) -> Side:
    seconds = sample.seconds
    if what == "build" and stats["uploads"]:
        seconds = float(stats["last_upload_at"]) - sample.began
    return Side(name, seconds, rows, sample.peak_bytes)


LINES = (
    Line("peers", "batch input of 200,000 rows built, live run of 5,000: faster and smaller than each", peers_line),
)
