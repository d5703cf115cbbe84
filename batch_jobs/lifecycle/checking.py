"""Checking: what a shard's raw results say, range by range; by processes of their own where there are many lines.

First the ids of all lines, so that a doubled one is known before any answer is taken. Then the answers: each is checked
against the task's schema, and durable in the call cache before anybody counts it.
"""

from __future__ import annotations

import contextlib
from array import array
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

from batch_jobs.models import AskKind, Dialect, EventName, ItemResult, Outcome, Price, Usage
from batch_jobs.render.answers import OutputSchema, answer_text
from batch_jobs.render.bundles import FAULT_OUTCOMES, parts_of
from batch_jobs.render.judge_prompt import kept_judge
from batch_jobs.render.prompts import kept_prompt
from batch_jobs.storage.call_cache import Answer, cache_of_worker
from batch_jobs.storage.calls import cost_of
from batch_jobs.storage.jobs import Job
from batch_jobs.storage.shards import item_of
from providers.connect import codec_for
from providers.contract import Codec

RANGE_BYTES = 4_000_000


class Problem(NamedTuple):
    """A line that is nobody's.

    Attributes:
        name: of the event that tells of it.
        line: its number, from 1.
        data: what the event says besides.
    """

    name: EventName
    line: int
    data: dict[str, object]


class Range(NamedTuple):
    """The lines of a result file that begin at `start` or later, and before `stop` (bytes)."""

    path: Path
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Checks:
    """All that checking a shard's results depends on, besides the lines; travels to other processes.

    Attributes:
        dialect: of the result lines.
        price: what the job's model costs, None when it is not known.
        kind: what the shard's requests asked for; `job` is seen from the side of whom was asked.
        prompt_folder: where the prompt module that is kept with the job lies.
        cache: the call cache's file.
        at: when the answers came, unix seconds.
        members: of requests for several items, these items, by the one that each is named after.
    """

    job: Job
    shard_key: str
    kind: AskKind
    dialect: Dialect
    price: Price | None
    prompt_folder: Path
    prompt_file: str
    cache: Path
    at: float
    members: Mapping[int, tuple[int, ...]] = field(default_factory=dict)

    def output(self) -> OutputSchema:
        """What was asked for."""
        judge = self.job.rules.judge
        if self.kind is AskKind.JUDGE and judge is not None:
            return kept_judge(self.prompt_folder, judge.prompt, self.prompt_file).output
        return kept_prompt(self.prompt_folder, self.prompt_file).output


@dataclass(frozen=True, slots=True)
class Ids:
    """The ids of a range.

    Attributes:
        lines: how many it has.
        items: of the lines that name an item of the shard, in their order.
        numbers: of these lines, from 1 within the range.
        problems: lines that are nobody's.
    """

    lines: int
    items: array[int]
    numbers: array[int]
    problems: list[Problem]


@dataclass(frozen=True, slots=True)
class Counted:
    """Valid answers that are in the cache now, column by column: by item, what each used, and what it cost (USD)."""

    items: array[int] = field(default_factory=partial(array, "q"))
    input_tokens: array[int] = field(default_factory=partial(array, "q"))
    cached_tokens: array[int] = field(default_factory=partial(array, "q"))
    output_tokens: array[int] = field(default_factory=partial(array, "q"))
    cost_usd: array[float] = field(default_factory=lambda: array("d"))

    def add(self, item: int, usage: Usage, cost_usd: float) -> None:
        """Add one."""
        self.items.append(item)
        self.input_tokens.append(usage.input_tokens)
        self.cached_tokens.append(usage.cached_tokens)
        self.output_tokens.append(usage.output_tokens)
        self.cost_usd.append(cost_usd)


@dataclass(frozen=True, slots=True)
class Checked:
    """What became of a range's lines.

    Attributes:
        counted: valid answers to wanted items, billed by the provider.
        unbilled: items with a valid answer that says nothing of its usage.
        others: results of wanted items that are no answers.
        unread: items whose line is no result, and why.
        past: billed results of items that wait for none any more, and of doubled ids: only their cost counts.
        foreign: ids that a request for several items was answered with and that it did not ask for, by its first item.
    """

    counted: Counted = field(default_factory=Counted)
    unbilled: list[int] = field(default_factory=list)
    others: list[tuple[int, ItemResult]] = field(default_factory=list)
    unread: list[tuple[int, str]] = field(default_factory=list)
    past: list[tuple[int, ItemResult]] = field(default_factory=list)
    foreign: list[tuple[int, str]] = field(default_factory=list)

    def without(self, doubled: Collection[int]) -> Checked:
        """The same, without the past results of doubled ids: what becomes of these is told by another result."""
        return replace(self, past=[(item, result) for item, result in self.past if item not in doubled])


def ranges_of(files: list[Path]) -> list[Range]:
    """Cut result files into ranges, in order."""
    return [
        Range(path, start, start + RANGE_BYTES)
        for path in files
        for start in range(0, path.stat().st_size, RANGE_BYTES)
    ]


def are_many(ranges: Sequence[Range]) -> bool:
    """Whether ranges are worth processes of their own: a file has more than one."""
    return len(ranges) > len({part.path for part in ranges})


def lines_of(part: Range) -> Iterator[bytes]:
    """Stream the non-empty lines of a range."""
    with part.path.open("rb") as handle:
        if part.start:
            handle.seek(part.start - 1)
            handle.readline()  # to the end of the line that began before
        text = handle.read(max(part.stop - handle.tell(), 0))
        if text and not text.endswith(b"\n"):
            text += handle.readline()
    return (line for line in text.split(b"\n") if line and not line.isspace())


def read_ids(checks: Checks, part: Range) -> Ids:
    """Read whose the lines of a range are."""
    codec = codec_for(checks.dialect, checks.job.endpoint)
    items, numbers, problems, number = array("q"), array("q"), list[Problem](), 0
    for number, line in enumerate(lines_of(part), 1):
        try:
            custom_id = codec.read_id(line)
        except ValueError as error:
            problems.append(Problem(EventName.RESULT_UNREADABLE, number, {"why": str(error)}))
            continue
        item = item_of(custom_id, checks.shard_key)
        if item is None:
            problems.append(unknown_id(number, custom_id))
        else:
            items.append(item)
            numbers.append(number)
    return Ids(number, items, numbers, problems)


def unknown_id(number: int, custom_id: str) -> Problem:
    """A line that answers nothing that was asked."""
    return Problem(EventName.RESULT_UNKNOWN_ID, number, {"custom_id": custom_id[:100]})


def check_range(checks: Checks, part: Range, wanted: Mapping[int, bytes], known: Collection[int]) -> Checked:
    """Check a range in a process of its own, and make its answers durable.

    Args:
        checks: what it depends on.
        part: the lines.
        wanted: fingerprints of the items that wait for an answer.
        known: the shard's other items that the range answers.
    """
    answers, checked = read_answers(checks, part, wanted, known)
    cache_of_worker(checks.cache).put(answers)
    return checked


def read_answers(
    checks: Checks, part: Range, wanted: Mapping[int, bytes], known: Collection[int]
) -> tuple[list[Answer], Checked]:
    """Check a range; the answers it gives are not in the cache yet."""
    output = checks.output()
    codec = codec_for(checks.dialect, checks.job.endpoint)
    answers, checked = list[Answer](), Checked()
    for line in lines_of(part):
        try:
            result = codec.parse_line(line)
        except ValueError as error:
            checked.unread.extend(_unread(codec, checks, line, str(error)))
            continue
        item = item_of(result.custom_id, checks.shard_key)
        if item is None:
            continue  # named with the ids
        if item in checks.members:
            _check_bundle(checks, output, item, result, wanted, answers, checked)
        elif item in wanted:
            _check(checks, output, item, result, wanted[item], answers, checked)
        elif item in known and result.billed:
            checked.past.append((item, replace(result, text="")))
    return answers, checked


def _check_bundle(
    checks: Checks,
    output: OutputSchema,
    first: int,
    result: ItemResult,
    wanted: Mapping[int, bytes],
    answers: list[Answer],
    checked: Checked,
) -> None:
    """Put each item's part of a bundle's result where it belongs; the bundle is one call, and billed once."""
    parts, foreign = shared_out(output, result, checks.members[first])
    for item, part in parts.items():
        if item in wanted:
            _check(checks, output, item, part, wanted[item], answers, checked)
    checked.foreign.extend((first, name) for name in foreign)
    if result.billed:
        checked.past.append((first, replace(result, text="")))


def _check(
    checks: Checks,
    output: OutputSchema,
    item: int,
    result: ItemResult,
    fingerprint: bytes,
    answers: list[Answer],
    checked: Checked,
) -> None:
    """Put one wanted item's result where it belongs."""
    result = checked_result(output, result)
    if result.outcome is not Outcome.SUCCEEDED:
        checked.others.append((item, result))
        return
    answer = answer_of(checks.job, checks.price, fingerprint, result, checks.at)
    answers.append(answer)
    if result.billed:
        checked.counted.add(item, result.usage, answer.cost_usd)
    else:
        checked.unbilled.append(item)


def _unread(codec: Codec, checks: Checks, line: bytes, why: str) -> Iterator[tuple[int, str]]:
    """The item of a line that has an id and is no result."""
    with contextlib.suppress(ValueError):  # named with the ids
        item = item_of(codec.read_id(line), checks.shard_key)
        if item is not None:
            yield item, why


def shared_out(
    output: OutputSchema, result: ItemResult, members: Sequence[int]
) -> tuple[dict[int, ItemResult], list[str]]:
    """A bundle's result as one for each of its items, with its share of the tokens; billed is the bundle alone.

    Returns:
        The results; the ids in it that were not asked for.
    """
    used, rows = result.usage, len(members)
    usage = Usage(used.input_tokens // rows, used.cached_tokens // rows, used.output_tokens // rows)
    own = replace(result, usage=usage, billed=False)
    if result.outcome is not Outcome.SUCCEEDED:
        return dict.fromkeys(members, replace(own, detail=f"{rows} rows in one request: {result.detail}")), []
    try:
        parts = parts_of(output, result.text, members)
    except ValueError as error:
        own = replace(own, outcome=Outcome.INVALID, text="", code="schema", detail=str(error))
        return dict.fromkeys(members, own), []
    found = {item: replace(own, text=text) for item, text in parts.answers.items()}
    for item, (code, detail) in parts.faults.items():
        found[item] = replace(own, outcome=FAULT_OUTCOMES[code], text="", code=code, detail=detail)
    return found, parts.foreign


def checked_result(output: OutputSchema, result: ItemResult) -> ItemResult:
    """A succeeded result with its text as canonical JSON, or an invalid one with the reason."""
    if result.outcome is not Outcome.SUCCEEDED:
        return result
    try:
        text = answer_text(output, result.text)
    except ValueError as error:
        return replace(result, outcome=Outcome.INVALID, code="schema", detail=str(error))
    return result if text == result.text else replace(result, text=text)


def answer_of(job: Job, price: Price | None, fingerprint: bytes, result: ItemResult, at: float) -> Answer:
    """A valid result as it goes into the call cache."""
    usage = result.usage
    return Answer(
        fingerprint,
        result.text,
        job.provider,
        result.model or job.model,
        job.task,
        job.simulated,
        usage.input_tokens,
        usage.cached_tokens,
        usage.output_tokens,
        cost_of(usage, price),
        job.task_id,
        at,
    )
