"""Prompt caching as the providers bill it: which beginning of a prompt was seen before, of the same key and model.

OpenAI and Gemini find the longest common beginning by themselves, in steps of 128 tokens from 1,024 on; Anthropic
reads and writes at marked blocks only. Hashes are kept, never texts, and a bounded number of them: what only one
request has said is forgotten first. Beginnings that were read again outlive the process.
Sources: OpenAI's and Anthropic's prompt caching guides, Gemini's context caching guide.
"""

from __future__ import annotations

import hashlib
import math
import re
import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import NamedTuple

import orjson

from .database import Database
from .wire import Ask, Body, Cached, short_hash
from .words import CHARS_PER_TOKEN

FIRST_TOKENS = 1024
STEP_TOKENS = 128
LONE_STEPS = 8
"""So many steps are kept of what no request has said before and is not in the fixed part."""
MOST_PREFIXES = 100_000
LOOKBACK_BLOCKS = 20
"""Anthropic looks for an earlier write this many blocks before each mark."""
TTL_SECONDS = {"5m": 300.0, "1h": 3600.0}

_LEAST_TOKENS = ((re.compile(r"(opus|sonnet)-5-5|fable-5-1"), 512), (re.compile(r"haiku-4-5"), 4096))
_OTHER_LEAST_TOKENS = 1024
_GPT = re.compile(r"gpt-(\d+)(?:\.(\d+))?(?!\w)")


class _Seen(NamedTuple):
    """Who said a beginning first, and until when it is kept."""

    subject: str
    until: float


class _Fixed:
    """A fixed part with its hashes up to some ends."""

    def __init__(
        self,
        about: tuple[str, ...],
        ends: Sequence[int],
        text: str,
        schema: Body | None,
        digest: hashlib.blake2b,
    ) -> None:
        self.about, self.ends, self.text, self.schema = about, ends, text, schema
        self.keys = [key for _, key in _hashes(digest, text, 0, ends)]
        self._digest, self._at = digest, ends[-1] if ends else 0

    def beyond(self, text: str, ends: Sequence[int]) -> Iterator[tuple[int, bytes]]:
        """Give the ends behind it, each with a hash of all up to there."""
        if not ends:
            return iter(())
        return _hashes(self._digest.copy(), self.text[self._at :] + text, self._at, ends)


class PromptCache:
    """The beginnings of prompts that were seen, at most so many; its length is how many they are."""

    def __init__(self, database: Database, most: int = MOST_PREFIXES) -> None:
        self._database, self._most = database, most
        self._lock = threading.Lock()
        self._seen: OrderedDict[bytes, _Seen] = OrderedDict()
        self._durable: set[bytes] = set()
        self._last: _Fixed | None = None
        newest = "SELECT rowid FROM beginnings ORDER BY rowid DESC LIMIT ?"
        database.run(f"DELETE FROM beginnings WHERE rowid NOT IN ({newest})", most // 2)
        for row in database.rows("SELECT * FROM beginnings ORDER BY rowid"):
            self._seen[row["hash"]] = _Seen(row["subject"], row["until"])
            self._durable.add(row["hash"])

    def __len__(self) -> int:
        return len(self._seen)

    def take(self, ask: Ask, owner: str, subject: str, now: float) -> Cached:
        """Look up a request's prompt, and keep it for the ones to come.

        Args:
            ask: the request.
            owner: of its key.
            subject: names this one request; what it wrote itself it does not read when it is executed again.
            now: by the sandbox's clock.
        """
        if ask.marks:
            with self._lock:
                return self._marked(ask, owner, subject, now)
        if not ask.implicit or len(ask.fixed) + len(ask.text) < FIRST_TOKENS * CHARS_PER_TOKEN:
            return Cached()
        with self._lock:
            return self._implicit(ask, owner, subject, now)

    def _implicit(self, ask: Ask, owner: str, subject: str, now: float) -> Cached:
        ends = range(FIRST_TOKENS * CHARS_PER_TOKEN, len(ask.fixed) + len(ask.text) + 1, STEP_TOKENS * CHARS_PER_TOKEN)
        own = ends[: bisect_right(ends, len(ask.fixed))]
        fixed = self._fixed(ask, owner, own)
        read = own[-1] if own and self._is_there(fixed.keys[-1], subject, now) else 0
        steps = () if read else zip(own, fixed.keys, strict=True)
        for end, key in chain(steps, fixed.beyond(ask.text, ends[len(own) :])):
            if self._is_there(key, subject, now):
                read = end
            elif end > max(read, len(ask.fixed), ends.start) + LONE_STEPS * ends.step:
                break
            else:
                self._keep(key, subject, now, math.inf)
        cached = read // CHARS_PER_TOKEN
        return Cached(cached, ends[-1] // CHARS_PER_TOKEN - cached if _bills_writes(ask.model) else 0)

    def _marked(self, ask: Ask, owner: str, subject: str, now: float) -> Cached:
        least = least_tokens(ask.model)
        marks = [mark for mark in ask.marks if mark.end // CHARS_PER_TOKEN >= least]
        if not marks:
            return Cached()
        ends = ask.blocks[: bisect_right(ask.blocks, marks[-1].end)]
        own = ends[: bisect_right(ends, len(ask.fixed))]
        fixed = self._fixed(ask, owner, own)
        keys = dict(zip(own, fixed.keys, strict=True)) | dict(fixed.beyond(ask.text, ends[len(own) :]))
        order = {end: at for at, end in enumerate(ends)}
        near = [end for end in ends if any(0 <= order[mark.end] - order[end] <= LOOKBACK_BLOCKS for mark in marks)]
        read = max((end for end in near if self._is_there(keys[end], subject, now)), default=0)
        written, at = dict.fromkeys(TTL_SECONDS, 0), read
        for mark in marks:
            if mark.end > at:
                written[mark.ttl] += mark.end // CHARS_PER_TOKEN - at // CHARS_PER_TOKEN
                at = mark.end
            self._keep(keys[mark.end], subject, now, now + TTL_SECONDS[mark.ttl])
        return Cached(read // CHARS_PER_TOKEN, sum(written.values()), written["1h"])

    def _fixed(self, ask: Ask, owner: str, ends: Sequence[int]) -> _Fixed:
        """Hash a fixed part up to each of the ends; the last one is kept, as the next request's is mostly the same."""
        last = self._last
        about = (owner, ask.model, ask.cache_key)
        if last and (last.about, last.ends, last.text, last.schema) == (about, ends, ask.fixed, ask.schema):
            return last
        # The schema is part of the prompt, before all else.
        digest = hashlib.blake2b(short_hash(*about, orjson.dumps(ask.schema).decode()).encode(), digest_size=16)
        self._last = _Fixed(about, ends, ask.fixed, ask.schema, digest)
        return self._last

    def _is_there(self, key: bytes, subject: str, now: float) -> bool:
        """Whether another request has said this before; that makes it durable."""
        seen = self._seen.get(key)
        if seen is None or seen.subject == subject or seen.until < now:
            return False
        self._seen.move_to_end(key)
        if key not in self._durable:
            self._durable.add(key)
            self._database.run("INSERT OR REPLACE INTO beginnings VALUES (?, ?, ?)", key, seen.subject, seen.until)
        return True

    def _keep(self, key: bytes, subject: str, now: float, until: float) -> None:
        """Keep a beginning; one that lives goes on living as its first writer's."""
        known = self._seen.get(key)
        if known is not None:
            self._seen.move_to_end(key)
            subject = known.subject if known.until >= now else subject
        self._seen[key] = _Seen(subject, until)
        if len(self._seen) > self._most:
            gone, _ = self._seen.popitem(last=False)
            self._durable.discard(gone)


def least_tokens(model: str) -> int:
    """Give the shortest beginning that Anthropic caches for a model."""
    return next((least for pattern, least in _LEAST_TOKENS if pattern.search(model)), _OTHER_LEAST_TOKENS)


def _hashes(digest: hashlib.blake2b, text: str, start: int, ends: Sequence[int]) -> Iterator[tuple[int, bytes]]:
    """Give a hash up to each of the ends, which go up, of a text that begins at `start`."""
    at = start
    for end in ends:
        digest.update(text[at - start : end - start].encode("utf-8", "surrogatepass"))
        at = end
        yield end, digest.copy().digest()


def _bills_writes(model: str) -> bool:
    """Whether OpenAI counts what is written to the cache: from GPT-5.6 on."""
    found = _GPT.match(model)
    return found is not None and (int(found[1]), int(found[2] or 0)) >= (5, 6)
