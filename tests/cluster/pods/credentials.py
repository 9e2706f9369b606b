"""Certificates and tokens of one trial: those that pods mount, and those of callers outside the cluster."""

from __future__ import annotations

import base64
import ipaddress
import secrets
import time
from dataclasses import dataclass
from pathlib import Path

import jwt
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.cluster.certificates import Authority, Pair
from tests.cluster.kubectl import Kubectl, Object

ISSUER, AUDIENCE = "pods", "eoforge"
TLS = "eoforge-tls"
TOKEN = "eoforge-test-token"


@dataclass(frozen=True)
class Credentials:
    """What callers outside the cluster show, and who signs it.

    Attributes:
        token: Bearer token.
        servers: Authority of the servers' certificates.
        clients: Authority of silos and operators.
        names: Names and addresses in the certificates of the servers.
    """

    token: str
    servers: Authority
    clients: Authority
    names: list[x509.GeneralName]

    @property
    def ca(self) -> Path:
        """File with the certificate that callers trust."""
        return self.servers.certificate

    def caller(self, role: str, name: str) -> Pair:
        """Certificate of a ``silo`` or an ``operator``."""
        return self.clients.issue(name, names=[x509.UniformResourceIdentifier(f"spiffe://eoforge/{role}/{name}")])

    def server_secret(self) -> Object:
        """Secret with a new certificate of the servers."""
        pair = self.servers.issue("eoforge", names=self.names)
        files = {"tls.crt": pair.certificate, "tls.key": pair.key, "ca.crt": self.ca}
        return _secret(TLS, {key: path.read_bytes() for key, path in files.items()})


def make(kubectl: Kubectl, addresses: dict[str, str], folder: Path) -> Credentials:
    """Creates the secrets that the values of the trial name; returns the credentials of callers.

    Args:
        kubectl: Of the namespace.
        addresses: Host names of the services, with their addresses outside the cluster.
        folder: Folder for certificates.
    """
    names: list[x509.GeneralName] = [x509.DNSName(name) for name in addresses]
    names += [x509.IPAddress(ipaddress.ip_address(address)) for address in addresses.values()]
    signer = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    claims = {"sub": "trial", "aud": AUDIENCE, "iss": ISSUER, "exp": int(time.time()) + 6 * 3600}
    token = jwt.encode(claims, signer, algorithm="RS256")
    found = Credentials(token, Authority(folder / "servers"), Authority(folder / "clients"), names)
    operator = found.caller("operator", "helm-test")
    spki = serialization.PublicFormat.SubjectPublicKeyInfo
    kubectl.apply(
        found.server_secret(),
        _secret("eoforge-client-ca", {"ca.crt": found.clients.certificate.read_bytes()}),
        _secret(
            "eoforge-test-client", {"tls.crt": operator.certificate.read_bytes(), "tls.key": operator.key.read_bytes()}
        ),
        _secret(TOKEN, {"token": token.encode()}),
        _secret("eoforge-console", {"session-key": secrets.token_hex(32).encode()}),
        _secret("eoforge-token-key", {"token.pem": signer.public_key().public_bytes(serialization.Encoding.PEM, spki)}),
    )
    return found


def _secret(name: str, data: dict[str, bytes]) -> Object:
    coded = {key: base64.b64encode(value).decode() for key, value in data.items()}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "data": coded}
