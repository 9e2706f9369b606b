"""The web console in its pod: what people outside the cluster see through its Service."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pyarrow.parquet as pq
from PIL import Image

from services.console.render import ASSETS
from tests.cluster import release
from tests.cluster.kubectl import Object
from tests.cluster.pods.callers import cli, hits_of, python
from tests.cluster.pods.trial import BUCKET, GRPC, READY_S, TABLE, Trial
from tests.cluster.release import RELEASE
from tests.console.console_support import csrf_of, fields_of, words_of

SESSION = f"""
from eoforge.methods.anneal.config import Config
from eoforge.methods.anneal.sessions import AnnotationSession
from eoforge.storage.addresses import TableRef
small = Config(
    epochs=1, batch_size=4, size=30, interpolation="bilinear", backbone="tiny", width=8, bits=16, hidden=16,
    bootstrap=4, batch=4, rounds=2, anchors=16, neighbours=4, strangers=4,
)
print(AnnotationSession.create("{BUCKET}/annotations/trial", TableRef("{TABLE}"), small).address)
"""
"""A session without a batch, whose batches are chosen within seconds."""


@contextmanager
def changed(trial: Trial, console: Object) -> Iterator[None]:
    """The release with other values of the console while the block runs."""
    trial.console = console
    try:
        trial.upgrade(kserve=True)
        yield
    finally:
        trial.console = {}
        trial.upgrade(kserve=True)


def test_a_search_gives_the_hits_of_the_service(filled: Trial) -> None:
    page = filled.search_page()
    assert page.status_code == 200, words_of(page)
    expected = [hit["patch_id"] for hit in filled.search()]
    assert hits_of(page) == expected
    with filled.browser() as browser:
        picture = browser.get(f"/thumbnail/s2/{expected[0]}")
        assert Image.open(io.BytesIO(picture.content)).format == "PNG"
        asked = {"patch_id": filled.patch, "k": "5", "format": "parquet"}
        table = pq.read_table(io.BytesIO(browser.get("/search/export", params=asked).content))
        assert table["patch_id"].to_pylist() == expected
        assert [name for name in ASSETS if browser.get(f"/static/vendor/{name}").status_code != 200] == []
        archive = browser.get("/archive")
        assert archive.status_code == 200, words_of(archive)


def test_an_image_is_searched(filled: Trial, tmp_path: Path) -> None:
    """The pod reads it with GDAL from its /tmp, under a root file system that is read-only."""
    cli({}, "synth", str(tmp_path), "--patches", "1")
    (folder,) = {path.parent for path in tmp_path.rglob("*_B02.tif")}
    paths = [path for path in folder.glob("*.tif") if re.search(r"_B\w\w\.tif$", path.name)]
    files = [("files", (path.name, path.read_bytes(), "image/tiff")) for path in paths]
    with filled.browser() as browser:
        form = csrf_of(browser.get("/search")) | {"to": "s1"}
        answer = browser.post("/search/upload", data=form, files=files)
        assert answer.status_code == 303, words_of(answer)
        assert len(hits_of(browser.get(answer.headers["location"]))) == 20


def test_batches_of_pairs_are_chosen_in_the_pod(filled: Trial) -> None:
    python(filled.store(), SESSION)
    with filled.browser() as browser:

        def shown() -> httpx.Response:
            """Page with a pair, once there is one."""
            page = browser.get("/annotate/trial")
            assert page.status_code == 200, words_of(page)
            assert "could not be chosen" not in page.text
            return page

        for number in range(5):
            release.wait_until(lambda: 'id="answer"' in shown().text, f"pair {number}", READY_S)
            form = fields_of(shown(), "answer") | {"answer": "dissimilar" if number % 2 else "similar", "seconds": "1"}
            done = browser.post("/annotate/trial/answer", data=form, follow_redirects=True)
            assert done.status_code == 200, words_of(done)
        assert "Batch 2," in words_of(shown()), "the model of the first answers chose more pairs"


def test_without_a_token_the_page_says_that_the_service_refused(filled: Trial) -> None:
    with changed(filled, {"extraEnv": []}):
        page = filled.search_page()
        assert page.status_code == 401, words_of(page)
        assert hits_of(page) == []
    assert len(hits_of(filled.search_page())) == 5


def test_the_console_reaches_retrieval_and_the_store_alone(filled: Trial) -> None:
    (pod,) = filled.pods("console")
    api = filled.node.cluster.address.removeprefix("https://")
    store = filled.store()["AWS_ENDPOINT_URL"].removeprefix("http://")
    retrieval, compression = (f"{RELEASE}-{service}-api:{GRPC}" for service in ("retrieval", "compression"))
    expected = {retrieval: True, store: True, compression: False, api: False}
    assert filled.connects(pod, *expected) == expected
