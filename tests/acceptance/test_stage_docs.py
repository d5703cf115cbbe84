"""docs/stages.md and docs/schemas.md, followed: stages that change nothing when run again, a generated schema."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from batch_jobs.cli import cli as root_command
from tests.acceptance.kit import Cli, losses, own_answer, read_csv, write_csv
from tests.acceptance.pages import follow
from tests.conftest import REPOSITORY

PAGES = {name: (REPOSITORY / "docs" / f"{name}.md").read_text("utf-8") for name in ("stages", "schemas")}
ROWS = 12
TRIAGE = ("--task", "triage", "--data-case", "external_loss")
SUMMARIZE = ("--task", "summarize", "--data-case", "external_loss")


@pytest.fixture
def project(cli: Cli) -> Cli:
    """A project with the page's task, whose schema is not there yet."""
    follow(cli, "schemas.md", "prompt_lib/triage.yaml")
    return cli


@pytest.fixture
def file(tmp_path: Path) -> Path:
    rows = losses(ROWS)
    return write_csv(tmp_path / "losses.csv", [*rows, {**rows[0], "id": "again"}])


def commands(page: str) -> list[str]:
    return re.findall(r"^(batch-jobs [^\n#]*)", PAGES[page], re.MULTILINE)


@pytest.mark.parametrize("command", [*commands("stages"), *commands("schemas")])
def test_a_command_of_the_pages_parses(command: str) -> None:
    words, found = shlex.split(command)[1:], click.Command("")
    context = click.Context(root_command, info_name="batch-jobs")
    group: click.Command = root_command
    while isinstance(group, click.Group):
        chosen = group.get_command(context, words.pop(0))
        assert chosen is not None, command
        group = found = chosen
    found.parse_args(click.Context(found, resilient_parsing=True), words)


def test_the_pages_show_commands() -> None:
    assert (len(commands("stages")), len(commands("schemas"))) == (3, 3)


@pytest.mark.parametrize("provider", ["openai", "anthropic", "gemini"])
def test_a_schema_is_written_kept_and_used(project: Cli, file: Path, provider: str) -> None:
    by = ("--provider", provider)
    refused = project("run", "--file", file, *TRIAGE, *by, "--yes")
    assert refused.code == 2
    assert "triage_schema.py: there is no such schema" in refused.err
    assert "batch-jobs stage schema --task triage --data-case external_loss --file losses.csv" in refused.err
    made = project("stage", "schema", *TRIAGE, "--file", file, *by, "--json")
    assert made.code == 0, made.err
    assert (made.json["state"], made.json["fields"], made.json["calls"]) == (
        "written",
        ["urgency", "team", "reason"],
        1,
    )
    module = project.folder / "prompt_lib" / "triage_schema.py"
    written = module.read_bytes()
    assert project("stage", "schema", *TRIAGE, *by, "--json").json["state"] == "unchanged"
    done = project("run", "--file", file, *TRIAGE, *by, "--yes", "--json", "--output", file.with_name("out.csv"))
    assert done.code == 0, done.err
    rows = read_csv(file.with_name("out.csv"))
    assert len(rows) == ROWS + 1
    assert all(row["triage_status"] == "ok" and row["team"] and own_answer(row, "urgency") for row in rows)
    kept = project.folder / "batch_input" / done.json["task_id"] / "prompt"
    assert {path.name for path in kept.iterdir()} == {"triage.yaml", "triage_schema.py"}
    assert project("check-store").code == 0
    again = project("stage", "schema", *TRIAGE, "--file", file, *by, "--force", "--json")
    assert (again.json["calls"], module.read_bytes()) == (0, written)
    assert Path(again.json["archived"]).read_bytes() == written


def test_the_commands_of_the_page_run_as_they_stand_there(project_folder: Path) -> None:
    """No key is needed, neither for the job nor for its judge, though only the first command says that it rehearses."""
    write_csv(project_folder / "losses.csv", losses(3))
    judge = "system: a\nuser: |\n  {context}\n  {answer}\n"
    (project_folder / "prompt_lib" / "judge.yaml").write_text(judge, "utf-8")
    config = json.loads((project_folder / "config.json").read_text("utf-8"))
    config["tasks"]["summarize"]["judge"] = {"prompt": "judge.yaml"}
    (project_folder / "config.json").write_text(json.dumps(config), "utf-8")
    run, task_id = Cli(project_folder), ""
    for command in commands("stages"):
        result = run(*shlex.split(command.replace("TASK_ID", task_id))[1:])
        assert result.code in (0, 3), result.err  # the judge may reject a row
        found = re.search(r"^task_id +(\w+)", result.out, re.MULTILINE)
        task_id = found[1] if found else task_id
    assert (project_folder / "losses.summarize.csv").exists()
    again = run("stage", "ingest", "--file", "losses.csv", *SUMMARIZE, "--sandbox", "--json")
    assert again.json["task_id"] != task_id  # that one is done


def artefact(answer: dict[str, Any]) -> bytes:
    return Path(answer["artefact"]).read_bytes()


def test_a_stage_that_is_run_again_changes_nothing_and_force_archives(cli: Cli, file: Path) -> None:
    took = cli("stage", "ingest", "--file", file, *SUMMARIZE, "--json").json
    task_id = took["task_id"]
    first = artefact(took)
    said = json.loads(first)
    assert (said["rows"], said["columns"], len(said["first_rows"])) == (ROWS + 1, list(losses(1)[0]), 5)
    assert task_id.encode() not in first
    assert str(file.parent).encode() not in first
    again = cli("stage", "ingest", "--file", file, *SUMMARIZE, "--json").json
    assert (again["task_id"], again["state"], artefact(again)) == (task_id, "unchanged", first)
    forced = cli("stage", "ingest", "--file", file, *SUMMARIZE, "--force", "--json").json
    assert (forced["state"], artefact(forced), Path(forced["archived"]).read_bytes()) == ("written", first, first)

    planned = cli("stage", "items", task_id[:12], "--json").json
    items = [json.loads(line) for line in artefact(planned).splitlines()]
    assert [item["item"] for item in items] == list(range(ROWS))
    assert items[0]["rows"] == [2, ROWS + 2]  # the last row asks what the first one does
    assert not any(item["known"] or item["cut_chars"] for item in items)
    known = re.search(r"^\{\"cut_chars\".*\}$", PAGES["stages"], re.MULTILINE)
    assert known
    assert json.loads(known[0]).keys() == items[0].keys()
    assert cli("stage", "items", "--task_id", task_id, "--json").json["state"] == "unchanged"

    sent = cli("stage", "generate", task_id, "--yes", "--json")
    assert (sent.code, sent.json["state"], sent.json["sent"]) == (0, "written", ROWS), sent.err
    answers = [json.loads(line) for line in artefact(sent.json).splitlines()]
    assert [answer["fingerprint"] for answer in answers] == [item["fingerprint"] for item in items]
    assert all(answer["outcome"] == "succeeded" and answer["answer"]["summary"] for answer in answers)
    assert all(row["summarize_status"] == "ok" for row in read_csv(file.with_name("losses.summarize.csv")))
    before = sorted(file.parent.iterdir())
    for more in ((), ("--force",)):
        rerun = cli("stage", "generate", task_id, "--json", *more)
        assert (rerun.code, rerun.json["state"]) == (0, "written" if more else "unchanged")
        assert artefact(rerun.json) == artefact(sent.json)
    assert sorted(file.parent.iterdir()) == before
    assert cli("check-store").code == 0


def test_a_changed_prompt_runs_only_items_and_generate_again(project: Cli, file: Path) -> None:
    fields = "    urgency: str\n    team: str\n    reason: str\n"
    module = f"from pydantic import BaseModel\n\n\nclass Answer(BaseModel):\n{fields}"
    (project.folder / "prompt_lib" / "triage_schema.py").write_text(module, "utf-8")

    def take() -> dict[str, Any]:
        return project("stage", "ingest", "--file", file, *TRIAGE, "--json").json

    prompt = project.folder / "prompt_lib" / "triage.yaml"
    old, first = prompt.read_text("utf-8"), take()
    new = f"{old}  Write in French.\n"
    prompt.write_text(new, "utf-8")
    assert (take()["task_id"], take()["state"]) == (first["task_id"], "unchanged")  # not planned yet
    prompt.write_text(old, "utf-8")
    assert project("stage", "generate", first["task_id"], "--yes").code == 0
    prompt.write_text(new, "utf-8")
    refused = project("stage", "items", first["task_id"])
    assert refused.code == 2
    assert "keeps the prompt and config that it was planned with, and these have changed" in refused.err
    second = take()
    assert project("stage", "items", second["task_id"]).code == 0
    prompt.write_text(old, "utf-8")
    third = take()
    assert len({first["task_id"], second["task_id"], third["task_id"]}) == 3
    assert artefact(first) == artefact(second) == artefact(third)
    known = project("stage", "generate", third["task_id"], "--yes", "--json").json
    assert (known["sent"], known["from_cache"], known["succeeded"]) == (0, ROWS, ROWS + 1)


def test_the_schema_as_text_is_what_the_prompt_shows(project: Cli, file: Path) -> None:
    project("stage", "schema", *TRIAGE)
    made = project("stage", "schema-text", "--task", "triage", "--json").json
    text = artefact(made).decode()
    schema = json.loads(text)
    assert (schema["additionalProperties"], schema["required"]) == (False, ["urgency", "team", "reason"])
    assert project("stage", "schema-text", "--task", "triage", "--json").json["state"] == "unchanged"
    forced = project("stage", "schema-text", "--task", "triage", "--force", "--json").json
    assert Path(forced["archived"]).read_text("utf-8") == text == artefact(forced).decode()
    done = project("run", "--file", file, *TRIAGE, "--mode", "batch", "--yes")
    assert done.code == 0, done.err
    (shard,) = (project.folder / "batch_input").glob("*/round-0/shard-0000.jsonl")
    messages = json.loads(shard.read_text("utf-8").splitlines()[0])["body"]["messages"]
    assert text.strip() in messages[0]["content"]


def test_a_construct_that_the_provider_does_not_take_is_said_before_anything_is_sent(project: Cli, file: Path) -> None:
    path = project.folder / "prompt_lib" / "triage.yaml"
    prompt = yaml.safe_load(path.read_text("utf-8"))
    fields: dict[str, Any] = {name: {"type": "string"} for name in ("urgency", "team")}
    fields["reason"] = {"type": "object", "additionalProperties": {"type": "string"}}
    prompt["schema"] = {"type": "object", "properties": fields, "required": list(fields)}
    path.write_text(yaml.safe_dump(prompt), "utf-8")
    refused = project("run", "--file", file, *TRIAGE, "--provider", "anthropic", "--dry-run")
    assert refused.code == 2
    said = (
        'anthropic (anthropic) does not take this schema: field "reason": an object with free keys. Nothing was sent.'
    )
    assert said in refused.err
    hinted = project("run", "--file", file, *TRIAGE, "--provider", "openai", "--dry-run")
    assert hinted.code == 0, hinted.err
    assert 'schema        field "reason": an object with free keys: the whole schema is only a hint' in hinted.out


def test_what_is_wrong_is_said(project: Cli) -> None:
    for words, said in (
        (("stage", "ingset"), 'there is no stage "ingset"; did you mean "ingest"?'),
        (("stage", "items"), "which job? Give its task_id"),
        (("stage", "items", "0" * 32), "there is no job"),
        (("stage", "schema", *SUMMARIZE), "a prompt module has its schema in itself"),
        (("stage", "schema-text", "--task", "triage"), "an LLM write it: batch-jobs stage schema --task triage"),
    ):
        result = project(*words)
        assert (result.code, said in result.err) == (2, True), result.err
