"""The API's sources, their lint and the committed code agree."""

from __future__ import annotations

import importlib
import itertools
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from google.api import field_behavior_pb2
from google.api.field_behavior_pb2 import field_behavior

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
    proto.write_text(proto.read_text().replace("string page_token = 9", "string page_token = 19"))
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


def test_nothing_breaks_what_the_last_release_promised(tmp_path: Path) -> None:
    buf = Path(sys.executable).parent / "buf"
    released = ROOT / "proto/released.binpb"

    def breaks(sources: Path) -> str:
        done = subprocess.run(
            [buf, "breaking", "--against", released], cwd=sources, capture_output=True, text=True, check=False
        )
        return "" if done.returncode == 0 else done.stdout + done.stderr

    assert breaks(ROOT / "proto") == ""
    copied = tmp_path / "proto"
    shutil.copytree(ROOT / "proto", copied)
    proto = copied / "eoforge/api/retrieval/v1/retrieval.proto"
    proto.write_text(proto.read_text().replace("string page_token = 9", "string page_token = 19"))
    assert "page_token" in breaks(copied)


def test_every_field_of_a_request_says_whether_it_is_required() -> None:
    for module in ("retrieval", "compression", "federation"):
        generated = importlib.import_module(f"eoforge.api.{module}.v1.{module}_pb2").DESCRIPTOR
        for message in generated.message_types_by_name.values():
            silent = [f.name for f in message.fields if not f.GetOptions().Extensions[field_behavior]]
            assert not message.name.endswith("Request") or silent == [], f"{message.full_name}: {silent}"


def test_the_vendored_file_is_that_of_the_package() -> None:
    packaged = Path(field_behavior_pb2.__file__).with_name("field_behavior.proto")
    assert (ROOT / "proto/vendor/google/api/field_behavior.proto").read_text() == packaged.read_text()


def test_the_reasons_in_the_reference_are_in_the_catalogue() -> None:
    from services._runtime.errors import CATALOGUE

    head = (ROOT / "proto/eoforge/api/retrieval/v1/retrieval.proto").read_text().split("service ")[0]
    named = {word for word in CATALOGUE if word in head}
    assert named == RETRIEVAL_REASONS - {"CONFLICT", "BUNDLE_REFUSED", "UNIMPLEMENTED"}


def test_the_package_is_versioned() -> None:
    assert pb.DESCRIPTOR.package == "eoforge.api.retrieval.v1"
