"""Results, and the two ways to file them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from batch_jobs.arrow import texts
from batch_jobs.storage.call_cache import Answer
from batch_jobs.storage.folders import FolderStore
from batch_jobs.storage.packed import PackedStore
from batch_jobs.storage.results import Filed, ResultStore, result_document
from batch_jobs.storage.segments import new_segment, result_columns

A, B, C = "a" * 64, "b" * 64, "c" * 64
CELLS = {
    "what": "事故",
    "What": "=1+1",
    "": "no name",
    "a.b": "../x",
    "details": "ours",
    "identity": "not the identity",
}


def an_answer(text: str, *, paid_by: str = "1" * 32) -> Answer:
    """An answer in which no field has another's value."""
    call = text.encode().ljust(32, b"\0")
    words = f'{{"summary":"{text}","list":[1,null]}}'
    return Answer(call, words, "openai", "model-1", "summarize", True, 11, 5, 7, 0.1 + 0.2, paid_by, 1_700_000_000.9)


@dataclass(frozen=True)
class Line:
    """One result to be filed."""

    identity: str
    answer: Answer
    name: str = "summarize"

    @property
    def filed(self) -> Filed:
        return Filed(self.identity, self.name, result_document(self.answer), CELLS)


def into_folders(store: Path, _: int, lines: Iterable[Line]) -> ResultStore:
    folders = FolderStore(store, "loss")
    folders.file(line.filed for line in lines)
    return folders


def into_segment(store: Path, job: int, lines: Iterable[Line]) -> ResultStore:
    import pyarrow as pa

    packed, every = PackedStore(store, "loss"), list(lines)
    cells = pa.table({name: [value] * len(every) for name, value in CELLS.items()})
    tasks = sorted({line.name.partition(".")[0] for line in every}) or ["summarize"]
    for task in tasks:
        mine = [line for line in every if line.name.partition(".")[0] == task]
        task_id = f"{9 - job:032x}"  # later jobs have no higher ids
        with new_segment(packed.segment(task, task_id), 1000.5 + job, answered=True) as segment:
            identities, names = texts([line.identity for line in mine]), [line.name for line in mine]
            answers = [line.answer for line in mine]
            segment.add(result_columns(task_id, identities, names, answers, cells.slice(0, len(mine))))
    return packed


Filing = Callable[[Path, int, Iterable[Line]], ResultStore]
