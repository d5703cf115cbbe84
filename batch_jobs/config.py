"""config.json as typed, strict settings: unknown keys are errors, every value can be overridden by environment.

Precedence: `BATCH_JOBS__SECTION__KEY` > config.json > the defaults here. A provider's base_url that neither
gives comes from its SDK's own variable (`OPENAI_BASE_URL`, `ANTHROPIC_BASE_URL`, `GOOGLE_GEMINI_BASE_URL`).
"""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Iterable, Mapping
from datetime import date
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args, get_origin

from pydantic import Field, StringConstraints, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, SettingsError

from batch_jobs.config_tasks import Name, Strict, Task
from batch_jobs.errors import ConfigError, UnknownName
from batch_jobs.models import Dialect, Layout, Mode, Price

ENV_PREFIX = "BATCH_JOBS__"
BASE_URL_VARIABLES = {
    Dialect.OPENAI: "OPENAI_BASE_URL",
    Dialect.ANTHROPIC: "ANTHROPIC_BASE_URL",
    Dialect.GEMINI: "GOOGLE_GEMINI_BASE_URL",
}
ProviderName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")]
"""Lower case only: environment variables are read so, and each key of a provider can be overridden by one."""
T = TypeVar("T")


class PriceEntry(Strict):
    """USD per million tokens."""

    input: float = Field(ge=0)
    output: float = Field(ge=0)
    cached: float = Field(ge=0)

    def as_price(self) -> Price:
        """As the plain value the rest of the product counts with."""
        return Price(self.input, self.output, self.cached)


class ModelEntry(Strict):
    """What one model costs, who says so and since when; and what it refuses."""

    standard: PriceEntry
    batch: PriceEntry
    source: str
    date: date
    refuses: tuple[str, ...] = ()
    max_enqueued_tokens: int | None = Field(default=None, gt=0)

    def price(self, mode: Mode) -> Price:
        """What it costs in this mode."""
        return (self.batch if mode is Mode.BATCH else self.standard).as_price()


class ParameterEntry(Strict):
    """Model parameters in our words; null is not sent."""

    max_output_tokens: int = Field(default=4096, gt=0)
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    reasoning_effort: str | None = None


class ProviderLimits(Strict):
    """Limits of one batch, of the account's queue, and of calls a minute; where left out, the provider's own hold."""

    max_requests: int | None = Field(default=None, gt=0)
    max_bytes: int | None = Field(default=None, gt=0)
    max_enqueued_tokens: int | None = Field(default=None, gt=0)
    max_enqueued_requests: int | None = Field(default=None, gt=0)
    max_in_flight_batches: int | None = Field(default=None, gt=0)
    creates_per_minute: float | None = Field(default=None, gt=0)
    uploads_per_minute: float | None = Field(default=None, gt=0)
    requests_per_minute: int | None = Field(default=None, gt=0)
    tokens_per_minute: int | None = Field(default=None, gt=0)


class ProviderEntry(Strict):
    """One way to a model: a provider, or any server that speaks a provider's dialect."""

    dialect: Dialect
    base_url: str | None = None
    api_key_env: str | None = None
    endpoint: str | None = None
    model: str = Field(min_length=1)
    models: dict[str, ModelEntry] = Field(default_factory=dict)
    parameters: ParameterEntry = ParameterEntry()
    limits: ProviderLimits = ProviderLimits()
    timeout_seconds: float = Field(default=600, gt=0)
    delete_after_merge: bool = True

    @model_validator(mode="after")
    def _endpoint_fits_dialect(self) -> ProviderEntry:
        allowed = ("/v1/chat/completions", "/v1/responses") if self.dialect is Dialect.OPENAI else ()
        if self.endpoint is not None and self.endpoint not in allowed:
            fits = f"use one of {', '.join(allowed)}" if allowed else "leave it out for this dialect"
            raise ValueError(f'endpoint "{self.endpoint}" does not exist for dialect {self.dialect}: {fits}')
        return self


class Defaults(Strict):
    """What is used where the user does not say."""

    provider: str = "openai"
    mode: Mode = Mode.AUTO
    concurrent_below_items: int = Field(default=200, ge=0)


class Polling(Strict):
    """Bounds of the adaptive poll interval."""

    min_seconds: float = Field(default=2, gt=0)
    max_seconds: float = Field(default=300, gt=0)

    @model_validator(mode="after")
    def _ordered(self) -> Polling:
        if self.max_seconds < self.min_seconds:
            raise ValueError("max_seconds is below min_seconds")
        return self


class Submission(Strict):
    """How long an unknown outcome of a create is waited out, and how many batches are sent or fetched at once."""

    quarantine_seconds: float = Field(default=900, ge=0)
    parallel_transfers: int = Field(default=4, ge=1, le=64)


class Rounds(Strict):
    """How many passes are made over the items that still need an answer, for how long, and what stops them."""

    max: int = Field(default=3, ge=1, le=20)
    max_hours: float = Field(default=96, gt=0)
    equal_errors_min: int = Field(default=20, ge=1)
    equal_errors_share: float = Field(default=0.5, gt=0, le=1)


class Concurrent(Strict):
    """The thread pool of single calls."""

    max_workers: int = Field(default=20, ge=1, le=1000)
    attempts: int = Field(default=3, ge=1, le=20)
    min_wait_seconds: float = Field(default=4, ge=0)
    max_wait_seconds: float = Field(default=10, ge=0)
    max_seconds: float = Field(default=900, gt=0)
    breaker_failures: int = Field(default=5, ge=1)
    breaker_seconds: float = Field(default=15, gt=0)


class Intake(Strict):
    """What is taken in at most."""

    max_bytes: int = Field(default=2_000_000_000, gt=0)
    max_rows: int = Field(default=1_000_000, gt=0)
    max_columns: int = Field(default=1_000, gt=0)
    max_cell_chars: int = Field(default=200_000, gt=0)
    chunk_chars: int = Field(default=4_000, ge=100)
    chunk_overlap_chars: int = Field(default=200, ge=0)

    @model_validator(mode="after")
    def _overlap_is_a_part(self) -> Intake:
        if self.chunk_overlap_chars * 2 > self.chunk_chars:
            raise ValueError("chunk_overlap_chars is more than half of chunk_chars")
        return self


class Store(Strict):
    """How results are kept for people to browse or to query; a job keeps the layout that it was planned with."""

    layout: Layout = Layout.AUTO
    packed_above_rows: int = Field(default=50_000, ge=0)


class Paths(Strict):
    """Folders below the root."""

    batch_input: str = "batch_input"
    batch_output: str = "batch_output"
    store: str = "store"

    @field_validator("batch_input", "batch_output", "store")
    @classmethod
    def _below_the_root(cls, folder: str) -> str:
        if Path(folder).is_absolute() or ".." in Path(folder).parts:
            raise ValueError(f'"{folder}" leaves the root; give a folder below it, and the root by --root')
        return folder


class Settings(BaseSettings):
    """The whole of config.json, overlaid by the environment."""

    model_config = SettingsConfigDict(
        extra="forbid",
        frozen=True,
        env_prefix=ENV_PREFIX,
        env_nested_delimiter="__",
        nested_model_default_partial_update=True,
    )

    tasks: dict[Name, Task] = Field(min_length=1)
    providers: dict[ProviderName, ProviderEntry] = Field(min_length=1)
    defaults: Defaults = Defaults()
    polling: Polling = Polling()
    submission: Submission = Submission()
    rounds: Rounds = Rounds()
    concurrent: Concurrent = Concurrent()
    intake: Intake = Intake()
    store: Store = Store()
    paths: Paths = Paths()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Environment above the file, nothing else."""
        return env_settings, init_settings

    @model_validator(mode="after")
    def _default_provider_exists(self) -> Settings:
        if self.defaults.provider not in self.providers:
            raise ValueError(
                f'defaults.provider "{self.defaults.provider}" is not among providers: {", ".join(self.providers)}'
            )
        return self


def load_settings(path: Path, environ: Mapping[str, str] | None = None) -> Settings:
    """Read and check config.json.

    Args:
        path: the file.
        environ: only looked at for names that can't be right; values are read by pydantic-settings.

    Raises:
        ConfigError: the file is missing, is no JSON, or holds a wrong key or value; says where.
    """
    _check_variable_names(os.environ if environ is None else environ)
    try:
        raw = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise ConfigError(
            f"{path}: there is no config.json here. Give --config PATH, or make a project with: batch-jobs init DIR"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: can't be read: {error}") from error
    except json.JSONDecodeError as error:
        raise ConfigError(f"{path}, line {error.lineno}, column {error.colno}: not valid JSON: {error.msg}") from error
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: must hold one JSON object")
    hidden = [key for key in raw if key.startswith("_")]  # pydantic-settings would take these for its own
    if hidden:
        raise ConfigError(f'{path}: unknown key "{hidden[0]}"')
    try:
        return Settings(**raw)
    except SettingsError as error:
        raise ConfigError(f"environment variables {ENV_PREFIX}...: {error}") from error
    except ValidationError as error:
        raise ConfigError(f"{path}: {_explain(error)}") from error


def _check_variable_names(environ: Mapping[str, str]) -> None:
    for name in environ:
        if name.upper().startswith(ENV_PREFIX):
            section = name[len(ENV_PREFIX) :].split("__")[0].lower()
            if section not in Settings.model_fields:
                near = nearest(section, Settings.model_fields)
                raise ConfigError(f'environment variable {name}: there is no section "{section}"{near}')


def _explain(error: ValidationError) -> str:
    """Every problem of a config file, one a line, each with its key and, for unknown keys, the nearest valid one."""
    problems = []
    for detail in error.errors():
        place = ".".join(str(part) for part in detail["loc"] if part != "[key]")
        if detail["type"] == "extra_forbidden":
            key = str(detail["loc"][-1])
            problems.append(f'unknown key "{place}"{nearest(key, _keys_at(detail["loc"][:-1]))}')
        else:
            text = detail["msg"].removeprefix("Value error, ")
            problems.append(f"{place}: {text}" if place else text)
    return "; ".join(problems)


def _keys_at(loc: tuple[int | str, ...]) -> Iterable[str]:
    """The valid keys of the section at `loc`, for near names."""
    model: Any = Settings
    for part in loc:
        if get_origin(model) is dict:
            model = get_args(model)[-1]  # `part` is a name of the user's own
            continue
        fields = getattr(model, "model_fields", {})
        if part not in fields:
            return ()
        model = fields[part].annotation
    return getattr(model, "model_fields", {}).keys()


def nearest(name: str, valid: Iterable[str]) -> str:
    """`; did you mean "x"?` for the nearest valid name, or the empty string."""
    near = difflib.get_close_matches(name, list(valid), n=1, cutoff=0.6)
    return f'; did you mean "{near[0]}"?' if near else ""


def pick(kind: str, name: str, valid: Mapping[str, T], of: str = "") -> T:
    """Look a name up, answering a typo with the nearest valid name.

    Args:
        kind: what it is a name of, for the message (`task`, `data case`).
        name: as the user gave it.
        valid: what there is.
        of: whose, for the message (`task "summarize"`).

    Raises:
        UnknownName: not there; lists what is.
    """
    if name in valid:
        return valid[name]
    whose = f" of {of}" if of else ""
    raise UnknownName(f'there is no {kind} "{name}"{whose}{nearest(name, valid)} (there is: {", ".join(valid)})')
