"""Probes of a store and of this machine, before anything depends on them.

A store that ignores ``If-None-Match`` loses Lance commits without an error (twelve of 32 parallel appends in one test
of such a server), so the probe provokes exactly what commits rely on.
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
    """One finding.

    Attributes:
        name: What was probed.
        ok: Whether eoforge can work with it.
        detail: What was found.
        advice: What to do if it is not ok.
    """

    name: str
    ok: bool
    detail: str
    advice: str = ""

    def __str__(self) -> str:
        return f"{self.name}: {self.detail.rstrip('.')}. {self.advice}".rstrip()


def probe_store(uri: str) -> list[Check]:
    """Probes the store that ``uri`` lies on, below a fresh prefix that is removed again.

    Returns:
        Checks ``endpoint`` (S3 only), ``credentials``, ``conditional put``, ``racing writers``, ``range reads`` and
        ``delete``; those after a failed ``endpoint`` or ``credentials`` are left out, as they cannot pass.

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
        uri = _existing(uri)  # the probe leaves no folder behind that was not there
    # Impatient: a server that takes connections and answers nothing must be named within seconds.
    store = ObjectStore(join(uri, f".eoforge-doctor-{secrets.token_hex(6)}"), patient=False)
    checks.append(_guarded("credentials", _credentials, store))
    if not checks[-1].ok:
        return checks
    probes = {"conditional put": _conditional_put, "racing writers": _race, "range reads": _ranges, "delete": _delete}
    checks += [_guarded(name, probe, store) for name, probe in probes.items()]
    if not is_s3(uri):
        shutil.rmtree(store.root)  # its files are gone, the folder would stay
    return checks


def require_conditional_put(uri: str) -> None:
    """Refuses a store on which Lance commits would overwrite each other; two small PUTs, before any bulk load.

    Raises:
        StoreError: The store ignores ``If-None-Match``, or cannot be written.
    """
    store = ObjectStore(join(uri, f".eoforge-probe-{secrets.token_hex(6)}"), patient=False)
    check = _conditional_put(store)
    store.delete("once")
    if not check.ok:
        raise StoreError(f"{normalise(uri)}: {check.detail}. {check.advice}")


def probe_machine() -> list[Check]:
    """Probes Python, torch, CUDA, Triton and the disk of this machine; a missing GPU is reported and is no failure."""
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
    """The folder at ``path``, or the nearest one above it that exists."""
    return next(str(p) for p in (Path(path), *Path(path).parents) if p.exists())


def _endpoint() -> Check:
    """Connects before anything is asked: the S3 client would retry an absent server for minutes."""
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
    there = store.get("hello") == b"hello"
    listed = list(store.list()) == ["hello"]
    detail = "put, get and list work" if there and listed else f"read back: {there}, listed: {listed}"
    return Check("credentials", there and listed, detail, "" if there and listed else _USE_ANOTHER_STORE)


def _conditional_put(store: ObjectStore) -> Check:
    first, second = store.put_if_absent("once", b"first"), store.put_if_absent("once", b"second")
    kept = store.get("once") == b"first"
    if first and not second and kept:
        return Check("conditional put", True, "the second PUT with If-None-Match: * was refused")
    detail = f"first PUT taken: {first}, second taken: {second}, first content kept: {kept}"
    return Check("conditional put", False, f"If-None-Match is ignored ({detail})", _USE_ANOTHER_STORE)


def _race(store: ObjectStore) -> Check:
    """Exactly one of several simultaneous writers of a key may win, and its bytes must be there."""

    def write(attempt: int) -> bool:
        return store.put_if_absent(f"race-{attempt // RACING_WRITERS}", str(attempt).encode())

    # All keys at once: a store that locks a key for its racers (SeaweedFS waits about 2 s) does so in parallel.
    attempts = range(RACED_KEYS * RACING_WRITERS)
    with ThreadPoolExecutor(len(attempts)) as pool:
        took = list(pool.map(write, attempts))
    wrong = 0
    for key in range(RACED_KEYS):
        racers = attempts[key * RACING_WRITERS : (key + 1) * RACING_WRITERS]
        won = [attempt for attempt in racers if took[attempt]]
        wrong += len(won) != 1 or store.get(f"race-{key}") != str(won[0]).encode()
    detail = f"{RACING_WRITERS} writers raced for {RACED_KEYS} keys: {RACED_KEYS - wrong} had exactly one winner"
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
    detail = f"{len(left)} objects are still listed" if left else "deleted objects are gone"
    return Check("delete", not left, detail, "Allow s3:DeleteObject, and switch off object locks." if left else "")


def _accelerator() -> list[Check]:
    try:
        torch = importlib.import_module("torch")
    except ImportError as error:
        if error.name == "torch":  # the coordinator's image has none: it only adds up what silos send
            return [Check("torch", True, "not installed: nothing here trains, searches or compresses")]
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
