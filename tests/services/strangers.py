"""What a stranger may send to make a process open something: traps that tell, and files and texts that lead to them."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

GRID = (
    'PROJCS["x",GEOGCS["x",DATUM["x",SPHEROID["x",6378388,297],EXTENSION["PROJ4_GRIDS","{}"]],PRIMEM["Greenwich",0],'
    'UNIT["degree",0.0174532925199433]],PROJECTION["Transverse_Mercator"],PARAMETER["latitude_of_origin",0],'
    'PARAMETER["central_meridian",15],PARAMETER["scale_factor",0.9996],PARAMETER["false_easting",500000],'
    'PARAMETER["false_northing",0],UNIT["metre",1]]'
)


@dataclass(frozen=True)
class Listener:
    """A port of this machine that takes connections and stays silent."""

    socket: socket.socket

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.socket.getsockname()[1]}"

    def connections(self) -> int:
        """Connections since the last question."""
        found = 0
        while True:
            try:
                self.socket.accept()[0].close()
                found += 1
            except BlockingIOError:
                return found


@contextmanager
def listening() -> Iterator[Listener]:
    with socket.socket() as sink:
        sink.bind(("127.0.0.1", 0))
        sink.listen(64)
        sink.setblocking(False)
        yield Listener(sink)


@dataclass(frozen=True)
class Pipe:
    """A named pipe that notes that somebody opened it to read; who did reads its end at once and does not hang."""

    path: Path
    mark: Path

    @property
    def opened(self) -> bool:
        return self.mark.exists()


@contextmanager
def pipe(path: Path) -> Iterator[Pipe]:
    os.mkfifo(path)
    mark = path.with_name(f"{path.name}.opened")
    script = 'while : > "$0"; do : > "$1"; done'  # waits in open() until there is a reader
    with subprocess.Popen(["sh", "-c", script, str(path), str(mark)]) as watcher:
        try:
            yield Pipe(path, mark)
        finally:
            watcher.kill()


def texts(listener: Listener, trap: Pipe) -> dict[str, str]:
    """CRS texts that lead GDAL or PROJ to the traps."""
    return {
        "a URL": f"http://{listener.address}/crs",
        "a path of GDAL": f"/vsicurl/http://{listener.address}/crs",
        "a bucket": "/vsis3/bucket/crs",
        "a file": str(trap.path),
        "an init file": f"+init={trap.path}:1",
        "a grid of a PROJ string": f"+proj=utm +zone=33 +ellps=intl +nadgrids={trap.path} +type=crs",
        "a grid of WKT": GRID.format(trap.path),
    }


def tiff(pixels: bytes, side: int, *, kind: int = 1, bits: int = 16, text: str = "", wide: bool = False) -> bytes:
    """A GeoTIFF of one band whose GeoTIFF keys hold ``text``.

    Args:
        pixels: Samples.
        side: Rows and columns.
        kind: SampleFormat.
        bits: Of a sample.
        text: ASCII parameters; the first is the citation of the projection.
        wide: Reservation the text as 16-bit numbers, which libtiff narrows to bytes.
    """
    params = f"{text}|".encode() + b"\0"
    keys = struct.pack("<16H", 1, 1, 0, 3, 1024, 0, 1, 32767, 1025, 0, 1, 1, 3073, 34737, len(params) - 1, 0)
    held = struct.pack(f"<{len(params)}H", *params) if wide else params
    fields = [(256, side), (257, side), (258, bits), (259, 1), (262, 1), (273, None), (277, 1), (278, side)]
    fields += [(279, len(pixels)), (339, kind)]
    blobs = [
        (33550, 12, 3, struct.pack("<3d", 10, 10, 0)),
        (33922, 12, 6, struct.pack("<6d", 0, 0, 0, 399960, 5400000, 0)),
        (34735, 3, len(keys) // 2, keys),
        (34737, 3 if wide else 2, len(params), held),
    ]
    start = 8 + 2 + 12 * (len(fields) + len(blobs)) + 4
    places, data = [], b""
    for *_, blob in blobs:
        places.append(start + len(data))
        data += blob + bytes(len(blob) % 2)
    out = b"II*\0" + struct.pack("<IH", 8, len(fields) + len(blobs))
    for tag, value in fields:
        out += struct.pack("<HHII", tag, 4, 1, start + len(data) if value is None else value)
    for (tag, type_, count, _), place in zip(blobs, places, strict=True):
        out += struct.pack("<HHII", tag, type_, count, place)
    return out + struct.pack("<I", 0) + data + pixels


def esri(trap: Pipe) -> str:
    """GeoTIFF text that GDAL parses as WKT while it opens the file."""
    return f"ESRI PE String = {GRID.format(trap.path)}"
