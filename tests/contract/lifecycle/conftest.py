"""A planned job of nine rows, copied fresh for each test, with a provider in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from batch_jobs.models import Mode
from tests.contract.lifecycle.kit import World, make_template, world_from

MakeWorld = Callable[..., World]


@pytest.fixture(scope="session")
def _template(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("template")
    return folder, make_template(folder)


@pytest.fixture
def make_world(_template: tuple[Path, str], tmp_path: Path) -> Iterator[MakeWorld]:
    made: list[World] = []

    def make(mode: Mode = Mode.BATCH, *, approved: bool = True, **sections: Any) -> World:
        made.append(world_from(*_template, tmp_path / f"world-{len(made)}", mode, approved, **sections))
        return made[-1]

    yield make
    for world in made:
        world.project.close()


@pytest.fixture
def world(make_world: MakeWorld) -> World:
    """A job in batch mode, approved, with the shipped settings."""
    return make_world()
