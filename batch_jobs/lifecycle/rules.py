"""The rules that a new job's answers come about by: read from config.json once, checked, and kept with the job."""

from __future__ import annotations

from batch_jobs.config import ProviderEntry, pick
from batch_jobs.config_tasks import JudgeEntry, Task
from batch_jobs.errors import ConfigError
from batch_jobs.lifecycle.project import Project
from batch_jobs.models import AnswerRules, GroupMode, Judge, Parameters
from batch_jobs.render.bundles import check_bundled
from batch_jobs.render.judge_prompt import JudgePrompt, has_judge, load_judge
from batch_jobs.render.prompt import Prompt


def rules_of(
    project: Project, task_name: str, prompt: Prompt, provider: str, model: str
) -> tuple[AnswerRules, JudgePrompt | None]:
    """The rules of a task, and its judge's prompt.

    Args:
        project: opened.
        task_name: of config.json.
        prompt: the task's, loaded.
        provider: that answers; it also judges where config.json does not say.
        model: likewise.

    Raises:
        ConfigError: rows can't be asked for together, the judge's prompt is not right, or there is no key for him.
        UnknownName: the judge's provider or model is not in config.json.
    """
    task = project.settings.tasks[task_name]
    if task.rows_per_request > 1:
        check_bundled(task_name, prompt.output)
        grouped = [name for name, case in task.data_cases.items() if case.grouping.mode is not GroupMode.NONE]
        if grouped:
            raise ConfigError(
                f"tasks.{task_name}.rows_per_request: data case {grouped[0]} groups its rows, and these share a "
                "request or their group's text already; take one of the two out"
            )
    asked = _judge_asked(task, prompt)
    if asked is None:
        return AnswerRules(task.repairs, task.rows_per_request, edition=task.edition), None
    name = asked.prompt or task.prompt
    if name.endswith(".py"):
        raise ConfigError(
            f"tasks.{task_name}.judge.prompt: {name} has to be a YAML file, or left out for a YAML prompt"
        )
    found = load_judge(project.prompt_lib / name, prompt.output)
    judge = _judge(project, asked, name, provider, model)
    return AnswerRules(task.repairs, task.rows_per_request, judge, task.edition), found


def check_parameters(name: str, entry: ProviderEntry, model: str, endpoint: str | None) -> None:
    """Check that a model takes the parameters that config.json sets.

    Raises:
        ConfigError: it refuses one; names its key.
    """
    from providers.connect import codec_for

    parameters = Parameters(**entry.parameters.model_dump())
    refused = set(codec_for(entry.dialect, endpoint).refused_parameters(parameters))
    if model in entry.models:
        refused |= {field for field in entry.models[model].refuses if getattr(parameters, field, None) is not None}
    if refused:
        keys = ", ".join(f"providers.{name}.parameters.{field}" for field in sorted(refused))
        raise ConfigError(f"{model} refuses what config.json sets: {keys}. Take it out; nothing was sent")


def _judge_asked(task: Task, prompt: Prompt) -> JudgeEntry | None:
    """What config.json says of the judge; a prompt that brings a `judge` text has one without a word."""
    if task.judge is not None:
        return task.judge if task.judge.enabled else None
    return JudgeEntry() if has_judge(prompt.path) else None


def _judge(project: Project, asked: JudgeEntry, prompt: str, provider: str, model: str) -> Judge:
    name = asked.provider or provider
    entry = project.entry(name)
    models = {each: each for each in (entry.model, *entry.models)}
    given = asked.model or (model if name == provider else entry.model)
    chosen = pick("model", given, models, f'provider "{name}"')
    check_parameters(name, entry, chosen, project.endpoint(name))
    return Judge(
        prompt=prompt,
        provider=name,
        dialect=entry.dialect,
        endpoint=project.endpoint(name),
        model=chosen,
        parameters=Parameters(**entry.parameters.model_dump()),
        account=project.account(name, simulated=project.simulated),
    )
