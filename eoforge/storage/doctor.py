"""Probes of a store and of this machine.

A store that ignores ``If-None-Match`` loses Lance commits without an error (twelve of 32 parallel appends in a test of
such a server), so the probe tests the conditional PUT under concurrent writers.
"""

from __future__ import annotations

import importlib
import os
import platform
import secrets
import shutil
import socket
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from eoforge.errors import NotFound, StoreError
from eoforge.storage.addresses import is_s3, join, normalise
from eoforge.storage.objects import ObjectStore

RACING_WRITERS = 8
RACED_KEYS = 8
MIN_FREE_BYTES = 5 << 30
_CONNECT_TIMEOUT_S = 5.0
_USE_ANOTHER_STORE = "Use a store that honours conditional PUT: MinIO, SeaweedFS, Ceph, AWS S3."


@dataclass(frozen=True)
class Check:
    """Result of one probe.

    Attributes:
        name: Name of the probe.
        ok: Whether eoforge can work with the result.
        detail: Description of the result.
        advice: Remedy if the result is not ok.
    """

    name: str
    ok: bool
    detail: str
    advice: str = ""

    def __str__(self) -> str:
        return f"{self.name}: {self.detail.rstrip('.')}. {self.advice}".rstrip()


def probe_store(uri: str) -> list[Check]:
    """Probes of the store of ``uri``, below a new prefix that is removed afterwards.

    Returns:
        Checks ``endpoint`` (S3 only), ``credentials``, ``conditional put``, ``racing writers``, ``range reads`` and
        ``delete``; checks after a failed ``endpoint`` or ``credentials`` are skipped.

    Raises:
        UsageError: ``uri`` is neither a path nor an S3 URI.
    """
    uri = normalise(uri)
    checks: list[Check] = []
    if is_s3(uri):
        checks.append(_endpoint())
        if not checks[-1].ok:
            return checks
    else:
        uri = _existing(uri)  # the probe leaves no new folder behind
    # Short time-outs: a server that accepts connections and does not answer must be reported within seconds.
    store = ObjectStore(join(uri, f".eoforge-doctor-{secrets.token_hex(6)}"), patient=False)
    checks.append(_guarded("credentials", _credentials, store))
    if not checks[-1].ok:
        return checks
    probes = {"conditional put": _conditional_put, "racing writers": _race, "range reads": _ranges, "delete": _delete}
    checks += [_guarded(name, probe, store) for name, probe in probes.items()]
    if not is_s3(uri):
        shutil.rmtree(store.root)  # the files are deleted, the folder remains
    return checks


def require_conditional_put(uri: str) -> None:
    """Check, by two small PUTs, that the store of ``uri`` honours conditional PUT, on which Lance commits rely.

    Raises:
        StoreError: The store ignores ``If-None-Match``, or refuses writes.
    """
    store = ObjectStore(join(uri, f".eoforge-probe-{secrets.token_hex(6)}"), patient=False)
    check = _conditional_put(store)
    store.delete("once")
    if not check.ok:
        raise StoreError(f"{normalise(uri)}: {check.detail}. {check.advice}")


def probe_machine() -> list[Check]:
    """Probes of Python, torch, CUDA, Triton and the disk of this machine; a missing GPU is no failure."""
    version = platform.python_version()
    supported = (3, 11) <= sys.version_info[:2] < (3, 13)
    free = shutil.disk_usage(os.environ.get("EOFORGE_SCRATCH") or tempfile.gettempdir()).free
    return [
        Check("python", supported, version, "" if supported else "Use Python 3.11 or 3.12."),
        *_accelerator(),
        Check(
            "disk",
            free >= MIN_FREE_BYTES,
            f"{free / 2**30:.1f} GiB free for temporary files",
            "" if free >= MIN_FREE_BYTES else "Set EOFORGE_SCRATCH to a folder with at least 5 GiB free.",
        ),
    ]


def _existing(path: str) -> str:
    """Folder at ``path``, or the nearest parent that exists."""
    return next(str(p) for p in (Path(path), *Path(path).parents) if p.exists())


def _endpoint() -> Check:
    """Probe of the TCP connection; without it, the S3 client would retry an absent server for minutes."""
    endpoint = os.environ.get("AWS_ENDPOINT_URL")
    if not endpoint:
        return Check("endpoint", True, "AWS (AWS_ENDPOINT_URL is not set)")
    parts = urlsplit(endpoint)
    advice = "Set AWS_ENDPOINT_URL to scheme://host:port of the store, and check network and service."
    try:
        port = parts.port or {"http": 80, "https": 443}[parts.scheme]
        socket.create_connection((parts.hostname or "", port), timeout=_CONNECT_TIMEOUT_S).close()
    except (OSError, KeyError, ValueError) as error:
        return Check("endpoint", False, f"{endpoint}: {error}", advice)
    return Check("endpoint", True, endpoint)


def _guarded(name: str, probe: Callable[[ObjectStore], Check], store: ObjectStore) -> Check:
    try:
        return probe(store)
    except (StoreError, NotFound) as error:
        advice = (
            "Check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION, the bucket's name and that it exists."
            if is_s3(store.root)
            else "Name a folder that you may write to, on a disk with free space."
        )
        return Check(name, False, str(error), advice)


def _credentials(store: ObjectStore) -> Check:
    store.put("hello", b"hello")
    read_back = store.get("hello") == b"hello"
    listed = list(store.list()) == ["hello"]
    ok = read_back and listed
    detail = "put, get and list work" if ok else f"read back: {read_back}, listed: {listed}"
    return Check("credentials", ok, detail, "" if ok else _USE_ANOTHER_STORE)


def _conditional_put(store: ObjectStore) -> Check:
    first, second = store.put_if_absent("once", b"first"), store.put_if_absent("once", b"second")
    kept = store.get("once") == b"first"
    if first and not second and kept:
        return Check("conditional put", True, "the second PUT with If-None-Match: * was refused")
    detail = f"first PUT accepted: {first}, second accepted: {second}, first content kept: {kept}"
    return Check("conditional put", False, f"If-None-Match is ignored ({detail})", _USE_ANOTHER_STORE)


def _race(store: ObjectStore) -> Check:
    """Probe of concurrent writers: exactly one writer of a key may succeed, and its bytes must be stored."""

    def write(attempt: int) -> bool:
        return store.put_if_absent(f"race-{attempt // RACING_WRITERS}", str(attempt).encode())

    # All keys at once: a store that locks a contended key (SeaweedFS waits about 2 s) does so in parallel.
    attempts = range(RACED_KEYS * RACING_WRITERS)
    with ThreadPoolExecutor(len(attempts)) as pool:
        accepted = list(pool.map(write, attempts))
    wrong = 0
    for key in range(RACED_KEYS):
        racers = attempts[key * RACING_WRITERS : (key + 1) * RACING_WRITERS]
        won = [attempt for attempt in racers if accepted[attempt]]
        wrong += len(won) != 1 or store.get(f"race-{key}") != str(won[0]).encode()
    detail = (
        f"{RACING_WRITERS} concurrent writers for {RACED_KEYS} keys: {RACED_KEYS - wrong} keys had exactly one winner"
    )
    return Check("racing writers", not wrong, detail, _USE_ANOTHER_STORE if wrong else "")


def _ranges(store: ObjectStore) -> Check:
    data = bytes(range(256)) * 64
    store.put("range", data)
    right = all(store.get_range("range", start, end) == data[start:end] for start, end in ((0, 1), (1000, 9000)))
    detail = "parts of an object can be read" if right else "a range request returned other bytes"
    return Check("range reads", right, detail, "" if right else _USE_ANOTHER_STORE)


def _delete(store: ObjectStore) -> Check:
    for key in list(store.list()):
        store.delete(key)
    left = list(store.list())
    detail = f"{len(left)} objects are still listed" if left else "deleted objects are not listed"
    return Check("delete", not left, detail, "Allow s3:DeleteObject, and switch off object locks." if left else "")


def _accelerator() -> list[Check]:
    try:
        torch = importlib.import_module("torch")
    except ImportError as error:
        if error.name == "torch":  # the image of the coordinator has no torch: it only adds up updates
            return [Check("torch", True, "not installed: training, search and compression are not available")]
        return [Check("torch", False, str(error), "pip install 'eoforge[train]' (or [serve]).")]
    checks = [Check("torch", True, str(torch.__version__))]
    if torch.cuda.is_available():
        names = ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
        checks.append(Check("cuda", True, f"{names} (CUDA {torch.version.cuda})"))
    else:
        checks.append(Check("cuda", True, "no GPU: everything runs on the CPU"))
    try:
        checks.append(Check("triton", True, str(importlib.import_module("triton").__version__)))
    except ImportError as error:
        checks.append(Check("triton", False, str(error), "Install the Triton that torch asks for (Linux only)."))
    return checks
