"""README, API reference and settings agree with the code."""

from __future__ import annotations

import itertools
from pathlib import Path

from scripts.settings_table import table
from services._runtime.errors import CATALOGUE

ROOT = Path(__file__).parents[3]
PROTO = ROOT / "proto/eoforge/api/compression/v1/compression.proto"


def test_the_readme_lists_every_setting_and_every_declared_error() -> None:
    readme = (ROOT / "services/compression/README.md").read_text()
    assert table("services.compression.settings") in readme, "run python -m scripts.settings_table and paste the result"
    head = PROTO.read_text().split("service ")[0]
    declared = {reason for reason in CATALOGUE if reason in head}
    listed = {
        reason for reason, entry in CATALOGUE.items() if f"| {reason} | {entry.status.name} | {entry.http} |" in readme
    }
    assert declared == listed
    assert {"NOT_FOUND", "DATA_REFUSED", "OVERLOADED"} < declared


def test_every_message_field_and_call_is_described() -> None:
    declares = ("message ", "enum ", "rpc ", "oneof ", "service ")
    silent = [
        line.strip()
        for before, line in itertools.pairwise(PROTO.read_text().splitlines())
        if (line.strip().startswith(declares) or (line.rstrip().endswith(";") and "=" in line and "syntax" not in line))
        and not before.strip().startswith("//")
    ]
    assert silent == []
