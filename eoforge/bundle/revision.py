"""Revision of the code that trained a model."""

from __future__ import annotations

import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


@cache
def code_revision() -> str:
    """Revision of the running code: the Git commit (``-dirty`` with uncommitted changes), else the package version."""
    root = Path(__file__).resolve().parents[2]
    if (root / ".git").exists():
        command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        try:
            return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.strip()
        except (OSError, subprocess.SubprocessError):
            pass  # no git, or a checkout that git refuses: the version identifies the code
    try:
        return f"eoforge-{version('eoforge')}"
    except PackageNotFoundError:
        return "unknown"
