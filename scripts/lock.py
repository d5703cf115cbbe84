"""Write requirements.lock from pyproject.toml, or check (--check) that it still fits: hashes, no addresses."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "requirements.lock"


def compile_lock(target: Path) -> None:
    """Resolve into `target`, keeping the pins that are there."""
    subprocess.run(
        [
            *(sys.executable, "-m", "uv", "pip", "compile", "pyproject.toml", "--extra", "dev"),
            *("--universal", "--python-version", "3.11", "--generate-hashes"),
            *("--no-header", "--no-annotate", "--quiet", "--output-file", str(target)),
        ],
        cwd=ROOT,
        check=True,
        stdout=subprocess.DEVNULL,
    )


def check() -> str | None:
    """What is wrong with the lock file, or None."""
    text = LOCK.read_text()
    if re.search(r"https?://|--(extra-)?index-url|--find-links", text):
        return "requirements.lock names an address; write it again with: make lock"
    with tempfile.TemporaryDirectory() as folder:
        fresh = Path(folder) / "requirements.lock"
        shutil.copy(LOCK, fresh)
        compile_lock(fresh)
        if fresh.read_text() != text:
            return "requirements.lock does not fit pyproject.toml; write it again with: make lock"
    return None


def main() -> int:
    """Return 0 when the lock is right, 1 when `--check` finds it is not."""
    if "--check" not in sys.argv[1:]:
        compile_lock(LOCK)
        return 0
    problem = check()
    sys.stderr.write(f"{problem}\n" if problem else "")
    return 1 if problem else 0


if __name__ == "__main__":
    sys.exit(main())
