"""From an upload to an order: its name is only ever data, its bytes lie in a temp folder that is always removed."""

from __future__ import annotations

import hashlib
import re
import shutil
import tempfile
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from batch_jobs.api.documents import JobForm
from batch_jobs.config import pick
from batch_jobs.errors import FileRefused
from batch_jobs.lifecycle.receive import Order
from batch_jobs.models import Mode
from batch_jobs.storage.files import CHUNK_BYTES, sha256_of, store_errors
from batch_jobs.storage.idempotency import Claim, claim_for

MAX_NAME_BYTES = 200
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
"""Unicode categories that have no place in a name: controls, invisible and direction marks, line ends."""


def clean_name(given: str | None) -> str:
    """The client's file name as it may be shown: the last part of a path, without controls, 200 bytes at most.

    Raises:
        FileRefused: nothing is left.
    """
    base = re.split(r"[/\\]", given or "")[-1]
    name = "".join(char for char in base if unicodedata.category(char) not in _HIDDEN).strip()
    if not name:
        raise FileRefused("the upload has no file name", fix="Send the file part with its name, for example losses.csv")
    stem, dot, suffix = name.rpartition(".")
    tail = f"{dot}{suffix}".encode()
    if not stem or len(tail) > MAX_NAME_BYTES // 2:
        stem, tail = name, b""
    return (stem.encode()[: MAX_NAME_BYTES - len(tail)] + tail).decode("utf-8", "ignore")


@contextmanager
def ordered(form: JobForm) -> Iterator[Order]:
    """The order that a form stands for, with its file on disk while the block runs.

    Raises:
        UnknownName: no such mode.
        FileRefused: the file has no name.
        StoreError: the disk is full.
    """
    file_name = clean_name(form.file.filename)
    mode = pick("mode", form.mode, {each.value: each for each in Mode}) if form.mode else None
    with tempfile.TemporaryDirectory(prefix="batch-jobs-") as folder:
        path = Path(folder) / "upload"
        with store_errors(path), path.open("wb") as target:
            shutil.copyfileobj(form.file.file, target, CHUNK_BYTES)
        yield Order(
            file=path,
            file_name=file_name,
            task=form.task,
            data_case=form.data_case,
            mode=mode,
            provider=form.provider,
            model=form.model,
            sheet=form.sheet,
            autostart=True,
        )


def claim_of(key: str, authorization: str, form: JobForm, order: Order) -> Claim:
    """What an idempotency key is held against: who sends it, the file with its name, and every other field.

    Args:
        key: of the header Idempotency-Key.
        authorization: that header, checked by the guard; empty where no API key is needed.
        form: as it was sent.
        order: of the form, while its file is on disk.
    """
    _, _, api_key = authorization.encode("latin-1").partition(b" ")
    owner = hashlib.sha256(api_key.strip()).hexdigest() if api_key else ""
    fields = {**form.model_dump(exclude={"file"}), "file_name": order.file_name, "file_sha256": sha256_of(order.file)}
    return claim_for(owner, key, fields)
