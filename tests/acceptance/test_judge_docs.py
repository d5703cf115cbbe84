"""docs/judge.md, followed to the letter: judged and repaired answers in both modes, at every provider."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.kit import Cli, Sandbox, losses, own_answer, read_csv, sandbox_server, write_csv
from tests.acceptance.pages import add_tasks, block, follow, page

ROWS = 40
SHARE = 0.3
CASE = ("--task", "severity_judged", "--data-case", "external_loss", "--yes", "--json")
MODES = ("batch", "concurrent")
PROMPT = "prompt_lib/severity_judged.yaml"


@pytest.fixture
def strict(tmp_path: Path) -> Iterator[Sandbox]:
    """A sandbox whose judge rejects a known share of what he sees."""
    with sandbox_server(tmp_path / "strict", {"batch_seconds": 0.1, "reject_share": SHARE}) as server:
        yield server


@pytest.fixture
def project(cli: Cli) -> Cli:
    follow(cli, "judge.md", PROMPT, "prompt_lib/strict_judge.yaml")
    return cli


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write_csv(tmp_path / "losses.csv", losses(ROWS))


def judged(cli: Cli, file: Path, mode: str, provider: str, root: Path) -> tuple[dict[str, Any], list[dict[str, str]]]:
    """Run the page's task in a store of its own; its document, and the rows of the output."""
    output = root / "out.csv"
    root.mkdir()
    where = ("--provider", provider, "--mode", mode, "--root", root, "--output", output)
    result = cli("run", "--file", file, *CASE, *where)
    assert result.code in {0, 3}, result.err
    return result.json, read_csv(output)


@pytest.mark.parametrize("provider", ["openai", "anthropic", "gemini"])
def test_what_the_judge_rejects_fails_with_his_words(
    project: Cli, strict: Sandbox, file: Path, tmp_path: Path, provider: str
) -> None:
    add_tasks(
        project, {"severity_judged": {**json.loads(block("judge.md", "config.json"))["severity_judged"], "repairs": 0}}
    )
    cli = Cli(project.folder, strict.environ())
    rejected = []
    for number, mode in enumerate(MODES, 1):
        document, rows = judged(cli, file, mode, provider, tmp_path / mode)
        said = strict.ask("verdicts")
        failed = [row["id"] for row in rows if row["severity_judged_status"] != "ok"]
        assert 0 < len(failed) < ROWS
        assert document["verdicts"] == {"accept": ROWS - len(failed), "reject": len(failed)}
        assert (said["accept"], said["reject"]) == (number * (ROWS - len(failed)), number * len(failed))
        for row in rows:
            accepted = row["severity_judged_status"] == "ok"
            assert own_answer(row, "why") if accepted else row["why"] == ""
            assert accepted or row["severity_judged_status"].startswith(
                "failed: rejected by the judge (Simulated: say more"
            )
        rejected.append(failed)
        assert cli("check-store", "--root", tmp_path / mode).code == 0
    assert rejected[0] == rejected[1]  # a verdict is on the text, whichever way it went


@pytest.mark.parametrize("provider", ["openai", "anthropic", "gemini"])
def test_what_is_rejected_is_repaired(project: Cli, strict: Sandbox, file: Path, tmp_path: Path, provider: str) -> None:
    strict.put_behaviour({"batch_seconds": 0.1, "reject_share": SHARE, "reject_first_only": True})
    cli = Cli(project.folder, strict.environ())
    for number, mode in enumerate(MODES, 1):
        document, rows = judged(cli, file, mode, provider, tmp_path / mode)
        said = strict.ask("verdicts")
        again = document["verdicts"]["accepted_again"]
        assert document["verdicts"] == {"accept": ROWS, "accepted_again": again}
        assert (said["accept"], said["reject"]) == (number * ROWS, number * again)
        assert all(row["severity_judged_status"] == "ok" and own_answer(row, "why") for row in rows)
        assert sum("(revised)" in row["why"] for row in rows) == again > 0


def kinds(cli: Cli, task_id: str) -> list[str]:
    """What the batches of a job asked for, in order."""
    manifest = json.loads((cli.folder / "batch_output" / task_id / "manifest.json").read_text("utf-8"))
    return [batch["kind"] for _, batch in sorted(manifest["batches"].items(), key=lambda entry: int(entry[0]))]


def test_only_what_changed_is_asked_again(project: Cli, file: Path) -> None:
    def run(*more: str) -> tuple[int, list[str], int]:
        result = project("run", "--file", file, *CASE, "--mode", "batch", *more)
        assert result.code == 0, result.err
        return result.json["sent"], kinds(project, result.json["task_id"]), result.json["verdicts"].get("accept", 0)

    def change(old: str, new: str) -> None:
        path = project.folder / PROMPT
        assert old in path.read_text("utf-8")
        path.write_text(path.read_text("utf-8").replace(old, new), "utf-8")

    assert run() == (ROWS, ["answer", "judge"], ROWS)
    assert run() == (0, [], 0)
    change("say what.", "say what is.")
    assert run() == (ROWS, ["judge"], ROWS)
    change("You are a senior manager", "You are the senior manager")
    assert run() == (ROWS, ["answer"], ROWS)  # the answers are the same again, and so were the verdicts on them
    task = json.loads(block("judge.md", "config.json"))["severity_judged"]
    add_tasks(project, {"severity_judged": {**task, "judge": {"enabled": False}}})
    assert run() == (0, [], 0)
    own = json.loads("{" + block_of_judge() + "}")
    add_tasks(project, {"severity_judged": {**task, **own}})
    assert run() == (ROWS, ["judge"], ROWS)
    assert project("check-store").code == 0


def block_of_judge() -> str:
    """The page's line of config for a judge of his own."""
    return next(line for line in page("judge.md").splitlines() if line.startswith('"judge": {"prompt"'))


def test_a_judge_that_does_not_see_the_answer_is_an_error_before_anything_is_kept(project: Cli, file: Path) -> None:
    path = project.folder / PROMPT
    path.write_text(path.read_text("utf-8").replace("{answer}", "(an answer)"), "utf-8")
    result = project("run", "--file", file, *CASE)
    assert result.code == 2
    assert "the judge has to see {answer}" in result.err
