"""One template and one stage for all simulations of a test process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.simulation.campaign import Players
from tests.simulation.stage import set_up
from tests.simulation.world import Template, in_memory_folder


@pytest.fixture(scope="session")
def _template(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Template]:
    import tempfile

    with tempfile.TemporaryDirectory(dir=in_memory_folder(), prefix="simulation-") as folder:
        template = Template(Path(folder))
        yield template
        template.close()


@pytest.fixture
def here(_template: Template) -> Iterator[Players]:
    """Whatever is put in the place of the outside world is taken away again after each test."""
    with set_up() as stage:
        yield Players(stage, _template)
