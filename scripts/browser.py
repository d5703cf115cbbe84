"""Find Chromium for the tests that look at pages; where it is missing, install it from the system's packages.

Only as root on a system with apt-get: in CI, in a container. Elsewhere those tests are skipped, and this says so.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
PACKAGES = ("chromium-headless-shell", "chromium")
"""Debian's; the first is the browser without its windows: a third of the packages, 15 seconds."""
INSTALL_SECONDS = 300


def find() -> str | None:
    """The path of a browser, or None."""
    return next((path for path in map(shutil.which, NAMES) if path), None)


def install() -> bool:
    """Install the first package that there is; returns whether that went well."""
    environ = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    quiet = ("apt-get", "-qq", "-o", "Dpkg::Use-Pty=0")

    def apt(*arguments: str) -> bool:
        done = subprocess.run(
            [*quiet, *arguments], env=environ, stdout=subprocess.DEVNULL, timeout=INSTALL_SECONDS, check=False
        )
        return done.returncode == 0

    return apt("update") and any(apt("install", "--yes", "--no-install-recommends", name) for name in PACKAGES)


def may_install() -> bool:
    """Whether it can be installed without asking anybody."""
    return hasattr(os, "geteuid") and os.geteuid() == 0 and shutil.which("apt-get") is not None


def main() -> int:
    """Return 1 when CI has no browser and none can be had; elsewhere its tests are skipped."""
    if find() or (may_install() and install() and find()):
        return 0
    sys.stderr.write(f"no browser ({', '.join(NAMES)}): the tests that look at pages are skipped; CI needs one\n")
    return 1 if os.environ.get("CI") else 0


if __name__ == "__main__":
    sys.exit(main())
