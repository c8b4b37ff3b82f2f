"""Chromium without a window and without a network."""

import shutil
import subprocess
from pathlib import Path

import pytest

CHROMIUM = next(filter(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome")), None)
OFFLINE = ("--host-resolver-rules=MAP * ~NOTFOUND", "--disable-background-networking", "--no-first-run")


def show(page: Path, size: str = "1280,800") -> str:
    """Returns the HTML that a page has become after its scripts have run, in a window of this size."""
    if CHROMIUM is None:
        pytest.skip("no Chromium here: apt-get install chromium")
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", *OFFLINE, f"--window-size={size}"]
    command += ["--virtual-time-budget=10000", "--dump-dom", page.as_uri()]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    return result.stdout
