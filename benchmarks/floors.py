"""The floors: the barest honest program for the same work on the same data, each in a process of its own.

No snapshot, no fingerprints, no ledger, no fsync where none is needed: nothing but the work. `python -m
benchmarks.floors WORK JSON`, like the product's side.
"""

from __future__ import annotations

import csv
import ctypes
import importlib.util
import os
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import orjson

from benchmarks.samples import RESULT, identity_of, row_details
from benchmarks.stage import DATA_CASE, KEY, ROOT, TASK

Given = dict[str, Any]
SYNC_EVERY = 1_000
PRETTY = orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE


def _prompt(name: str = "summary_prompt.py") -> ModuleType:
    spec = importlib.util.spec_from_file_location("floor_prompt", ROOT / "prompt_lib" / name)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def _rows(file: Path, columns: list[str]) -> Iterator[dict[str, str]]:
    import pyarrow.csv as pc

    texts = pc.ConvertOptions(column_types=dict.fromkeys(columns, "string"), include_columns=columns)
    parse = pc.ParseOptions(newlines_in_values=True)
    for batch in pc.open_csv(file, parse_options=parse, convert_options=texts):
        yield from batch.to_pylist()


def _config() -> Given:
    found = orjson.loads((ROOT / "config.json").read_bytes())
    assert isinstance(found, dict)
    return found


def _view(task: Given) -> SimpleNamespace:
    return SimpleNamespace(name=DATA_CASE, task_description=task["description"], **task["data_cases"][DATA_CASE])


def fixed_prompt() -> str:
    """The part of the shipped prompt that is the same for every row."""
    task = _config()["tasks"][TASK]
    row = dict.fromkeys(task["data_cases"][DATA_CASE]["mandatory_columns"], "")
    return str(_prompt().render_summary_prompt(_view(task), row)[0])


def lines_of(file: Path) -> Iterator[bytes]:
    """Request lines of a table for the shipped task, straight from its prompt module."""
    config, prompt = _config(), _prompt()
    task = config["tasks"][TASK]
    case, view = task["data_cases"][DATA_CASE], _view(task)
    schema = prompt.Summary.model_json_schema()
    response_format = {"type": "json_schema", "json_schema": {"name": "Summary", "strict": True, "schema": schema}}
    model = config["providers"]["openai"]["model"]
    for number, row in enumerate(_rows(file, list(case["mandatory_columns"]))):
        fixed, text = prompt.render_summary_prompt(view, row)
        body = {
            "model": model,
            "messages": [{"role": "system", "content": fixed}, {"role": "user", "content": text}],
            "response_format": response_format,
            "max_completion_tokens": 4096,
        }
        line = {"custom_id": f"row-{number}", "method": "POST", "url": "/v1/chat/completions", "body": body}
        yield orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE)


def render(given: Given) -> Given:
    """Read the csv, format each row's prompt, write the request lines."""
    rows = 0
    with Path(given["into"]).open("wb") as handle:
        for line in lines_of(Path(given["file"])):
            handle.write(line)
            rows += 1
    return {"rows": rows}


def merge(given: Given) -> Given:
    """Parse the raw result lines, write the csv again with the answer beside each row, in the order of the lines."""
    began, rows = time.perf_counter(), 0
    answers = _answers(sorted(Path(given["results"]).rglob("*.jsonl")))
    with (
        Path(given["file"]).open(newline="", encoding="utf-8") as source,
        Path(given["into"]).open("w", newline="", encoding="utf-8") as target,
    ):
        reader, writer = csv.reader(source), csv.writer(target, lineterminator="\n")
        writer.writerow([*next(reader), "summary"])
        for row, answer in zip(reader, answers, strict=False):  # equal rows share one answer, so there are fewer
            writer.writerow([*row, answer])
            rows += 1
    return {"seconds": time.perf_counter() - began, "rows": rows}


def _answers(files: list[Path]) -> Iterator[str]:
    for file in files:
        with file.open("rb") as handle:
            for line in handle:
                content = orjson.loads(line)["response"]["body"]["choices"][0]["message"]["content"]
                yield orjson.loads(content)["summary"]


def folders(given: Given) -> Given:
    """A folder a row with its two files: mkdir, write, rename; one sync of the file system per thousand rows."""
    root = Path(given["into"]) / DATA_CASE
    processed, temp = root / "processed", root / ".row.tmp"
    rows = [(identity_of(number), row_details(number)) for number in range(int(given["rows"]))]
    began = time.perf_counter()
    processed.mkdir(parents=True)
    for number, (identity, details) in enumerate(rows, 1):
        folder = processed / identity
        folder.mkdir()
        for name, values in (("meta_data/details.json", details), (f"ai_results/{TASK}.json", RESULT)):
            path = folder / name
            path.parent.mkdir()
            temp.write_bytes(orjson.dumps(values, option=PRETTY))
            os.rename(temp, path)
        if number % SYNC_EVERY == 0:
            _sync_file_system(root)
    _sync_file_system(root)
    return {"seconds": time.perf_counter() - began, "filed": len(rows)}


def _sync_file_system(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        if ctypes.CDLL(None, use_errno=True).syncfs(descriptor) != 0:
            raise OSError(ctypes.get_errno(), "syncfs failed")
    finally:
        os.close(descriptor)


def workbook(given: Given) -> Given:
    """Read all cells with calamine, write them again with xlsxwriter, two columns more."""
    import xlsxwriter
    from python_calamine import CalamineWorkbook

    cells = CalamineWorkbook.from_path(given["file"]).get_sheet_by_index(0).to_python()
    with xlsxwriter.Workbook(Path(given["into"]) / "floor.xlsx", {"constant_memory": True}) as book:
        sheet = book.add_worksheet()
        days = book.add_format({"num_format": "yyyy-mm-dd"})
        sheet.write_row(0, 0, [*cells[0], "summary", "summarize_status"])
        for number, row in enumerate(cells[1:], 1):
            for column, value in enumerate([*row, RESULT["answer"]["summary"], "ok"]):
                sheet.write(number, column, value, days) if column == 1 else sheet.write(number, column, value)
    return {"rows": len(cells) - 1}


def calls(given: Given) -> Given:
    """Single calls by a bare thread pool around the SDK; the answers are parsed and written down."""
    import openai

    client = openai.OpenAI(api_key=KEY, base_url=given["base_url"], max_retries=0)
    bodies = [orjson.loads(line)["body"] for line in lines_of(Path(given["file"]))]

    def call(body: dict[str, Any]) -> bytes:
        reply = client.chat.completions.create(**body)
        return orjson.dumps(orjson.loads(reply.choices[0].message.content or ""), option=orjson.OPT_APPEND_NEWLINE)

    with Path(given["into"]).open("wb") as handle, ThreadPoolExecutor(int(given["workers"])) as pool:
        for answer in pool.map(call, bodies):
            handle.write(answer)
    return {"rows": len(bodies)}


WORKS: dict[str, Callable[[Given], Given]] = {work.__name__: work for work in (render, merge, folders, workbook, calls)}


def main() -> None:
    """Do the work, print what it has to say."""
    work, given = sys.argv[1:]
    sys.stdout.write(orjson.dumps(WORKS[work](orjson.loads(given))).decode() + "\n")


if __name__ == "__main__":
    main()
