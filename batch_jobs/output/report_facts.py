"""What a report says, as one frozen value: gathered by the lifecycle, written as HTML and as Markdown.

Times are unix seconds, money is USD. Texts that come from the user's file, the model or the provider are raw here:
whoever writes them escapes them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date
from itertools import pairwise

from batch_jobs.models import JobOutcome, Mode, Phase, Price


@dataclass(frozen=True, slots=True)
class Ended:
    """How many ended in one way.

    Attributes:
        outcome: `succeeded`, `known` (answered before), an outcome of a failure, `unrendered` or `open`.
        words: the same for people.
    """

    outcome: str
    words: str
    rows: int


@dataclass(frozen=True, slots=True)
class Spend:
    """What calls took of one model, for the same; `outcome` is how they went."""

    model: str
    asks: str
    outcome: str
    calls: int
    input_tokens: int
    cached_tokens: int
    output_tokens: int
    cost_usd: float


@dataclass(frozen=True, slots=True)
class PriceLine:
    """A model's prices in config.json, who says so, and since when."""

    model: str
    batch: Price
    standard: Price
    source: str
    date: date


@dataclass(frozen=True, slots=True)
class Costs:
    """What the job cost, and what it would have cost the other way.

    Attributes:
        paid_usd: the sum over its calls as they were recorded; None where config.json has no price.
        batch_usd, concurrent_usd: the same tokens at the prices of now; None where a price is missing.
    """

    mode: Mode
    paid_usd: float | None
    batch_usd: float | None
    concurrent_usd: float | None
    spends: tuple[Spend, ...]
    prices: tuple[PriceLine, ...]

    @property
    def calls(self) -> int:
        """Executed calls."""
        return sum(spend.calls for spend in self.spends)

    @property
    def input_tokens(self) -> int:
        """Of all calls, cached ones included."""
        return sum(spend.input_tokens for spend in self.spends)

    @property
    def cached_tokens(self) -> int:
        """Input tokens that the provider had in its prompt cache."""
        return sum(spend.cached_tokens for spend in self.spends)

    @property
    def output_tokens(self) -> int:
        """Of all calls."""
        return sum(spend.output_tokens for spend in self.spends)


@dataclass(frozen=True, slots=True)
class Known:
    """What needed no call of this job.

    Attributes:
        items: requests that had been answered before; `rows` of the file are theirs.
        shared_rows: rows that share the request of an earlier row of the file.
    """

    items: int
    rows: int
    shared_rows: int


@dataclass(frozen=True, slots=True)
class Pace:
    """When the answers came, in seconds since the job was started.

    Attributes:
        edges: of equal spans of time, one more than there are `counts`.
        counts: answers that came in each span.
        half, most, all: until half, nine tenths, all of the answers had come.
        of: what is counted: `answer`; or `call`, where one may bring several answers, or a judge's verdict.
    """

    edges: tuple[float, ...]
    counts: tuple[int, ...]
    half: float
    most: float
    all: float
    of: str = "answer"


@dataclass(frozen=True, slots=True)
class Took:
    """How long the calls of one kind took, in seconds.

    Attributes:
        asks: what they asked for.
        calls: how many there were; half of them took up to `median`, 95 % up to `p95`.
        counts: calls quicker than the first of the edges, between each two, and from the last one on.
    """

    asks: str
    calls: int
    quickest: float
    median: float
    p95: float
    slowest: float
    counts: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Latency:
    """How long single calls took that brought an answer.

    Attributes:
        edges: of the bins that nearly all of them are in, in seconds, ascending; few digits each.
        series: by what was asked for.
        unknown: calls of the job whose time was not kept.
    """

    edges: tuple[float, ...]
    series: tuple[Took, ...]
    unknown: int

    @property
    def quicker(self) -> bool:
        """Whether any call took less than the first edge."""
        return any(took.counts[0] for took in self.series)

    @property
    def slower(self) -> bool:
        """Whether any call took as long as the last edge, or longer."""
        return any(took.counts[-1] for took in self.series)

    @property
    def spans(self) -> tuple[tuple[float, float, tuple[int, ...]], ...]:
        """From the quickest to the slowest: (from, to, calls of each series), in seconds."""
        first, last = (min(took.quickest for took in self.series), max(took.slowest for took in self.series))
        bounds = (min(first, self.edges[0]), *self.edges, max(last, self.edges[-1]))
        counts = zip(*(took.counts for took in self.series), strict=True)
        found = tuple((*ends, calls) for ends, calls in zip(pairwise(bounds), counts, strict=True))
        return found[not self.quicker : len(found) - (not self.slower)]


@dataclass(frozen=True, slots=True)
class ShardLine:
    """One provider batch. `sent` and `ended` in seconds since the job was started; None where it did not happen."""

    round: int
    shard: int
    asks: str
    requests: int
    tokens: int
    state: str
    batch_id: str | None
    sent: float | None
    ended: float | None

    @property
    def seconds(self) -> float | None:
        """From submission to the provider's end."""
        return None if self.sent is None or self.ended is None else self.ended - self.sent


@dataclass(frozen=True, slots=True)
class RoundLine:
    """One pass over what still needed an answer: what was sent, and how many items ended in it, well or not."""

    round: int
    batches: int
    requests: int
    answered: int
    failed: int


@dataclass(frozen=True, slots=True)
class Way:
    """How it was sent.

    Attributes:
        batches: of the shards, the first `SHOWN_BATCHES`; `batches_in_all` is how many there are.
        waves: in how many goes the plan saw them sent.
        attempts: (how often an item was sent, how many items).
        pool: figures of single calls, by name; empty in batch mode.
    """

    rounds: tuple[RoundLine, ...]
    batches: tuple[ShardLine, ...]
    batches_in_all: int
    waves: int
    attempts: tuple[tuple[int, int], ...]
    pool: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Cuts:
    """What did not fit.

    Attributes:
        rows: whose prompt lacks something of its cells, as config.json asks; `chars` in all, `most` of one row.
        answers: calls that were paid for and whose answer hit the output limit.
        answer_rows: rows that ended so.
    """

    rows: int
    chars: int
    most: int
    answers: int
    answer_rows: int


@dataclass(frozen=True, slots=True)
class Judged:
    """What the judge said.

    Attributes:
        verdicts: (verdict, items).
        scores: items by tenths of the score, from 0 to 1.
        mean: of the scores; None without any.
        repairs: (how often an answer was written anew, items).
    """

    verdicts: tuple[tuple[str, int], ...]
    scores: tuple[int, ...]
    mean: float | None
    repairs: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Problem:
    """One kind of error; what differs in numbers only is one.

    Attributes:
        words: how it ended.
        said: the code and the words of the first of them.
        row: the first row that has it, as the spreadsheet shows it.
    """

    words: str
    said: str
    rows: int
    row: int


@dataclass(frozen=True, slots=True)
class Sample:
    """One row to look at.

    Attributes:
        number: as the spreadsheet shows it.
        state: `answered`, `failed` or `open`.
        reason: why it has no answer; empty where it has one, or may still get it.
        inputs, answers: (column, cell).
        verdict: what the judge said of it; None without a judge.
    """

    number: int
    state: str
    reason: str
    inputs: tuple[tuple[str, str], ...]
    answers: tuple[tuple[str, str], ...]
    verdict: str | None = None

    @property
    def mark(self) -> str:
        """The state for people."""
        return {"answered": "answered", "failed": "no answer"}.get(self.state, "not answered yet")


@dataclass(frozen=True, slots=True)
class Artefact:
    """One file or folder of the job; `path` is relative to the report, with `/`."""

    name: str
    path: str

    @property
    def file(self) -> str:
        """The file's or folder's own name."""
        return self.path.rstrip("/").rpartition("/")[2]


@dataclass(frozen=True, slots=True)
class Report:
    """One job, as its report tells it.

    Attributes:
        seconds: from the start to the end, or to now.
        ended: how the rows ended, the answered ones first; they sum up to `rows`.
        settings: (name, value) of what it ran with.
    """

    task_id: str
    task: str
    data_case: str
    description: str
    file_name: str
    simulated: bool
    phase: Phase
    outcome: JobOutcome | None
    message: str | None
    rows: int
    items: int
    created_at: float
    started_at: float | None
    done_at: float | None
    seconds: float
    ended: tuple[Ended, ...]
    known: Known
    costs: Costs
    pace: Pace | None
    latency: Latency | None
    way: Way
    cuts: Cuts
    judged: Judged | None
    problems: tuple[Problem, ...]
    samples: tuple[Sample, ...]
    settings: tuple[tuple[str, str], ...]
    artefacts: tuple[Artefact, ...] = field(default=())

    @property
    def done(self) -> bool:
        """Whether nothing of it will change any more."""
        return self.phase is Phase.DONE

    def rows_in(self, *outcomes: str) -> int:
        """Rows that ended in one of these ways."""
        return sum(ended.rows for ended in self.ended if ended.outcome in outcomes)

    @property
    def answered(self) -> int:
        """Rows with an answer."""
        return self.rows_in(*ANSWERED)

    @property
    def open(self) -> int:
        """Rows that have neither an answer nor a failure yet."""
        return self.rows_in(OPEN)

    @property
    def failed(self) -> int:
        """Rows without an answer."""
        return self.rows - self.answered - self.open


ANSWERED = ("succeeded", "known")
OPEN = "open"
SHOWN_BATCHES = 100
