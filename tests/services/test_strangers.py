"""Nothing that a stranger sends makes a process of ours open a file, a pipe or a connection.

Services and commands run as processes of their own: where GDAL waits it holds Python's interpreter lock, and a test
in the same process would wait with it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from rasterio.io import MemoryFile

from eoforge.api.compression.v1 import compression_pb2 as pb
from eoforge.api.compression.v1 import compression_pb2_grpc
from eoforge.api.retrieval.v1 import retrieval_pb2, retrieval_pb2_grpc
from eoforge.codec.coder import Coder, MaxError, Rate
from eoforge.codec.container import pack, unpack
from eoforge.codec.raster import Georeference, Raster
from eoforge.data.archives.geotiff import read_geotiff
from eoforge.data.archives.layout import path_of
from eoforge.errors import DataRefused
from eoforge.geo.gdal import DRIVERS, open_geotiff
from tests.data.archives.archive_files import make_pair, write_archive
from tests.services._runtime.test_process import ports
from tests.services.conftest import server_for
from tests.services.retrieval.fixtures import RetrievalFixture
from tests.services.strangers import Listener, Pipe, esri, listening, pipe, texts, tiff
from tests.services.support import details, running

ROOT = Path(__file__).parents[2]
PATIENCE_S = 60.0
PIXELS = np.ones((120, 120), "<u2")
LOSSLESS = Rate(max_error=MaxError(0, 0.0))
TRANSFORM = (10.0, 0.0, 399_960.0, 0.0, -10.0, 5_400_000.0)
VECTORS = (
    "a URL",
    "a path of GDAL",
    "a bucket",
    "a file",
    "an init file",
    "a grid of a PROJ string",
    "a grid of WKT",
)


@pytest.fixture
def listener() -> Iterator[Listener]:
    with listening() as sink:
        yield sink


@pytest.fixture
def trap(tmp_path: Path) -> Iterator[Pipe]:
    with pipe(tmp_path / "trap") as made:
        yield made


@pytest.fixture(scope="module")
def stub() -> Iterator[Any]:
    """The compression service without a model, as a process of its own."""
    environment = {"EOFORGE_PORT": "0", "EOFORGE_REST_PORT": "0"}
    line = [sys.executable, "-m", "services.compression"]
    with subprocess.Popen(line, env={**os.environ, **environment}, stderr=subprocess.PIPE, text=True, cwd=ROOT) as p:
        try:
            with grpc.insecure_channel(f"127.0.0.1:{ports(p)['port']}") as channel:
                yield compression_pb2_grpc.CompressionServiceStub(channel)
        finally:
            p.kill()


def stream_at(crs: str) -> bytes:
    """A stream that decodes, whose header holds any text as its CRS: what an attacker can write."""
    made = unpack(Coder().compress([Raster({"B02": PIXELS})], LOSSLESS)[0])
    place = Georeference("EPSG:32633", TRANSFORM)
    object.__setattr__(place, "crs", crs)
    return pack(replace(made.header, georeference=place), bytes(made.payload))


def command(*args: object) -> subprocess.CompletedProcess[str]:
    """The ``eoforge`` command in a process of its own, which must not hang."""
    line = [sys.executable, "-m", "eoforge.cli", *map(str, args), "--json"]
    return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S)


def refusal(call: Any, request: Any) -> tuple[str, str]:
    with pytest.raises(grpc.RpcError) as error:
        call(request, timeout=PATIENCE_S)
    return details(error.value)["reason"], error.value.details()


def hostile_raster(crs: str) -> pb.Raster:
    band = pb.Band(name="B02", height=120, width=120, samples=PIXELS.tobytes())
    place = pb.Georeference(crs=crs, transform=TRANSFORM)
    return pb.Raster(bands=pb.BandRaster(bands=[band], georeference=place))


CALLS = {
    "Compress": lambda crs: pb.CompressRequest(raster=hostile_raster(crs), rate=pb.Rate(max_error=pb.MaxError())),
    "Decompress": lambda crs: pb.DecompressRequest(stream=stream_at(crs), format=pb.PIXEL_FORMAT_GEOTIFF),
    "Inspect": lambda crs: pb.InspectRequest(stream=stream_at(crs)),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("vector", VECTORS)
def test_a_service_opens_nothing_that_a_crs_names(
    stub: Any, listener: Listener, trap: Pipe, vector: str, call: str
) -> None:
    reason, message = refusal(getattr(stub, call), CALLS[call](texts(listener, trap)[vector]))
    assert (listener.connections(), trap.opened) == (0, False)
    assert reason == "DATA_REFUSED"
    assert "expected a CRS as EPSG:<code>" in message


def test_the_command_opens_nothing_that_a_stream_names(listener: Listener, trap: Pipe, tmp_path: Path) -> None:
    streams = []
    for number, crs in enumerate(texts(listener, trap).values()):
        streams.append(tmp_path / f"{number}.eofc")
        streams[-1].write_bytes(stream_at(crs))
    script = (
        "import sys; from eoforge.cli import main\n"
        "print([main(['decompress', name, name + '.tif', '--json']) for name in sys.argv[1:]])"
    )
    line = [sys.executable, "-c", script, *map(str, streams)]
    ended = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S)
    assert (listener.connections(), trap.opened) == (0, False)
    assert ended.stdout.splitlines()[-1] == str([3] * len(streams)), ended.stderr
    assert ended.stderr.count("expected a CRS as EPSG:<code>") == len(streams)
    assert not list(tmp_path.glob("*.tif"))


@pytest.mark.parametrize("wide", [False, True])
def test_no_reader_of_geotiffs_opens_a_grid(trap: Pipe, wide: bool) -> None:
    hostile = tiff(PIXELS.tobytes(), 120, text=esri(trap), wide=wide)
    with pytest.raises(DataRefused):
        read_geotiff(hostile)
    with pytest.raises(DataRefused), open_geotiff(hostile):
        pass
    assert not trap.opened


def test_an_image_that_is_searched_for_opens_nothing(archive: RetrievalFixture, trap: Pipe, listener: Listener) -> None:
    hostile = tiff(PIXELS.tobytes(), 120, text=esri(trap))
    files = [retrieval_pb2.GeoTiffFile(content=hostile, bands=["B02"])]
    image = retrieval_pb2.GeoTiffImage(modality=retrieval_pb2.MODALITY_S2, files=files)
    request = retrieval_pb2.SearchRequest(geotiff=image, target_modality=retrieval_pb2.MODALITY_S1)
    with running(server_for(archive)) as run, grpc.insecure_channel(run.target) as channel:
        reason, _ = refusal(retrieval_pb2_grpc.RetrievalServiceStub(channel).Search, request)
    assert (reason, listener.connections(), trap.opened) == ("DATA_REFUSED", 0, False)


def test_compressing_a_geotiff_opens_nothing(stub: Any, trap: Pipe) -> None:
    file = pb.GeoTiffFile(content=tiff(PIXELS.tobytes(), 120, text=esri(trap)), bands=["B02"])
    raster = pb.Raster(geotiff=pb.GeoTiffRaster(files=[file]))
    request = pb.CompressRequest(raster=raster, rate=pb.Rate(max_error=pb.MaxError()))
    assert refusal(stub.Compress, request)[0] == "DATA_REFUSED"
    assert not trap.opened


def test_ingesting_an_archive_opens_nothing(trap: Pipe, tmp_path: Path) -> None:
    pairs = [make_pair(x, 60) for x in (30, 40)]
    archive = write_archive(tmp_path / "archive", pairs)
    (archive / (path_of(pairs[0].meta, "B02") + ".tif")).write_bytes(tiff(PIXELS.tobytes(), 120, text=esri(trap)))
    ended = command("ingest", archive, tmp_path / "patches.lance")
    assert not trap.opened
    assert ended.returncode == 0, ended.stderr
    summary = json.loads(ended.stdout)
    assert (summary["added"], summary["quarantined"]) == (1, 1)


def test_files_beside_a_geotiff_are_not_opened(tmp_path: Path) -> None:
    scene = tmp_path / "scene_B02.tif"
    shape = {"driver": "GTiff", "width": 120, "height": 120, "count": 1, "dtype": "uint16"}
    with MemoryFile() as memory:
        with memory.open(**shape) as sink:
            sink.write(PIXELS[None])
            sink.descriptions = ("B02",)
        scene.write_bytes(bytes(memory.read()))
    with ExitStack() as stack:
        beside = [stack.enter_context(pipe(Path(f"{scene}{end}"))) for end in (".aux.xml", ".ovr")]
        ended = command("compress", scene, tmp_path / "out.eofc", "--max-error", "0")
        assert ended.returncode == 0, ended.stderr
        beside.append(stack.enter_context(pipe(Path(f"{scene}.msk"))))
        refused = command("compress", scene, tmp_path / "masked.eofc", "--max-error", "0")
        assert refused.returncode == 3
        assert "files beside a GeoTIFF are not read" in refused.stderr
        assert not any(trap.opened for trap in beside)


@pytest.mark.parametrize("package", ["services", "pipelines", "eoforge.cli"])
def test_processes_of_ours_have_no_other_drivers_and_no_network(package: str, listener: Listener) -> None:
    script = (
        f"import {package}, json, os, rasterio\n"
        "with rasterio.Env() as env: drivers = sorted(env.drivers())\n"
        "for prefix in ('', '/vsicurl/', '/vsicurl_streaming/'):\n"
        f"    try: rasterio.open(prefix + 'http://{listener.address}/x.tif')\n"
        "    except rasterio.errors.RasterioIOError: pass\n"
        "print(json.dumps([drivers, os.environ['PROJ_NETWORK']]))\n"
    )
    made = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S)
    assert listener.connections() == 0
    assert json.loads(made.stdout) == [list(DRIVERS), "OFF"], made.stderr
