"""The API's sources, their lint and the committed code agree."""

from __future__ import annotations

import itertools
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from eoforge.api.retrieval.v1 import retrieval_pb2 as pb
from scripts import generate_proto
from tests.services.support import RETRIEVAL_REASONS

ROOT = Path(__file__).parents[3]


def test_committed_code_is_what_the_sources_give() -> None:
    assert generate_proto.differences() == []


def test_the_check_notices_a_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sources = tmp_path / "proto"
    shutil.copytree(ROOT / "proto", sources)
    proto = sources / "eoforge/api/retrieval/v1/retrieval.proto"
    proto.write_text(proto.read_text().replace("string page_token = 9;", "string page_token = 19;"))
    monkeypatch.setattr(generate_proto, "SOURCES", sources)
    assert "eoforge/api/retrieval/v1/retrieval_pb2.py" in generate_proto.differences()


def test_every_message_field_and_call_is_described() -> None:
    lines = (ROOT / "proto/eoforge/api/retrieval/v1/retrieval.proto").read_text().splitlines()
    declares = ("message ", "enum ", "rpc ", "oneof ", "service ")
    silent = [
        line.strip()
        for before, line in itertools.pairwise(lines)
        if (line.strip().startswith(declares) or (line.rstrip().endswith(";") and "=" in line and "syntax" not in line))
        and not before.strip().startswith("//")
    ]
    assert silent == []


def test_buf_lint_and_format() -> None:
    buf = Path(sys.executable).parent / "buf"
    for command in (["lint"], ["format", "--diff", "--exit-code"]):
        done = subprocess.run([buf, *command], cwd=ROOT / "proto", capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


def test_the_reasons_in_the_reference_are_in_the_catalogue() -> None:
    from services._runtime.errors import CATALOGUE

    head = (ROOT / "proto/eoforge/api/retrieval/v1/retrieval.proto").read_text().split("service ")[0]
    named = {word for word in CATALOGUE if word in head}
    assert named == RETRIEVAL_REASONS - {"CONFLICT", "BUNDLE_REFUSED", "UNIMPLEMENTED"}


def test_the_package_is_versioned() -> None:
    assert pb.DESCRIPTOR.package == "eoforge.api.retrieval.v1"
