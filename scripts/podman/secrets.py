"""Certificates, token and secrets for the pods of one trial with podman."""

from __future__ import annotations

import base64
import datetime
import ipaddress
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jwt
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

DAY = datetime.timedelta(days=1)
Keys = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey


@dataclass(frozen=True)
class Authority:
    """Certificate authority that is valid for one day."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @classmethod
    def make(cls, name: str) -> Authority:
        """New authority."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        constraints = x509.BasicConstraints(ca=True, path_length=None)
        certificate = _builder(subject, subject, key).add_extension(constraints, critical=True)
        return cls(key, certificate.sign(key, hashes.SHA256()))

    def issue(self, names: list[x509.GeneralName]) -> tuple[str, str]:
        """Certificate and key (PEM) for these alternative names."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "eoforge")])
        builder = _builder(subject, self.certificate.subject, key)
        signed = builder.add_extension(x509.SubjectAlternativeName(names), critical=False).sign(
            self.key, hashes.SHA256()
        )
        return pem(signed), private_pem(key)


@dataclass(frozen=True)
class Credentials:
    """Credentials of callers outside the pods.

    Attributes:
        ca: File with the CA certificate of the servers.
        token: Bearer token.
        store: ``AWS_*`` variables with the store's keys.
        servers: Authority of the servers' certificates.
        clients: Authority of silos and operators.
        names: Names and addresses in the certificates of the servers.
    """

    ca: Path
    token: str
    store: dict[str, str]
    servers: Authority
    clients: Authority
    names: list[x509.GeneralName]

    def caller(self, role: str, name: str) -> tuple[Path, Path]:
        """Files with certificate and key of a ``silo`` or an ``operator``."""
        certificate, key = self.clients.issue([x509.UniformResourceIdentifier(f"spiffe://eoforge/{role}/{name}")])
        files = self.ca.with_name(f"{name}.pem"), self.ca.with_name(f"{name}.key")
        files[0].write_text(certificate)
        files[1].write_text(key)
        return files


def _builder(subject: x509.Name, issuer: x509.Name, key: Keys) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key.public_key())
    return builder.serial_number(x509.random_serial_number()).not_valid_before(now - DAY).not_valid_after(now + DAY)


def pem(certificate: x509.Certificate) -> str:
    """Certificate as PEM text."""
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def private_pem(key: Keys) -> str:
    """Private key as unencrypted PEM text, for a temporary folder."""
    kind = serialization.PrivateFormat.PKCS8
    return key.private_bytes(serialization.Encoding.PEM, kind, serialization.NoEncryption()).decode()


def make(
    podman: Callable[..., str], objects: list[dict[str, Any]], aliases: dict[str, str], folder: Path
) -> Credentials:
    """Creates the secrets in podman; returns the credentials of callers.

    Podman 4.3 reads a secret for environment variables as JSON of base64 texts, and one for a volume as a manifest
    whose texts it takes as they are.

    Args:
        podman: Interface to podman.
        objects: Rendered objects, including the secret of the store.
        aliases: Host names of the services and their addresses, for the certificate.
        folder: Folder for the CA file.
    """
    (stored,) = (o for o in objects if o["kind"] == "Secret")
    podman("secret", "create", stored["metadata"]["name"], "-", stdin=json.dumps(stored["data"]))
    servers, clients = Authority.make("eoforge trial servers"), Authority.make("eoforge trial clients")
    names: list[x509.GeneralName] = [x509.DNSName(name) for name in aliases]
    names += [x509.IPAddress(ipaddress.ip_address(address)) for address in aliases.values()]
    certificate, key = servers.issue(names)
    client_certificate, client_key = clients.issue(
        [x509.UniformResourceIdentifier("spiffe://eoforge/operator/helm-test")]
    )
    signer = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    claims = {"sub": "trial", "aud": "eoforge", "iss": "podman", "exp": int(time.time()) + 3600}
    token = jwt.encode(claims, signer, algorithm="RS256")
    spki = serialization.PublicFormat.SubjectPublicKeyInfo
    volumes = {
        "eoforge-tls": {"tls.crt": certificate, "tls.key": key, "ca.crt": pem(servers.certificate)},
        "eoforge-client-ca": {"ca.crt": pem(clients.certificate)},
        "eoforge-test-client": {"tls.crt": client_certificate, "tls.key": client_key},
        "eoforge-test-token": {"token": token},
        "eoforge-token-key": {"token.pem": signer.public_key().public_bytes(serialization.Encoding.PEM, spki).decode()},
    }
    for name, data in volumes.items():
        manifest = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "data": data}
        podman("secret", "create", name, "-", stdin=yaml.safe_dump(manifest))
    ca = folder / "ca.pem"
    ca.write_text(pem(servers.certificate))
    store = {key: base64.b64decode(value).decode() for key, value in stored["data"].items()}
    return Credentials(ca, token, {**store, "AWS_REGION": "us-east-1"}, servers, clients, names)
