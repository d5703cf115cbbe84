"""What a render worker needs to know, as one picklable value, and the fingerprint and identity it computes."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from batch_jobs.models import Dialect, Parameters
from batch_jobs.render.cleaning import AS_IT_IS, Cleaning
from batch_jobs.render.context import MANDATORY, ContextRules


@dataclass(frozen=True, slots=True)
class RenderSpec:
    """All that rendering depends on, besides the rows.

    Attributes:
        snapshot: Parquet of the upload's rows.
        plan: folder for what the workers write.
        cleaning: of the cells that the prompt sees; the identity is that of the cells as they are.
        context: how a row is shown where the prompt says so.
        realm: keeps answers apart that look alike but are not: sandbox or real, and the provider's name.
        accepted_by: who has to accept an answer before it is one, as a digest; empty for nobody.
        rows_per_request: an answer that is given together with others is another one than alone.
    """

    snapshot: Path
    plan: Path
    prompt_folder: Path
    prompt_file: str
    task_description: str
    data_case: str
    data_case_description: str
    mandatory_columns: dict[str, str]
    identity_columns: tuple[str, ...]
    realm: str
    dialect: Dialect
    endpoint: str | None
    model: str
    parameters: Parameters
    cleaning: Cleaning = AS_IT_IS
    context: ContextRules = MANDATORY
    accepted_by: str = ""
    rows_per_request: int = 1

    def fingerprint_prefix(self) -> bytes:
        """Everything of an item's identity that is not in its body."""
        return call_prefix(self.realm, self.dialect, self.endpoint, self.model, self.rows_per_request, self.accepted_by)


def call_prefix(
    realm: str, dialect: str, endpoint: str | None, model: str, rows_per_request: int = 1, accepted_by: str = ""
) -> bytes:
    """What tells calls with equal bodies apart; a call that is nobody's but a provider's has only the first four."""
    together = ["rows", rows_per_request] if rows_per_request > 1 else []
    judged = ["judge", accepted_by] if accepted_by else []
    return orjson.dumps([realm, dialect, endpoint, model, *together, *judged])


def fingerprint(prefix: bytes, body: bytes) -> bytes:
    """Sha256 over provider, dialect, endpoint, model and the whole rendered request: equal means the same call."""
    return hashlib.sha256(prefix + b"\n" + body).digest()


class Beginning:
    """What the bodies of a segment begin with alike: hashed once, and written once."""

    def __init__(self, prefix: bytes, text: bytes) -> None:
        self.text = text
        self._prefix = prefix
        self._hashed = hashlib.sha256(prefix + b"\n" + text)

    def split(self, body: bytes) -> tuple[bytes, int, bytes]:
        """Give a body's fingerprint, how many bytes of it are this beginning's, and the bytes that are its own."""
        if not body.startswith(self.text):
            return fingerprint(self._prefix, body), 0, body
        own, hashed = body[len(self.text) :], self._hashed.copy()
        hashed.update(own)
        return hashed.digest(), len(self.text), own


def identity(values: Sequence[str]) -> str:
    """Hex sha256 over the values of the identity columns: the row's folder in the store."""
    return hashlib.sha256(orjson.dumps(list(values))).hexdigest()


def schema_sha256(schema: dict[str, Any]) -> str:
    """Hex sha256 of a task's answer schema, for the record of what was sent."""
    return hashlib.sha256(orjson.dumps(schema, option=orjson.OPT_SORT_KEYS)).hexdigest()
