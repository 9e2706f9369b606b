"""The hostile set: what one caller, known or not, sends to a service; each case gives the statuses that came back."""

from __future__ import annotations

import base64
import itertools
import json
import os
import socket
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import grpc

from benchmarks.services.attack_services import BARE, BARE_METHOD, OIP, PROBES, SPAWN, Secrets, Served, channel

TIMEOUT_S = 20.0
HALF_S = 6.0
MIB = 1 << 20
LEAST_NICE = 19
MODELS = {
    "retrieval": "eoforge-retrieval-search-s1",
    "compression": "eoforge-compression-decompress-s2",
    "prediction": "eoforge-predict-s1s2",
    "federation": "eoforge-federation-runs",
}
REPEATED = {
    "retrieval": ("/eoforge.api.retrieval.v1.RetrievalService/Encode", b"\x0a\x00"),
    "compression": ("/eoforge.api.compression.v1.CompressionService/Compress", b"\x12\x00"),
    "prediction": (OIP, b"\x2a\x00"),
    "federation": ("/eoforge.api.federation.v1.FederationService/PrepareModel", b"\x0a\x00"),
}
"""A method, and an empty message in a repeated field of its request (of a raster's bands, in Compress)."""
STREAMS = {
    "retrieval": "/eoforge.api.retrieval.v1.RetrievalService/SearchStream",
    "compression": "/eoforge.api.compression.v1.CompressionService/DecompressStream",
    "federation": "/eoforge.api.federation.v1.FederationService/PutModel",
}


@dataclass(frozen=True)
class Attack:
    """Where an attack goes, by whom, and with which prepared bytes."""

    kind: str
    target: str
    rest: int
    files: Secrets
    payload: bytes
    dear: bytes

    def calls(self, method: str, body: bytes, count: int, *, known: bool = True, zipped: bool = False) -> Counter[str]:
        """Unary calls at the same time."""
        compression = grpc.Compression.Gzip if zipped else None
        with channel(self.target, self.files.ca) as line:
            call = line.unary_unary(method, None, None)
            metadata = (("authorization", f"Bearer {self.files.token('mallory')}"),) if known else ()
            waiting = [
                call.future(body, timeout=TIMEOUT_S, metadata=metadata, compression=compression) for _ in range(count)
            ]
            return Counter(_code(one) for one in waiting)

    def posts(self, body: bytes, count: int, *, known: bool = True, sent: int | None = None) -> Counter[str]:
        """REST requests at the same time; with ``sent``, so many bytes of each body, and then silence."""
        with ThreadPoolExecutor(count) as pool:
            return Counter(pool.map(lambda _: self._post(body, known, sent), range(count)))

    def _post(self, body: bytes, known: bool, sent: int | None) -> str:
        context = ssl.create_default_context(cafile=str(self.files.ca))
        head = f"POST /v2/models/{MODELS[self.kind]}/infer HTTP/1.1\r\nHost: a\r\nContent-Type: application/json"
        head += f"\r\nContent-Length: {len(body)}\r\n"
        head += f"Authorization: Bearer {self.files.token('mallory')}\r\n\r\n" if known else "\r\n"
        with suppress(OSError, ssl.SSLError, IndexError):
            raw = socket.create_connection(("127.0.0.1", self.rest), timeout=TIMEOUT_S if sent is None else HALF_S)
            with context.wrap_socket(raw, server_hostname="127.0.0.1") as line:
                with suppress(OSError):
                    line.sendall(head.encode() + body[:sent])
                return line.recv(64).decode(errors="replace").split(" ")[1]
        return "cut"

    def streams(self, message: bytes, count: int, seconds: float, *, per_stream: int) -> Counter[str]:
        """Streams of requests that are never read."""
        done = threading.Event()

        def requests() -> Iterator[bytes]:
            yield from itertools.repeat(message, per_stream)
            done.wait(seconds + TIMEOUT_S)

        lines = [channel(self.target, self.files.ca) for _ in range(count)]
        metadata = (("authorization", f"Bearer {self.files.token('mallory')}"),)
        unary = self.kind == "federation"
        calls: list[Any] = []
        for line in lines:
            if unary:
                calls.append(line.stream_unary(STREAMS[self.kind], None, None).future(requests(), metadata=metadata))
            else:
                calls.append(line.stream_stream(STREAMS[self.kind], None, None)(requests(), metadata=metadata))
        time.sleep(seconds)
        codes = Counter("open" if call.is_active() else _code(call) for call in calls)
        done.set()
        for call in calls:
            call.cancel()
        for line in lines:
            line.close()
        return codes


def _code(call: Any) -> str:
    try:
        return str(call.code().name)
    except grpc.RpcError as error:
        return str(error.code().name)


def _field(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def _empties(kind: str, size: int) -> bytes:
    method, one = REPEATED[kind]
    many = one * (size // len(one))
    if method.endswith("Compress"):
        return _field(1, _field(1, many))
    return _field(1, many) if kind == "federation" else many


def _contents(kind: str, size: int) -> bytes:
    tensor = _field(1, b"x") + _field(2, b"UINT32") + _field(5, _field(4, b"\x01" * size))
    return _field(1, MODELS[kind].encode()) + _field(5, tensor)


def _objects() -> bytes:
    return b'{"inputs":[' + b",".join([b"{}"] * 1_000_000) + b"]}"


def _numbers(count: int) -> bytes:
    data = b",".join([b"1"] * count)
    return b'{"inputs":[{"name":"x","shape":[%d],"datatype":"INT32","data":[%s]}]}' % (count, data)


def _pixels() -> bytes:
    from benchmarks.services.prediction import patches_of
    from services._runtime.oip.tensors import DATATYPES

    inputs = [
        {
            "name": name,
            "shape": list(array.shape),
            "datatype": DATATYPES[array.dtype.name],
            "data": array.ravel().tolist(),
        }
        for name, array in patches_of(1)[0].items()
    ]
    return json.dumps({"inputs": inputs}).encode()


def _decompress(payload: bytes, count: int) -> bytes:
    from eoforge.api.compression.v1 import compression_pb2 as pb

    texts = [base64.b64encode(pb.DecompressRequest.FromString(payload).stream).decode()] * count
    return json.dumps({"inputs": [{"name": "stream", "shape": [count], "datatype": "BYTES", "data": texts}]}).encode()


def _search_stream() -> bytes:
    from eoforge.api.retrieval.v1 import retrieval_pb2 as pb

    request = pb.SearchRequest.FromString(PROBES["retrieval"][1])
    request.page_size = 1000
    return bytes(pb.SearchStreamRequest(search=request).SerializeToString())


def _manifest() -> bytes:
    from eoforge.api.federation.v1 import federation_pb2 as pb

    chunks = [bytes([number]) * 32 for number in range(8)]
    manifest = pb.Manifest(length=32 << 20, chunks=chunks)
    return bytes(pb.PutModelRequest(manifest=manifest).SerializeToString())


def cases(kind: str) -> dict[str, Callable[[Attack], Counter[str]]]:
    """Name -> attack, of one service."""
    if kind == BARE:
        return {
            "20 messages of 7 MB": lambda a: a.calls(BARE_METHOD, bytes(7 * MIB), 20),
            "100 messages of 7 MB": lambda a: a.calls(BARE_METHOD, bytes(7 * MIB), 100),
        }
    method = REPEATED[kind][0]
    common: dict[str, Callable[[Attack], Counter[str]]] = {
        "30 messages of 8 MB, no token": lambda a: a.calls(method, _empties(kind, 8 * MIB), 30, known=False),
        "30 bodies of 8 MB, no token": lambda a: a.posts(bytes(8 * MIB), 30, known=False),
        "62 MB of empty messages": lambda a: a.calls(method, _empties(kind, 62 * MIB), 1),
        "20 x 7 MB of empty messages": lambda a: a.calls(method, _empties(kind, 7 * MIB), 20),
        "62 M uint_contents": lambda a: a.calls(OIP, _contents(kind, 62 * MIB), 1),
        "20 x 7 M uint_contents": lambda a: a.calls(OIP, _contents(kind, 7 * MIB), 20),
        "4 MB of a million JSON objects": lambda a: a.posts(_objects(), 1),
        "60 MB of JSON integers": lambda a: a.posts(_numbers(30_000_000), 1),
        "30 x 200,000 JSON integers": lambda a: a.posts(_numbers(200_000), 30),
        "100 messages of 7 MB": lambda a: a.calls(method, _field(15, bytes(7 * MIB)), 100),
        "20 messages of 60 MB, gzip": lambda a: a.calls(method, _field(15, bytes(60 * MIB)), 20, zipped=True),
        "100 half-sent bodies of 7 MB": lambda a: a.posts(bytes(7 * MIB), 100, sent=6 * MIB),
    }
    if kind == "retrieval":
        common["40 unread streams of searches"] = lambda a: a.streams(_search_stream(), 40, 8.0, per_stream=64)
    if kind == "compression":
        common["12 small streams that decode for long"] = lambda a: a.calls(PROBES[kind][0], a.dear, 12)
        common["20 x pixels of a patch as JSON"] = lambda a: a.posts(_decompress(a.payload, 1), 20)
        common["20 x pixels of 32 patches as JSON"] = lambda a: a.posts(_decompress(a.payload, 32), 20)
    if kind == "prediction":
        common["40 x 32 patches"] = lambda a: a.calls(OIP, a.dear, 40)
        common["20 x pixels of a patch as JSON"] = lambda a: a.posts(_pixels(), 20)
    if kind == "federation":
        common["64 idle uploads"] = lambda a: a.streams(_manifest(), 64, 6.0, per_stream=1)
    return common


WARM = "one small request"
"""Not an attack: the federation service loads KServe (140 MiB, 2 s) with its first such request, once."""


def attack(attacked: Attack, pipe: Any) -> None:
    """Sends each case that is asked for; the child process's main.

    It lets every other process compute first: elsewhere attackers are on machines of their own.
    """
    os.nice(LEAST_NICE)
    known: dict[str, Callable[[Attack], Counter[str]]] = {
        **cases(attacked.kind),
        WARM: lambda a: a.calls(BARE_METHOD, b"x", 1) if a.kind == BARE else a.posts(_numbers(1), 1),
    }
    while True:
        pipe.send(known[pipe.recv()](attacked))


class Attacker:
    """The hostile caller, in a process of its own."""

    def __init__(self, served: Served, files: Secrets, payload: bytes, dear: bytes) -> None:
        self._pipe, theirs = SPAWN.Pipe()
        attacked = Attack(served.kind, served.target, served.rest, files, payload, dear)
        self._process = SPAWN.Process(target=attack, args=(attacked, theirs), daemon=True)
        self._process.start()

    def send(self, name: str) -> Counter[str]:
        """Sends one case; the statuses that came back."""
        self._pipe.send(name)
        found: Counter[str] = self._pipe.recv()
        return found

    def stop(self) -> None:
        """Ends the process."""
        self._process.kill()
        self._process.join()
