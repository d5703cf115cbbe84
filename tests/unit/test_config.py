"""config.json: every documented key is there and can be overridden, and what is wrong is said with its place."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from batch_jobs.config import ENV_PREFIX, Settings, load_settings, nearest, pick
from batch_jobs.errors import ConfigError, UnknownName
from batch_jobs.models import Dialect, Layout, Mode

SHIPPED = Path(__file__).resolve().parents[2] / "config.json"
FIXED_KEYS: dict[str, tuple[Any, str, Any]] = {
    "defaults.provider": ("openai", "gemini", "gemini"),
    "defaults.mode": (Mode.AUTO, "batch", Mode.BATCH),
    "defaults.concurrent_below_items": (200, "7", 7),
    "polling.min_seconds": (2, "0.5", 0.5),
    "polling.max_seconds": (300, "301.5", 301.5),
    "submission.quarantine_seconds": (900, "0", 0),
    "rounds.max": (3, "5", 5),
    "rounds.max_hours": (96, "1.5", 1.5),
    "rounds.equal_errors_min": (20, "7", 7),
    "rounds.equal_errors_share": (0.5, "0.9", 0.9),
    "concurrent.max_workers": (20, "3", 3),
    "concurrent.attempts": (3, "4", 4),
    "concurrent.min_wait_seconds": (4, "0.25", 0.25),
    "concurrent.max_wait_seconds": (10, "11", 11),
    "concurrent.max_seconds": (900, "60", 60),
    "concurrent.breaker_failures": (5, "9", 9),
    "concurrent.breaker_seconds": (15, "2.5", 2.5),
    "intake.max_bytes": (2_000_000_000, "99", 99),
    "intake.max_rows": (1_000_000, "98", 98),
    "store.layout": (Layout.AUTO, "packed", Layout.PACKED),
    "store.packed_above_rows": (50_000, "0", 0),
    "providers.openai.base_url": (None, "http://localhost:1/v1", "http://localhost:1/v1"),
    "providers.openai.api_key_env": ("OPENAI_API_KEY", "OTHER_KEY", "OTHER_KEY"),
    "providers.openai.model": ("gpt-6-luna", "gpt-6-sol", "gpt-6-sol"),
    "providers.openai.endpoint": ("/v1/chat/completions", "/v1/responses", "/v1/responses"),
    "providers.openai.limits.max_requests": (None, "50", 50),
    "providers.openai.limits.max_bytes": (None, "5000", 5000),
    "providers.openai.limits.requests_per_minute": (None, "3000", 3000),
    "providers.openai.limits.tokens_per_minute": (None, "200000", 200000),
    "providers.anthropic.base_url": (None, "http://localhost:2", "http://localhost:2"),
    "providers.gemini.model": ("gemini-3.5-flash-lite", "gemini-3.8-flash", "gemini-3.8-flash"),
}


def value_at(settings: Settings, key: str) -> Any:
    value: Any = settings
    for part in key.split("."):
        value = value[part] if isinstance(value, Mapping) else getattr(value, part)
    return value


def shipped() -> dict[str, Any]:
    document: dict[str, Any] = json.loads(SHIPPED.read_text())
    return document


def written(folder: Path, document: object) -> Path:
    path = folder / "config.json"
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    return path


def refused(folder: Path, document: object) -> str:
    with pytest.raises(ConfigError) as caught:
        load_settings(written(folder, document), {})
    assert str(folder / "config.json") in caught.value.message
    return caught.value.message


def changed(place: str, value: object) -> dict[str, Any]:
    """The shipped config with one key set; the last part of the place may be new."""
    document = deepcopy(shipped())
    *path, last = place.split(".")
    section: Any = document
    for part in path:
        section = section.setdefault(part, {})
    section[last] = value
    return document


def test_the_shipped_config_loads() -> None:
    settings = load_settings(SHIPPED, {})
    assert set(settings.tasks) == {"summarize", "learning_outcome"}
    assert {provider.dialect for provider in settings.providers.values()} == set(Dialect)
    for provider in settings.providers.values():
        assert provider.model in provider.models, "the default model has no price"


@pytest.mark.parametrize("key", FIXED_KEYS)
def test_every_fixed_key_has_its_default(key: str) -> None:
    assert value_at(load_settings(SHIPPED, {}), key) == FIXED_KEYS[key][0]


@pytest.mark.parametrize("key", FIXED_KEYS)
@pytest.mark.parametrize("lower", [False, True])
def test_every_fixed_key_is_overridden_by_its_variable(key: str, lower: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    _, text, expected = FIXED_KEYS[key]
    name = ENV_PREFIX + key.upper().replace(".", "__")
    monkeypatch.setenv(name.lower() if lower else name, text)
    settings = load_settings(SHIPPED)
    assert value_at(settings, key) == expected
    others = load_settings(SHIPPED).model_dump()
    monkeypatch.delenv(name.lower() if lower else name)
    plain = load_settings(SHIPPED).model_dump()
    assert {section for section in plain if plain[section] != others[section]} == {key.split(".")[0]}


@pytest.mark.parametrize("key", FIXED_KEYS)
def test_every_fixed_key_may_stand_in_the_file(tmp_path: Path, key: str) -> None:
    expected = FIXED_KEYS[key][2]
    assert value_at(load_settings(written(tmp_path, changed(key, expected)), {}), key) == expected


def test_what_the_file_leaves_out_has_its_default(tmp_path: Path) -> None:
    document = {key: value for key, value in shipped().items() if key in {"tasks", "providers"}}
    settings = load_settings(written(tmp_path, document), {})
    for key in FIXED_KEYS:
        if not key.startswith("providers."):
            assert value_at(settings, key) == FIXED_KEYS[key][0]


def test_a_provider_name_that_no_variable_could_reach_is_refused(tmp_path: Path) -> None:
    """Variables are read in lower case, so `BATCH_JOBS__PROVIDERS__...` would never override `MyGateway`."""
    assert "providers.MyGateway" in refused(tmp_path, changed("providers.MyGateway", shipped()["providers"]["openai"]))


@pytest.mark.parametrize(
    ("place", "near"),
    [
        ("poling", "polling"),
        ("polling.min_second", "min_seconds"),
        ("tasks.summarize.promt", "prompt"),
        ("tasks.summarize.data_cases.external_loss.mandatory_colums", "mandatory_columns"),
        ("providers.openai.modle", "model"),
        ("providers.openai.limits.max_request", "max_requests"),
        ("providers.openai.models.gpt-6-luna.standrad", "standard"),
        ("providers.openai.models.gpt-6-luna.batch.outptu", "output"),
        ("providers.gemini.parameters.temprature", "temperature"),
        ("concurrent.max_worker", "max_workers"),
        ("_env_file", ""),
        ("_secrets_dir", ""),
        ("_cli_parse_args", ""),
    ],
)
def test_an_unknown_key_is_answered_with_its_place_and_the_nearest(tmp_path: Path, place: str, near: str) -> None:
    message = refused(tmp_path, changed(place, "x"))
    assert f'unknown key "{place}"' in message
    assert (f'did you mean "{near}"?' in message) if near else ("did you mean" not in message)


def test_names_that_are_also_keys_do_not_hide_the_nearest(tmp_path: Path) -> None:
    document = shipped()
    document["tasks"]["description"] = {**document["tasks"]["summarize"], "promt": "x"}
    message = refused(tmp_path, document)
    assert 'unknown key "tasks.description.promt"; did you mean "prompt"?' in message


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        ("polling.min_seconds", "soon", "polling.min_seconds: "),
        ("polling.min_seconds", 0, "greater than 0"),
        ("polling.max_seconds", 1, "max_seconds is below min_seconds"),
        ("rounds.max", 0, "rounds.max: "),
        ("rounds.max", 21, "rounds.max: "),
        ("rounds.max", 1.5, "rounds.max: "),
        ("concurrent.max_workers", 0, "concurrent.max_workers: "),
        ("defaults.mode", "btach", "defaults.mode: "),
        ("defaults.provider", "opnai", 'defaults.provider "opnai" is not among providers'),
        ("tasks.summarize.prompt", "../x.py", "tasks.summarize.prompt: "),
        ("tasks.summarize.prompt", "x.py\n", "tasks.summarize.prompt: "),
        ("tasks.summarize.output_columns", {}, "tasks.summarize.output_columns: "),
        ("tasks.summarize.data_cases", {}, "tasks.summarize.data_cases: "),
        ("tasks.summarize.data_cases.external_loss.mandatory_columns", {}, "external_loss.mandatory_columns: "),
        ("tasks", {}, "tasks: "),
        ("providers", {}, "providers: "),
        ("providers.openai.dialect", "opnai", "providers.openai.dialect: "),
        ("providers.openai.endpoint", "/v1/other", "use one of /v1/chat/completions, /v1/responses"),
        ("providers.gemini.endpoint", "/v1/responses", "leave it out for this dialect"),
        ("providers.openai.parameters", {"temperature": 3}, "temperature: "),
    ],
)
def test_a_wrong_value_is_said_with_its_place(tmp_path: Path, place: str, value: object, said: str) -> None:
    assert said in refused(tmp_path, changed(place, value))


@pytest.mark.parametrize("name", ["../x", "", "a b", "x" * 65, "-x", "x\n", "ö", "a/b", "."])
@pytest.mark.parametrize("section", ["tasks", "providers"])
def test_names_that_could_be_paths_are_refused(tmp_path: Path, section: str, name: str) -> None:
    document = shipped()
    document[section][name] = next(iter(document[section].values()))
    assert section in refused(tmp_path, document)


def test_every_problem_is_said_at_once(tmp_path: Path) -> None:
    document = changed("polling.min_second", 1)
    document["rounds"]["max"] = 0
    message = refused(tmp_path, document)
    assert "polling.min_second" in message
    assert "rounds.max" in message


def test_bad_json_is_said_with_its_line(tmp_path: Path) -> None:
    assert "line 3, column" in refused(tmp_path, '{\n  "tasks": {},\n  oops\n}')


@pytest.mark.parametrize("text", ["[]", "5", "null", '"x"'])
def test_json_that_is_no_object(tmp_path: Path, text: str) -> None:
    assert "one JSON object" in refused(tmp_path, text)


def test_a_file_that_is_not_there_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="batch-jobs init"):
        load_settings(tmp_path / "config.json", {})


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="can't be read"):
        load_settings(tmp_path / "config.json", {})
    with pytest.raises(ConfigError, match="can't be read"):
        load_settings(tmp_path, {})


def test_a_byte_order_mark_is_no_problem(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(b"\xef\xbb\xbf" + SHIPPED.read_bytes())
    assert load_settings(tmp_path / "config.json", {})


@pytest.mark.parametrize("name", ["BATCH_JOBS__POLING__MIN_SECONDS", "batch_jobs__poling__min_seconds"])
def test_an_unknown_section_of_the_environment_is_named(name: str) -> None:
    with pytest.raises(ConfigError, match=f'{name}: there is no section "poling"; did you mean "polling"'):
        load_settings(SHIPPED, {name: "1"})


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("BATCH_JOBS__POLLING__MIN_SECOND", "1", 'did you mean "min_seconds"'),
        ("BATCH_JOBS__POLLING__MIN_SECONDS", "soon", "polling.min_seconds: "),
        ("BATCH_JOBS__POLLING", "not json", "polling"),
        ("BATCH_JOBS__TASKS", "{", "tasks"),
        ("BATCH_JOBS__PROVIDERS__OPNAI__MODEL", "x", "opnai"),
        ("BATCH_JOBS__ROUNDS__MAX", "", "rounds.max: "),
    ],
)
def test_a_wrong_variable_is_a_config_error(name: str, value: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError) as caught:
        load_settings(SHIPPED)
    assert said in caught.value.message


def test_other_variables_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BATCH_JOBS_API_KEYS", "x")
    monkeypatch.setenv("POLLING__MIN_SECONDS", "77")
    assert "BATCH_JOBS_API_KEYS" in os.environ
    assert load_settings(SHIPPED).polling.min_seconds == 2


def test_settings_can_not_be_changed() -> None:
    settings = load_settings(SHIPPED, {})
    with pytest.raises(ValueError, match="frozen"):
        settings.rounds = settings.rounds  # type: ignore[misc]
    with pytest.raises(ValueError, match="frozen"):
        settings.rounds.max = 4  # type: ignore[misc]


@pytest.mark.parametrize("name", ["exterrnal_loss", "external_los", "externalloss", "EXTERNAL_LOSS".lower()[:-1]])
def test_a_typo_of_a_data_case_is_answered_with_the_nearest(name: str) -> None:
    cases = load_settings(SHIPPED, {}).tasks["summarize"].data_cases
    with pytest.raises(UnknownName, match='did you mean "external_loss"') as caught:
        pick("data case", name, cases)
    assert "(there is: external_loss, internal_loss)" in caught.value.message


def test_a_typo_of_a_task_is_answered_with_the_nearest() -> None:
    tasks = load_settings(SHIPPED, {}).tasks
    with pytest.raises(UnknownName, match='there is no task "summarise"; did you mean "summarize"'):
        pick("task", "summarise", tasks)
    assert pick("task", "summarize", tasks) is tasks["summarize"]


def test_nothing_near_is_not_guessed() -> None:
    assert nearest("zzz", ["summarize"]) == ""
    assert nearest("zzz", []) == ""
    with pytest.raises(UnknownName) as caught:
        pick("task", "zzz", {"summarize": 1})
    assert "did you mean" not in caught.value.message


def test_identity_is_all_mandatory_columns_unless_said_otherwise(tmp_path: Path) -> None:
    case = load_settings(SHIPPED, {}).tasks["summarize"].data_cases["external_loss"]
    assert case.identity == ("DescriptionOfEvent", "nfr_taxonomy")
    place = "tasks.summarize.data_cases.external_loss.identity_columns"
    other = load_settings(written(tmp_path, changed(place, ["event_id"])), {})
    assert other.tasks["summarize"].data_cases["external_loss"].identity == ("event_id",)
