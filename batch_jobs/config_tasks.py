"""The tasks of config.json: what is asked of the model, about which tables, and who has to accept the answers."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from batch_jobs.models import GroupMode

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")]
FileName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*\.(py|yaml|yml)$")]


class Strict(BaseModel):
    """A section whose keys are known."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Clean(Strict):
    """What is done to the cells that a prompt sees."""

    unescape: bool = False
    collapse: bool = False
    trim: bool = False
    null_tokens: bool | tuple[str, ...] = False


class Context(Strict):
    """How a row is shown where a prompt says {context}."""

    columns: Literal["mandatory", "all"] = "mandatory"
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    order: Literal["given", "file", "alphabetical"] = "given"
    template: Annotated[str, StringConstraints(pattern=r"\{value\}")] = "{number}: {name}: {value}"
    max_cell_chars: int | None = Field(default=None, gt=0)
    max_chars: int | None = Field(default=None, gt=0)


class Grouping(Strict):
    """Which rows belong together, and what of a group a prompt shows."""

    mode: GroupMode = GroupMode.NONE
    columns: tuple[str, ...] = ()
    max_rows_per_group: int | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _has_columns(self) -> Grouping:
        if self.mode is not GroupMode.NONE and not self.columns:
            raise ValueError(f'mode "{self.mode}" needs "columns": the rows that are equal in these are a group')
        if len(set(self.columns)) < len(self.columns):
            raise ValueError('"columns" names one of them twice')
        return self


class DataCase(Strict):
    """One kind of input table of a task."""

    description: str
    mandatory_columns: dict[str, str] = Field(min_length=1)
    identity_columns: tuple[str, ...] = ()
    clean: Clean = Clean()
    context: Context = Context()
    grouping: Grouping = Grouping()

    @property
    def identity(self) -> tuple[str, ...]:
        """The columns whose values name a row's folder in the store."""
        return self.identity_columns or tuple(self.mandatory_columns)


class JudgeEntry(Strict):
    """Who judges a task's answers; a provider or model that is left out is the one that answers."""

    enabled: bool = True
    prompt: FileName | None = None
    provider: str | None = None
    model: str | None = None


class Task(Strict):
    """One kind of work: what is asked of the model, and which columns its answer becomes."""

    description: str
    prompt: FileName
    output_columns: dict[str, str] = Field(min_length=1)
    data_cases: dict[Name, DataCase] = Field(min_length=1)
    expected_output_tokens: int = Field(default=120, gt=0)
    rows_per_request: int = Field(default=1, ge=1, le=100)
    repairs: int = Field(default=2, ge=0, le=10)
    judge: JudgeEntry | None = None
    edition: str = ""
