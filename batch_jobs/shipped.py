"""What the package brings along: config.json with providers and prices, prompts, an example.

In an installed package they lie in `batch_jobs/starter/`, in a checkout at its root.
"""

from __future__ import annotations

from pathlib import Path

from batch_jobs.errors import ConfigError

PARTS = ("config.json", "prompt_lib", "examples")


def shipped_folder() -> Path:
    """Find the folder that holds `PARTS`.

    Raises:
        ConfigError: the installation is not whole.
    """
    package = Path(__file__).resolve().parent
    for folder in (package / "starter", package.parent):
        if all((folder / name).exists() for name in PARTS):
            return folder
    raise ConfigError(f"{package}: this installation lacks its starter files; install batch-jobs again")
