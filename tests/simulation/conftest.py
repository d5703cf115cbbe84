"""One template for all simulations of a test process, and a stage for each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.simulation.campaign import Players, new_template
from tests.simulation.stage import set_up
from tests.simulation.template import Template


@pytest.fixture(scope="session")
def _template() -> Iterator[Template]:
    with new_template() as template:
        yield template


@pytest.fixture
def here(_template: Template) -> Iterator[Players]:
    """Whatever is put in the place of the outside world is taken away again after each test."""
    with set_up() as stage:
        yield Players(stage, _template)
