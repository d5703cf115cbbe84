"""scripts/browser.py where there is no browser and none can be installed: CI fails, at home its tests are skipped."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY


@pytest.mark.parametrize(("environ", "code"), [({"CI": "true"}, 1), ({}, 0)])
def test_no_browser_fails_in_ci_only(tmp_path: Path, environ: dict[str, str], code: int) -> None:
    script = str(REPOSITORY / "scripts" / "browser.py")
    nothing = {"PATH": str(tmp_path), **environ}
    done = subprocess.run([sys.executable, script], env=nothing, capture_output=True, text=True, check=False)
    assert done.returncode == code
    assert "no browser (chromium-headless-shell, chromium" in done.stderr
