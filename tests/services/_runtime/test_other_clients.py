"""The README's requests by a client that is not ours: buf, which learns the API by reflection as grpcurl does."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from eoforge.client import RetrievalClient
from tests.services.conftest import server_for
from tests.services.retrieval.fixtures import RetrievalFixture
from tests.services.support import running

ROOT = Path(__file__).parents[3]
GRPCURL = re.compile(r"grpcurl -plaintext -d '(?P<request>.+)' \\\n\s+127\.0\.0\.1:8081 (?P<method>\S+)")


@pytest.fixture(scope="module")
def readme_request() -> tuple[str, str]:
    found = GRPCURL.search((ROOT / "services/retrieval/README.md").read_text())
    assert found is not None, "services/retrieval/README.md shows no grpcurl request"
    return found["request"], found["method"]


def ask(target: str, method: str, request: str) -> subprocess.CompletedProcess[str]:
    buf = [Path(sys.executable).parent / "buf", "curl", "--protocol", "grpc", "--http2-prior-knowledge"]
    return subprocess.run([*buf, "-d", request, f"http://{target}/{method}"], capture_output=True, text=True)


def test_the_grpcurl_request_of_the_readme_is_answered(
    archive: RetrievalFixture, readme_request: tuple[str, str]
) -> None:
    template, method = readme_request
    patch_id = archive.pairs[0].meta.patch_id
    with running(server_for(archive)) as server, RetrievalClient(server.target) as client:
        done = ask(server.target, method, template.replace("'$PATCH_ID'", patch_id))
        assert done.returncode == 0, done.stderr
        hits = [(h.get("distance", 0), h["patch"]["patchId"]) for h in json.loads(done.stdout)["hits"]]
        ours = client.search(patch_id=patch_id, source="s1", target="s2", k=5)
        assert hits == [(h.distance, h.patch_id) for h in ours]
        refused = ask(server.target, method, template.replace("'$PATCH_ID'", "nowhere"))
        assert refused.returncode != 0
        assert "nowhere" in refused.stderr
