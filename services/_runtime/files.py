"""Files that rotate while a service runs: keys, certificates, revocation lists.

A secret that Kubernetes mounts, or that an operator copies by hand, can be absent, empty, half-written or foreign for a
moment. The service then goes on with the former content, sets an alert metric and writes one log line.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import structlog
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from prometheus_client import Gauge

from eoforge.errors import EoforgeError, UsageError
from services._runtime.settings import HttpSettings

RETRY_SECONDS = 1.0
STALE = Gauge("eoforge_stale_file", "1 while a file is unusable and its former content is in use.", ("setting",))

Value = TypeVar("Value")
Stamp = tuple[tuple[int, int, int], ...]

log = structlog.get_logger("files")


class ReloadedFiles(Generic[Value]):
    """Parsed content of files, read again when they change; the former content stays in use while they are unusable.

    Args:
        setting: Name of the setting, for messages and the metric.
        paths: Files.
        parse: Function from the contents, in the order of ``paths``, to the value. Raises for unusable contents.

    Raises:
        UsageError: The files are unusable at the start.
    """

    def __init__(self, setting: str, paths: Sequence[Path], parse: Callable[..., Value]) -> None:
        self._setting, self._paths, self._parse = setting, paths, parse
        self._lock = threading.Lock()  # gRPC asks for certificates from threads of its own
        self._refused: Stamp | str = ""
        self._retry_at = 0.0
        try:
            self._stamp, self._value = self._load(self._stat())
        except Exception as error:  # parsers of foreign bytes raise many types
            names = ", ".join(map(str, paths))
            raise UsageError(f"cannot use {setting} ({names}): {_reason(error)}") from error
        STALE.labels(setting).set(0)

    @property
    def value(self) -> Value:
        """Value of the newest usable content."""
        with self._lock:
            found: Stamp | str = "absent"
            try:
                found = self._stat()
                if found == self._stamp and not self._refused:
                    return self._value
                if found == self._refused and time.monotonic() < self._retry_at:
                    return self._value
                self._stamp, self._value = self._load(found)
            except Exception as error:
                self._report(found, error)
            else:
                self._refused = ""
                STALE.labels(self._setting).set(0)
                log.info("file was read again", setting=self._setting)
            return self._value

    def _stat(self) -> Stamp:
        return tuple((s.st_mtime_ns, s.st_size, s.st_ino) for s in (path.stat() for path in self._paths))

    def _load(self, stamp: Stamp) -> tuple[Stamp, Value]:
        value = self._parse(*(path.read_bytes() for path in self._paths))
        if self._stat() != stamp:
            raise UsageError("it changed while it was read")
        return stamp, value

    def _report(self, found: Stamp | str, error: Exception) -> None:
        self._retry_at = time.monotonic() + RETRY_SECONDS
        if found != self._refused:
            STALE.labels(self._setting).set(1)
            log.error("file is unusable; its former content stays in use", setting=self._setting, why=_reason(error))
        self._refused = found


def _reason(error: Exception) -> str:
    """Words of an error for the log; errors of parsers can quote secrets, so only their type is given."""
    own = isinstance(error, EoforgeError | OSError)
    return str(error) if own else f"expected other content ({type(error).__name__})"


@dataclass(frozen=True)
class TlsFiles:
    """Contents of the TLS files (PEM).

    Attributes:
        key: Private key of the server.
        certificate: Certificate chain of the server.
        client_ca: Certificates of the authorities of clients, or None without mutual TLS.
    """

    key: bytes
    certificate: bytes
    client_ca: bytes | None = None


def tls_files(settings: HttpSettings) -> ReloadedFiles[TlsFiles] | None:
    """Reloaded TLS files of the settings, or None for plaintext.

    Raises:
        UsageError: A file is unusable, or the key is not the certificate's.
    """
    if settings.tls_cert_file is None or settings.tls_key_file is None:
        return None
    paths = [settings.tls_key_file, settings.tls_cert_file]
    if settings.tls_client_ca_file is not None:
        paths.append(settings.tls_client_ca_file)
    return ReloadedFiles("EOFORGE_TLS_*_FILE", paths, _checked)


def _checked(key: bytes, certificate: bytes, client_ca: bytes | None = None) -> TlsFiles:
    public = load_pem_private_key(key, None).public_key()
    first = x509.load_pem_x509_certificates(certificate)[0].public_key()
    form = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if public.public_bytes(*form) != first.public_bytes(*form):
        raise UsageError("the private key is not that of the certificate")
    if client_ca is not None:
        x509.load_pem_x509_certificates(client_ca)  # raises for none
    return TlsFiles(key, certificate, client_ca)
