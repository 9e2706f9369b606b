"""Identities and permissions of callers: operators control runs, silos answer tasks.

A certificate names its holder in a URI: ``spiffe://eoforge/silo/ID`` or ``spiffe://eoforge/operator/ID`` (what
``eoforge federate ca issue`` and cert-manager write). A token names its holder in ``sub`` and grants
``federation:silo`` or ``federation:operator`` in ``scope``. Without any authentication (on the loopback address) a
caller is the silo that its ``x-eoforge-silo`` header says, or an operator.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import grpc
from cryptography import x509

from eoforge.api.federation.v1 import federation_pb2 as pb
from eoforge.federated.ca import TRUST_DOMAIN, revoked_certificates
from eoforge.federated.run.spec import SILO_ID
from services._runtime.auth import CALLER, Caller
from services._runtime.errors import PermissionDenied, Unauthenticated
from services._runtime.files import ReloadedFiles

SILO_HEADER = "x-eoforge-silo"
OPERATOR_SCOPE, SILO_SCOPE = "federation:operator", "federation:silo"
ANYONE = "*"

Context = grpc.aio.ServicerContext


class Identities:
    """Identities of callers, as silos or operators.

    Args:
        revoked_file: Certificate revocation list (PEM), read again when it changes; None for none.
        ca_file: Certificates of the authorities that sign it (PEM).

    Raises:
        UsageError: The list cannot be used at the start.
    """

    def __init__(self, revoked_file: Path | None = None, ca_file: Path | None = None) -> None:
        self._revoked: ReloadedFiles[frozenset[tuple[x509.Name, int]]] | None = None
        if revoked_file is not None and ca_file is not None:
            self._revoked = ReloadedFiles("EOFORGE_REVOKED_FILE", [revoked_file, ca_file], revoked_certificates)

    def admit(self, caller: Caller) -> None:
        """Check that the certificate of a caller was not revoked.

        Raises:
            Unauthenticated: The certificate was revoked.
        """
        if self._revoked is not None and caller.certificate and _serial(caller.certificate) in self._revoked.value:
            raise Unauthenticated("this certificate was revoked; ask the operator for a new one")

    def silo(self, context: Context[Any, Any]) -> str:
        """Id of the calling silo.

        Raises:
            PermissionDenied: The caller is no silo.
            Unauthenticated: The certificate was revoked.
        """
        caller = CALLER.get()
        if caller.way == "certificate":
            return self._from_certificate(caller, "silo")
        if caller.way == "token":
            if SILO_SCOPE not in caller.scopes:
                raise PermissionDenied(f"the token of {caller.name} does not grant {SILO_SCOPE}")
            return _plain(caller.name)
        named = dict(context.invocation_metadata() or ()).get(SILO_HEADER)
        if not isinstance(named, str):
            raise PermissionDenied(f"without authentication a silo names itself in the header {SILO_HEADER}")
        return _plain(named)

    def operator(self) -> str:
        """Name of the calling operator.

        Raises:
            PermissionDenied: The caller is no operator.
            Unauthenticated: The certificate was revoked.
        """
        caller = CALLER.get()
        if caller.way == "certificate":
            return self._from_certificate(caller, "operator")
        if caller.way == "token":
            if OPERATOR_SCOPE not in caller.scopes:
                raise PermissionDenied(f"the token of {caller.name} does not grant {OPERATOR_SCOPE}")
            return caller.name
        return "operator"

    def _from_certificate(self, caller: Caller, role: str) -> str:
        if not caller.certificate:  # REST does not pass the verified certificate on
            raise PermissionDenied("a certificate names its holder over gRPC only; ask there")
        self.admit(caller)
        prefix = f"{TRUST_DOMAIN}{role}/"
        if not caller.name.startswith(prefix):
            raise PermissionDenied(f"expected a certificate of {prefix}ID; this one belongs to {caller.name}")
        return _plain(caller.name.removeprefix(prefix))


def may_control(operator: str, run: pb.Run) -> bool:
    """Whether an operator may see and control a run."""
    return operator == run.creator or operator in run.spec.operators or ANYONE in run.spec.operators


@lru_cache(maxsize=4096)
def _serial(pem: bytes) -> tuple[x509.Name, int]:
    certificate = x509.load_pem_x509_certificate(pem)
    return certificate.issuer, certificate.serial_number


def _plain(name: str) -> str:
    if not SILO_ID.fullmatch(name):
        raise PermissionDenied(f"a silo id has 1 to 64 letters, digits, '.', '_' or '-'; got {name!r:.80}")
    return name
