"""The Python API as a user's script or notebook calls it: the same rows back, answered once, whatever happens."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pandas as pd
import pytest
from pydantic import BaseModel, field_validator

import batch_jobs
from batch_jobs import errors
from batch_jobs.frames.store import opened
from batch_jobs.storage.call_cache import cache_of_worker
from tests.acceptance.frames_kit import BACKENDS, calls, loss_frame, run_script, start_script
from tests.acceptance.kit import Sandbox, own_answer
from tests.conftest import REPOSITORY

PROMPT = 'Summarise {this}, and answer as in {"summary": "..."}.'
TEXT = "DescriptionOfEvent"


class Summary(BaseModel):
    summary: str
    severity: int
    sure: bool
    score: float | None = None


def texts(frame: pd.DataFrame) -> list[dict[str, str]]:
    """The rows as texts."""
    return [{str(name): str(cell) for name, cell in row.items()} for row in frame.to_dict("records")]


def same_rows(after: pd.DataFrame, before: pd.DataFrame) -> None:
    """Same rows, order, index, columns and types; whatever stands behind them."""
    width = before.shape[1]
    pd.testing.assert_frame_equal(after.iloc[:, :width], before, check_exact=True)


@pytest.mark.parametrize("backend", BACKENDS)
def test_each_row_gets_its_own_typed_answer_and_the_second_call_asks_nobody(
    home: Path, shared_sandbox: Sandbox, backend: str, capfd: pytest.CaptureFixture[str]
) -> None:
    frame = loss_frame(30)
    before = frame.copy()

    def extract() -> pd.DataFrame:
        return batch_jobs.extract_df(
            frame, prompt=PROMPT, schema=Summary, backend=backend, text_col=TEXT, cache_path=home, progress=False
        )

    unpaid = calls(shared_sandbox)
    answered = extract()
    assert calls(shared_sandbox) - unpaid == 30 / 5  # five rows go into a request
    same_rows(answered, before)
    pd.testing.assert_frame_equal(frame, before)
    assert list(answered.columns[-5:]) == ["summary", "severity", "sure", "score", "status"]
    assert [str(kind) for kind in answered.dtypes.iloc[-5:]] == ["str", "Int64", "boolean", "Float64", "str"]
    assert set(answered["status"]) == {"ok"}
    assert all(own_answer(row) for row in texts(answered))
    paid = calls(shared_sandbox)
    pd.testing.assert_frame_equal(extract(), answered)
    assert calls(shared_sandbox) == paid
    assert capfd.readouterr() == ("", "")


def test_any_index_and_any_type_come_back_as_they_were(home: Path) -> None:
    rows = 12
    index = pd.MultiIndex.from_arrays([["a", "a", "b"] * 4, [1.5, float("nan"), 1.5] * 4], names=["one", None])
    frame = pd.DataFrame(
        {
            "text": [None if number == 5 else f'Row {number}, "quoted"\r\nand\r lines' for number in range(rows)],
            "status": range(rows),  # ours has to give way
            "answer": pd.Series([None, 1, pd.NA] * 4, dtype="Int8"),
            "kind": pd.Categorical(["x", None, "z"] * 4, categories=["z", "y", "x"], ordered=True),
            "when": pd.date_range("2026-03-28 23:00", periods=rows, freq="30min", tz="Europe/Berlin"),
            "mixed": [{"a": 1}, [1, 2], None] * 4,
            7: [1.0, float("nan"), -0.0] * 4,
        }
    ).set_index(index)
    answered = batch_jobs.extract_df(frame, prompt="Say it.", cache_path=home, text_col="text", progress=False)
    same_rows(answered, frame)
    assert list(answered.columns[-2:]) == ["answer_2", "status_2"]
    assert answered["status_2"].tolist().count("ok") == rows - 1
    assert answered["status_2"].iloc[5] == "failed: there is no text in column text"
    assert all(f"Row {number}," in answered["answer_2"].iloc[number] for number in range(rows) if number != 5)
    everything = batch_jobs.extract_df(frame, prompt="Say it.", cache_path=home, progress=False)  # all columns shown
    same_rows(everything, frame)
    assert set(everything["status_2"]) == {"ok"}


def test_what_a_row_meets_is_its_own_status(home: Path, at_faulty: Sandbox) -> None:
    texts = ["fine one", "please refuse this one", "please be invalid", "please come later", "a\0b", "half \ud800", " "]
    frame = pd.DataFrame({"text": pd.Series([*texts, "fine two"], dtype=object)})
    asked: dict[str, object] = {"prompt": "Say it.", "text_col": "text", "cache_path": home, "chunk_size": 1}
    asked["progress"] = False
    answered = batch_jobs.extract_df(frame, **asked)  # type: ignore[arg-type]
    status = answered["status"].tolist()
    assert (status[0], status[3], status[7]) == ("ok", "ok", "ok")
    assert status[1].startswith("failed: refused by the model")
    assert status[2].startswith("failed: invalid answer")
    assert [text.partition(" holds ")[2] for text in status[4:6]] == [
        "a NUL character",
        "half of a character (a lone surrogate)",
    ]
    assert answered["answer"].isna().tolist() == [text != "ok" for text in status]
    paid = calls(at_faulty)
    batch_jobs.extract_df(frame, **asked)  # type: ignore[arg-type]
    assert 1 <= calls(at_faulty) - paid <= 4  # only the two that failed are asked again


def test_an_account_without_money_pauses_and_the_same_call_goes_on(home: Path, at_faulty: Sandbox) -> None:
    frame = pd.DataFrame({"text": ["please be poor", "and then", "some more"]})

    def extract() -> pd.DataFrame:
        return batch_jobs.extract_df(frame, prompt="Say it.", text_col="text", cache_path=home, progress=False)

    with pytest.raises(errors.ProviderError, match="is paused"):
        extract()
    assert set(extract()["status"]) == {"ok"}


def test_fresh_asks_anew_and_a_word_asks_once(home: Path, shared_sandbox: Sandbox) -> None:
    frame, spent = loss_frame(5), list[int]()

    def extract(fresh: bool | str) -> None:
        before = calls(shared_sandbox)
        batch_jobs.extract_df(frame, prompt=PROMPT, text_col=TEXT, cache_path=home, fresh=fresh, progress=False)
        spent.append(calls(shared_sandbox) - before)

    for fresh in (False, True, True, "second", "second", False):
        extract(fresh)
    assert spent == [1, 1, 1, 1, 0, 0]  # five rows go into a request


def test_a_validator_of_the_model_has_the_last_word(home: Path) -> None:
    class Strict(BaseModel):
        answer: str
        note: str = "none given"

        @field_validator("answer")
        @classmethod
        def _not_seven(cls, answer: str) -> str:
            if "Bank7:" in answer:
                raise ValueError("seven is not allowed")
            return answer

    answered = batch_jobs.extract_df(
        loss_frame(9), prompt=PROMPT, schema=Strict, text_col=TEXT, cache_path=home, progress=False
    )
    assert answered["status"].iloc[7] == 'failed: invalid answer (field "answer": seven is not allowed)'
    assert answered["status"].tolist().count("ok") == 8


def test_a_yaml_prompt_and_a_prompt_module_are_taken_by_their_path(home: Path, tmp_path: Path) -> None:
    schema = {"type": "object", "properties": {"why": {"type": "string"}}, "required": ["why"]}
    (tmp_path / "why.json").write_text(json.dumps(schema))
    (tmp_path / "why.yaml").write_text(
        "schema: why.json\nsystem: '{task_description} {columns}'\nuser: '{id}: {text}'\n"
    )
    frame = pd.DataFrame({"id": ["A1", "A2"], "text": ["One thing.", "Another."], "other": ["x", "y"]})
    meaning = {"text": "What was written."}
    by_text = batch_jobs.extract_df(
        frame, prompt=tmp_path / "why.yaml", text_col=meaning, id_col="id", cache_path=home, progress=False
    )
    assert by_text["status"].tolist() == ["ok", "ok"]
    assert by_text["why"].str.contains("A[12]").all()  # a column that the prompt names itself goes along
    module = str(REPOSITORY / "prompt_lib" / "summary_prompt.py")
    by_module = batch_jobs.extract_df(loss_frame(3), prompt=module, text_col=TEXT, cache_path=home, progress=False)
    assert by_module["status"].tolist() == ["ok"] * 3


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        ({"text_col": "txt"}, errors.FileRefused, 'there is no such column; did you mean "text"?'),
        ({"id_col": "id"}, errors.FileRefused, "unique, and 2 rows share theirs (index 'x', 'z')"),
        ({"id_col": "hole"}, errors.FileRefused, "complete, and 1 rows have none (index 'y')"),
        ({"backend": "opnai"}, errors.UnknownName, 'did you mean "openai"'),
        ({"mode": "now"}, errors.UserError, "batch, concurrent, auto"),
        ({"schema": {"type": "array"}}, errors.ConfigError, "has to describe an object"),
        ({"schema": "no.json"}, errors.ConfigError, "can't be read"),
        ({"prompt": "no.yaml"}, errors.ConfigError, "can't be read"),
        ({"prompt": " "}, errors.UserError, "give the instructions"),
        ({"max_workers": 0}, errors.UserError, "max_workers"),
        ({"chunk_size": 0}, errors.UserError, "chunk_size"),
        ({"temperature": 9.0}, errors.UserError, "temperature"),
        ({"cache_path": __file__}, errors.UserError, "is a file"),
    ],
)
def test_what_can_not_be_is_said_before_anything_is_sent(
    home: Path, given: dict[str, object], error: type[errors.BatchJobsError], said: str
) -> None:
    frame = pd.DataFrame(
        {"text": ["a", "b", "c"], "id": [1, 2, 1], "hole": ["p", None, "q"]},
        index=["x", "y", "z"],
    )
    with pytest.raises(error) as caught:
        batch_jobs.extract_df(frame, **{"prompt": "Say it.", "cache_path": home, "progress": False, **given})  # type: ignore[arg-type]
    assert said in caught.value.message
    assert not list(home.glob("batch_input/*"))


def test_a_frame_without_rows_or_without_text_asks_nobody(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    empty = pd.DataFrame({"text": pd.Series([], dtype="str")})
    assert list(batch_jobs.extract_df(empty, prompt="x", cache_path=home)) == ["text", "answer", "status"]
    blank = pd.DataFrame({"text": ["", None]})
    assert set(batch_jobs.extract_df(blank, prompt="x", cache_path=home)["status"].str[:6]) == {"failed"}
    with pytest.raises(errors.KeyMissing):
        batch_jobs.extract_df(pd.DataFrame({"text": ["a"]}), prompt="x", cache_path=home)


def test_a_notebook_and_threads_may_call_it_and_the_same_question_is_paid_once(
    home: Path, shared_sandbox: Sandbox
) -> None:
    done, before = list[set[str]](), calls(shared_sandbox)

    def ask() -> None:
        frame = pd.DataFrame({"text": [f"Event {number}." for number in range(8)]})
        answered = batch_jobs.extract_df(frame, prompt="Say it.", cache_path=home, chunk_size=1, progress=False)
        done.append(set(answered["status"]))

    async def cell() -> None:
        threads = [threading.Thread(target=ask) for _ in range(2)]
        for thread in threads:
            thread.start()
        ask()  # an event loop runs in this very thread
        for thread in threads:
            thread.join()

    asyncio.run(cell())
    assert done == [{"ok"}] * 3
    assert calls(shared_sandbox) == before + 8


def test_another_store_may_take_the_place_of_one_that_was_deleted(home: Path, shared_sandbox: Sandbox) -> None:
    before = calls(shared_sandbox)
    for _ in range(2):
        answered = batch_jobs.extract_df(
            loss_frame(4), prompt=PROMPT, text_col=TEXT, cache_path=home, chunk_size=1, progress=False
        )
        assert set(answered["status"]) == {"ok"}
        cache_of_worker(home / "store" / "call_cache.sqlite")  # as many rows open it: by its path, for good
        with opened(home):
            pass
        assert cache_of_worker.cache_info().currsize == 0
        shutil.rmtree(home)
    assert calls(shared_sandbox) == before + 8


SCRIPT = """
import pandas as pd
import batch_jobs
frame = pd.DataFrame({"text": [f"Event {number} at a bank." for number in range(120)]})
how = {"cache_path": "store", "max_workers": 3, "chunk_size": 1, "progress": False}
answered = batch_jobs.extract_df(frame, prompt="Say it.", **how)
print(set(answered["status"]), len(answered))
"""


def test_stopped_in_the_middle_the_same_script_goes_on_and_pays_nothing_twice(tmp_path: Path, faulty: Sandbox) -> None:
    before, environ = calls(faulty), faulty.environ()

    def stop_after(paid: int, how: signal.Signals) -> str:
        process = start_script(SCRIPT, tmp_path, environ)
        while calls(faulty) < before + paid:
            assert process.poll() is None, process.communicate()
            time.sleep(0.01)  # between two looks at the bill
        process.send_signal(how)
        _, err = process.communicate(timeout=30)
        assert process.returncode != 0
        return err

    stop_after(15, signal.SIGKILL)
    assert "KeyboardInterrupt" in stop_after(40, signal.SIGINT)
    assert calls(faulty) < before + 120
    assert run_script(SCRIPT, tmp_path, environ) == "{'ok'} 120\n"
    in_flight_when_killed = 3
    assert 120 <= calls(faulty) - before <= 120 + in_flight_when_killed


def test_a_large_frame_in_a_script_without_a_guard_runs_once(tmp_path: Path, shared_sandbox: Sandbox) -> None:
    script = """
import pandas as pd
import batch_jobs
print("begun")
frame = pd.DataFrame({"text": [f"Event {number}." for number in range(5_200)]})
job = batch_jobs.prepare_df(frame, prompt="Say it.", cache_path="store", progress=False)
print(job.plan().to_send, job.status().phase)
"""
    assert run_script(script, tmp_path, shared_sandbox.environ()) == "begun\n5200 planned\n"


def test_a_job_submitted_here_is_fetched_by_another_process(
    home: Path, tmp_path: Path, shared_sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    environ = shared_sandbox.environ()
    frame = loss_frame(25)
    frame["when"] = pd.date_range("2026-01-01", periods=25, tz="Europe/Berlin")
    frame["nfr_taxonomy"] = frame["nfr_taxonomy"].astype("category")
    frame.to_pickle(tmp_path / "frame.pickle")
    script = f"""
import pandas as pd
import batch_jobs
frame = pd.read_pickle("frame.pickle")
job = batch_jobs.submit_df(frame, prompt="Say it.", text_col="{TEXT}", cache_path={str(home)!r}, progress=False)
print(job.task_id)
"""
    task_id = run_script(script, tmp_path, environ).strip()
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    job = batch_jobs.job(task_id, cache_path=home, progress=False)
    answered = job.result(timeout_seconds=30)
    same_rows(answered, frame)
    assert set(answered["status"]) == {"ok"}
    assert all(own_answer(row, "answer") for row in texts(answered))
    pd.testing.assert_frame_equal(job.retrieve(), answered)
    with pytest.raises(errors.FileRefused, match="its rows are not those of job"):
        batch_jobs.job(task_id, cache_path=home, df=frame.iloc[::-1])
    with pytest.raises(errors.JobNotFound):
        batch_jobs.job("0" * 32, cache_path=home)


def test_the_four_steps_one_by_one(home: Path, shared_sandbox: Sandbox) -> None:
    mixed = pd.DataFrame({"text": pd.Series(["One.", 2, ["three"]], dtype=object)})  # nothing that Parquet can hold
    before = calls(shared_sandbox)
    job = batch_jobs.prepare_df(mixed, prompt="Say it.", cache_path=home, progress=False)
    figures = job.plan()
    assert (figures.rows, figures.to_send, figures.mode.value) == (3, 3, "batch")
    assert figures.batch_usd is not None
    for early in (job.retrieve, lambda: job.wait(5)):
        with pytest.raises(errors.WrongMoment):
            early()
    assert calls(shared_sandbox) == before
    assert job.submit().phase == "running"
    while job.check().status != "done":
        job.wait(timeout_seconds=5)
    assert set(job.retrieve()["status"]) == {"ok"}
    elsewhere = batch_jobs.job(job.task_id, cache_path=home, progress=False)
    with pytest.raises(errors.UserError, match="its rows were not kept here"):
        elsewhere.retrieve()
    assert set(batch_jobs.job(job.task_id, cache_path=home, df=mixed).retrieve()["status"]) == {"ok"}
    stopped = batch_jobs.prepare_df(loss_frame(2), prompt="Say it.", cache_path=home, progress=False)
    assert stopped.cancel().status == "done"
    assert set(stopped.result()["status"]) == {"failed: cancelled"}


def test_importing_the_package_loads_nothing_heavy() -> None:
    script = (
        "import sys, batch_jobs; print([m for m in ('pandas', 'pydantic', 'pyarrow', 'click') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
    assert set(batch_jobs.__all__) <= set(dir(batch_jobs))
    assert all(getattr(batch_jobs, name) for name in batch_jobs.__all__)
    with pytest.raises(AttributeError):
        _ = batch_jobs.extract
