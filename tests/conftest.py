"""What every test has: no key of a real provider in the environment, and a project folder of its own."""

from __future__ import annotations

import json
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults import figures

REPOSITORY = Path(__file__).resolve().parent.parent
KEY_VARIABLES = (
    *("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "GEMINI_API_KEY", "GOOGLE_API_KEY"),
    *("OPENAI_BASE_URL", "ANTHROPIC_BASE_URL", "GOOGLE_GEMINI_BASE_URL", "BATCH_JOBS_API_KEYS", "BATCH_JOBS_ROOT"),
)
for name in KEY_VARIABLES:
    os.environ.pop(name, None)
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # begun in the background: the processes here have to hear Ctrl-C
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_configure(config: pytest.Config) -> None:
    """Begin a record of figures; workers of xdist append to their starter's."""
    if not hasattr(config, "workerinput") and figures.VARIABLE not in os.environ:
        handle, name = tempfile.mkstemp(prefix="figures-", suffix=".jsonl")
        os.close(handle)
        os.environ[figures.VARIABLE] = name


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Show the figures that the proofs noted."""
    noted = figures.noted()
    if noted:
        terminalreporter.section("figures")
    for line in noted:
        values = ", ".join(f"{name} {value}" for name, value in line.items() if name != "name")
        terminalreporter.write_line(f"{line['name']}: {values}")


@pytest.fixture
def project_folder(tmp_path: Path) -> Iterator[Path]:
    """A fresh project: the shipped config.json and prompt_lib."""
    folder = tmp_path / "project"
    folder.mkdir()
    shutil.copy(REPOSITORY / "config.json", folder)
    shutil.copytree(REPOSITORY / "prompt_lib", folder / "prompt_lib", ignore=shutil.ignore_patterns("__pycache__"))
    yield folder
    _end_sandbox(folder)


def _end_sandbox(folder: Path) -> None:
    """A sandbox that `--sandbox` started for this project would only end when idle: end it now."""
    try:
        document: dict[str, Any] = json.loads((folder / "store" / "sandbox" / "server.json").read_bytes())
        os.kill(int(document["pid"]), 9)
    except (OSError, ValueError, KeyError):
        return
