"""process_chunks: texts that are no table come back in order, with what each call took."""

from __future__ import annotations

from pathlib import Path

import pytest

import batch_jobs
from batch_jobs import errors
from batch_jobs.frames.chunks import Chunk
from tests.acceptance.frames_kit import BACKENDS, MODELS
from tests.acceptance.kit import Sandbox, losses

TEXT = "DescriptionOfEvent"


class Part:
    """A chunk of somebody's own class."""

    def __init__(self, text: str) -> None:
        self.text = text


@pytest.mark.parametrize("backend", BACKENDS)
def test_chunks_come_back_in_order_with_what_they_took(home: Path, at_faulty: Sandbox, backend: str) -> None:
    texts = [row[TEXT] for row in losses(6)]
    chunks: list[str | Chunk] = [*texts[:3], Part(texts[3]), "", "please refuse this one"]
    template = "Find {fields} in:\n{text}" if backend == "openai" else "Find {fields}."

    def process() -> list[batch_jobs.ProcessedChunk]:
        return batch_jobs.process_chunks(
            chunks, template, ["bank", "amount"], MODELS[backend], 4, 30, 2, cache_path=home, progress=False
        )

    found = process()
    assert [each.chunk for each in found] == chunks
    for number, each in enumerate(found[:4]):
        assert each.error is None
        assert each.result is not None
        assert list(each.result) == ["bank", "amount"]
        assert f"Bank{number}" in each.result["bank"]
        took = each.processing_metadata
        assert took["processing_time"] > 0
        assert took["token_count"] > 10
        assert took["attempt_count"] == 1
        assert took["model_name"] == MODELS[backend]
    assert (found[4].result, found[4].error) == (None, "there is no text in column text")
    assert found[5].result is None
    assert "refused" in (found[5].error or "")
    again = process()
    assert [each.result for each in again] == [each.result for each in found]
    assert {each.processing_metadata["attempt_count"] for each in again[:4]} == {0}


def test_chunks_that_can_not_be_are_refused(home: Path) -> None:
    cases: list[tuple[list[object], str, object, str]] = [
        ([5], "Find {fields}.", ["a"], "int is no text"),
        (["a"], "Find {things}.", ["a"], "there is no {things}"),
        (["a"], "Find {fields}.", [], "give a list of names"),
        (["a"], " ", ["a"], "is empty"),
    ]
    for chunks, template, fields, said in cases:
        with pytest.raises(errors.UserError, match=said):
            batch_jobs.process_chunks(chunks, template, fields, "gpt-6-luna", cache_path=home)  # type: ignore[arg-type]
