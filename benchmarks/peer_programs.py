"""How each peer is used, by its own documentation: run by the peer's interpreter, needs nothing of this project.

`python peer_programs.py PACKAGE build|live FILE FOLDER`. The instructions are the shipped prompt's fixed part, the
row's text is its description; one row a request, as the product does it.
"""

from __future__ import annotations

import csv
import os
import sys
from collections.abc import Callable
from pathlib import Path

MODEL = "gpt-4o-mini"
WORKERS = 20
TEXT, ID = "DescriptionOfEvent", "event_id"


def lmsyz_build(file: Path, folder: Path, prompt: str) -> None:
    """A data frame in; `create_batch_jsonl` writes the batch's input files."""
    import pandas as pd
    from lmsyz_genai_ie_rfs import OpenAIBatchExtractor

    extractor = OpenAIBatchExtractor(batch_root_dir=str(folder), max_requests_per_batch=50_000)
    table = pd.read_csv(file, dtype=str, keep_default_na=False)
    extractor.create_batch_jsonl(table, ID, TEXT, prompt, "bench", MODEL, chunk_size=1)


def lmsyz_live(file: Path, folder: Path, prompt: str) -> None:
    """`extract_df` with its cache, and the result as csv."""
    import pandas as pd
    from lmsyz_genai_ie_rfs import extract_df

    table = pd.read_csv(file, dtype=str, keep_default_na=False)
    answered = extract_df(
        table,
        prompt=prompt,
        cache_path=folder / "cache.sqlite",
        model=MODEL,
        id_col=ID,
        text_col=TEXT,
        chunk_size=1,
        max_workers=WORKERS,
        api_key=os.environ["OPENAI_API_KEY"],
        base_url=os.environ["OPENAI_BASE_URL"],
    )
    table.merge(answered, left_on=ID, right_on="input_id", how="left").to_csv(folder / "output.csv", index=False)


def ondine_build(file: Path, folder: Path, prompt: str) -> None:
    """A pipeline in batch mode; `submit` builds the input and sends it."""
    from ondine import PipelineBuilder

    pipeline = (
        PipelineBuilder.create()
        .from_csv(str(file), input_columns=[TEXT], output_columns=["summary"])
        .with_prompt(_template(prompt))
        .with_llm(provider="openai", model=MODEL, api_key=os.environ["OPENAI_API_KEY"])
        .with_checkpoint_dir(str(folder / "checkpoints"))
        .with_execution_mode("provider_batch")
        .build()
    )
    pipeline.submit()


def ondine_live(file: Path, folder: Path, prompt: str) -> None:
    """`enrich`, its front door, and the result as csv."""
    from ondine import enrich

    answered = enrich(
        str(file),
        _template(prompt),
        output_columns=["summary"],
        model=MODEL,
        provider="openai_compatible",
        base_url=os.environ["OPENAI_BASE_URL"],
        api_key=os.environ["OPENAI_API_KEY"],
        batch_size=1,
        concurrency=WORKERS,
    )
    answered.to_csv(folder / "output.csv", index=False)


def _template(prompt: str) -> str:
    """The instructions without braces, which are its placeholders, and the row's text."""
    return prompt.replace("{", "(").replace("}", ")") + f"\n\n{{{TEXT}}}"


def openai_batch_build(file: Path, folder: Path, prompt: str) -> None:
    """`add_to_batch` for each row of the file; it has no way from a table, so the loop is its user's."""
    from openai_batch import Batch
    from openai_batch.providers import Provider

    provider = Provider(
        name="bench",
        display_name="bench",
        base_url=os.environ["OPENAI_BASE_URL"],
        api_key=os.environ["OPENAI_API_KEY"],
        batch_input_max_requests=10**9,
        batch_input_max_bytes=10**12,
    )
    with (
        file.open(newline="", encoding="utf-8") as handle,
        Batch(submission_input_file=str(folder / "input.jsonl"), provider=provider) as batch,
    ):
        for row in csv.DictReader(handle):
            messages = [{"role": "system", "content": prompt}, {"role": "user", "content": row[TEXT]}]
            batch.add_to_batch(model=MODEL, messages=messages, max_completion_tokens=4096)


PROGRAMS: dict[tuple[str, str], Callable[[Path, Path, str], None]] = {
    ("lmsyz-genai-ie-rfs", "build"): lmsyz_build,
    ("lmsyz-genai-ie-rfs", "live"): lmsyz_live,
    ("ondine", "build"): ondine_build,
    ("ondine", "live"): ondine_live,
    ("openai-batch", "build"): openai_batch_build,
}


def main() -> None:
    """Run one."""
    package, what, file, folder = sys.argv[1:]
    prompt = (Path(folder) / "prompt.txt").read_text()
    PROGRAMS[package, what](Path(file), Path(folder), prompt)


if __name__ == "__main__":
    main()
