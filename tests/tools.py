"""Programs that a test needs on the machine. Where one is missing the test is skipped; under CI it fails instead.

A proof that is silently left out of CI is no proof: `scripts/setup --dev` installs all of them.
"""

import os
import shutil
from typing import Final, NoReturn

import pytest

PATH: Final = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin"))
"""Where programs are looked for: Debian keeps some where only root's PATH leads."""


def needs(*programs: str) -> None:
    """Skips the test, or fails it under CI, unless all of these are installed."""
    missing = [program for program in programs if shutil.which(program, path=PATH) is None]
    if missing:
        cannot_run(f"{' and '.join(missing)} not installed; scripts/setup --dev installs what tests need")


def cannot_run(reason: str) -> NoReturn:
    """Skips the test, or fails it under CI (the environment variable CI is set)."""
    if os.environ.get("CI"):
        pytest.fail(f"cannot be tested here, and CI must: {reason}", pytrace=False)
    pytest.skip(reason)
