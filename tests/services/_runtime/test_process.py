"""The service as a process of its own, with a trained model in it: environment, SIGTERM, exit codes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from eoforge.client import RemoteError, RetrievalClient
from eoforge.index.build import build_index
from eoforge.index.catalog import IndexSnapshot
from eoforge.methods import get_method
from eoforge.storage.addresses import TableRef
from scripts.settings_table import table
from services._runtime.errors import CATALOGUE
from tests.services.retrieval.fixtures import RetrievalFixture, bands_of
from tests.services.support import RETRIEVAL_REASONS

READY_S = 120.0


def start(**environment: str) -> subprocess.Popen[str]:
    settings = {f"EOFORGE_{k.upper()}": v for k, v in environment.items()}
    return subprocess.Popen(
        [sys.executable, "-m", "services.retrieval"],
        env={**os.environ, **settings},
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[3],
    )


def ports(process: subprocess.Popen[str]) -> dict[str, Any]:
    """The line in which the service says where it listens."""
    assert process.stderr is not None
    end = time.monotonic() + READY_S
    for line in process.stderr:
        assert time.monotonic() < end, "not ready in time"
        if '"event": "serving"' in line:
            return dict(json.loads(line))
    raise AssertionError(f"the service ended with {process.wait()}")


@pytest.mark.slow
def test_a_trained_model_is_served_until_sigterm(archive: RetrievalFixture, tmp_path: Path) -> None:
    method = get_method("ss_cm_rsir")
    config = method.config("tiny", {"epochs": "1", "batch_size": "4"})
    data = TableRef(archive.patches)
    bundle = method.train(data, str(tmp_path / "runs"), config)
    codes = str(tmp_path / "codes.lance")
    build_index(bundle.uri, data, codes, method.load(bundle))
    process = start(codes_uri=codes, port="0", rest_port="0", drain_notice_seconds="0.1")
    try:
        where = ports(process)
        with RetrievalClient(f"127.0.0.1:{where['port']}") as client:
            snapshot = IndexSnapshot.open(TableRef(codes))
            pair = archive.pairs[0]
            for source, target in (("s1", "s2"), ("s2", "s1")):
                code = snapshot.code_of(pair.meta.patch_id, source)
                distances, rows, *_ = snapshot.search(target, code[None], 5)
                ids = snapshot.metadata(rows[0]).column("patch_id").to_pylist()
                expected = list(zip(distances[0].tolist(), ids, strict=True))
                hits = client.search(patch_id=pair.meta.patch_id, source=source, target=target, k=5)
                assert [(h.distance, h.patch_id) for h in hits] == expected
                (encoded,) = client.encode([bands_of(pair, source)], source)
                assert encoded.code == code.tobytes()
            process.send_signal(signal.SIGTERM)
            assert process.wait(READY_S) == 0
            with pytest.raises(RemoteError):
                RetrievalClient(f"127.0.0.1:{where['port']}", attempts=1, timeout=2).indexes()
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize(
    ("environment", "code", "message"),
    [
        ({}, 2, "EOFORGE_CODES_URI"),
        ({"codes_uri": "x", "host": "0.0.0.0"}, 2, "refusing to listen"),
        ({"codes_uri": "x", "max_images": "99", "encode_queue": "9"}, 2, "EOFORGE_ENCODE_QUEUE"),
    ],
)
def test_it_does_not_start_without_reason(environment: dict[str, str], code: int, message: str) -> None:
    process = start(**environment)
    _, errors = process.communicate(timeout=READY_S)
    assert process.returncode == code
    assert message in errors
    assert "Traceback" not in errors


def test_the_readme_lists_every_setting_and_every_error() -> None:
    readme = (Path(__file__).parents[3] / "services/retrieval/README.md").read_text()
    assert table("services.retrieval.settings") in readme, "run python -m scripts.settings_table and paste the result"
    for reason in sorted(RETRIEVAL_REASONS):
        entry = CATALOGUE[reason]
        assert f"| {reason} | {entry.status.name} | {entry.http} |" in readme
