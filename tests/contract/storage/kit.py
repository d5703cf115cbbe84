"""Jobs and shards with a value in every field, and scripts that run in processes of their own."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from typing import Any

from batch_jobs.models import AnswerRules, BatchState, JobOutcome, Judge, Mode, Parameters, Phase, ShardState
from batch_jobs.storage.jobs import Job
from batch_jobs.storage.shards import Shard, key_of
from batch_jobs.table import FileKind, TableFormat

TASK_ID = "0123456789abcdef0123456789abcdef"
OTHER_ID = "f" * 32


JUDGE = Judge(
    "j.yaml", "anthropic", "anthropic", "/somewhere", "model-2", Parameters(7, reasoning_effort="low"), "their account"
)


def full_job(**changes: Any) -> Job:
    """A job in which no field has its default."""
    return replace(
        Job(
            task_id=TASK_ID,
            task="summarize",
            data_case="loss",
            provider="openai",
            dialect="openai",
            endpoint="/v1/responses",
            model="model-1",
            parameters=Parameters(max_output_tokens=99, temperature=0.5, top_p=0.25, reasoning_effort="low"),
            mode=Mode.CONCURRENT,
            account="openai default address key:abc",
            simulated=True,
            file_name='Größe "1".csv',
            file_sha256="a" * 64,
            suffix=".csv",
            format=TableFormat(FileKind.TEXT, "cp1252", True, ";", "\r\n", True, "Sheet 1"),
            columns=("what", "What", "事故"),
            output_columns={"": "status", "summary": "summary_2"},
            rows=12,
            created_at=1000.5,
            source_path="/somewhere/file.csv",
            phase=Phase.PLANNED,
            outcome=JobOutcome.PARTIAL,
            message="look here",
            round=2,
            round_base=1,
            plan={"items": 3, "nested": {"list": [1, None, "x"]}},
            autostart=True,
            prompt_sha256="b" * 64,
            schema_sha256="c" * 64,
            delivered={"/somewhere/out.csv": "d" * 64},
            started_at=1001.5,
            updated_at=1002.5,
            done_at=1003.5,
            rules=AnswerRules(1, 5, JUDGE),
        ),
        **changes,
    )


def a_shard(number: int = 0, round_no: int = 0, **changes: Any) -> Shard:
    """A shard in which no field has its default."""
    return replace(
        Shard(
            task_id=TASK_ID,
            round=round_no,
            shard=number,
            shard_key=key_of(TASK_ID, round_no, number),
            state=ShardState.RENDERED,
            requests=10,
            bytes=1234,
            sha256="e" * 64,
            account="openai",
            model="model-1",
            rendered_at=1.5,
            prompt_sha256="f" * 64,
            schema_sha256="0" * 64,
            file_id="file-1",
            batch_id="batch-1",
            batch_state=BatchState.FINALIZING,
            provider_state="finalizing",
            finished=3,
            problems=[{"code": "x", "message": "y", "line": None}],
            was_unknown=True,
            creates=2,
            submitting_at=2.5,
            unknown_at=3.5,
            submitted_at=4.5,
            ended_at=5.5,
            merged_at=6.5,
        ),
        **changes,
    )


def python(script: str, *arguments: str) -> subprocess.Popen[str]:
    """A real process that runs a script; it is told to go on through its stdin, and tells through its stdout."""
    command = [sys.executable, "-W", "error", "-c", script, *arguments]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def together(script: str, arguments: list[list[str]]) -> list[str]:
    """Run processes that all begin at the same word; returns what each printed after it."""
    running = [python(script, *each) for each in arguments]
    try:
        for process in running:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n", process.communicate()[1]
        for process in running:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        answers = []
        for process in running:
            output, errors = process.communicate(timeout=60)
            assert process.returncode == 0, errors
            answers.append(output.strip())
        return answers
    finally:
        for process in running:
            process.kill()
            with process:  # its pipes are closed, also where it was not read to its end
                pass
