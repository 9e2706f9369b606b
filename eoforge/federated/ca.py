"""Certificate authority of a federation, run from the command line: one folder, no server.

::

    <folder>/ca.pem, ca.key     certificate and private key of the authority; ca.key alone must be kept secret
             crl.pem            revocation list; give it to the coordinator (EOFORGE_REVOKED_FILE)
             issued.jsonl       every issued certificate, one a line

The coordinator reads the identity of a client from the URI in its certificate and from nothing else. To renew a
certificate, issue another one: the coordinator accepts it at the next connection, also during a run.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from eoforge.errors import ConflictError, NotFound, UsageError
from eoforge.federated.run.spec import SILO_ID

Role = Literal["silo", "operator", "server"]
TRUST_DOMAIN = "spiffe://eoforge/"
CA_DAYS, LEAF_DAYS = 3650, 90
_CRL = re.compile(rb"-----BEGIN X509 CRL-----.*?-----END X509 CRL-----", re.DOTALL)
_BACKDATE = dt.timedelta(minutes=5)
"""Age of a new certificate, for silos whose clocks are slow."""


@dataclass(frozen=True)
class Issued:
    """Files and facts of an issued certificate.

    Attributes:
        certificate: File of the certificate (PEM).
        key: File of its private key (PEM).
        ca: File of the authority's certificate, which the other side needs.
        serial: Serial number, hexadecimal.
        expires: End of validity, ISO 8601.
    """

    certificate: str
    key: str
    ca: str
    serial: str
    expires: str


class Authority:
    """Certificate authority in a folder.

    Args:
        folder: Folder with ``ca.pem`` and ``ca.key``.

    Raises:
        NotFound: The folder holds no authority.
        UsageError: The key is not an elliptic-curve key.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        try:
            self._certificate = x509.load_pem_x509_certificate((self.folder / "ca.pem").read_bytes())
            key = serialization.load_pem_private_key((self.folder / "ca.key").read_bytes(), None)
        except FileNotFoundError as error:
            raise NotFound(f"no authority in {folder}: make one with `eoforge federate ca init`") from error
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise UsageError(f"{self.folder / 'ca.key'} must hold an elliptic-curve key")
        self._key = key

    @classmethod
    def create(cls, folder: str | Path, name: str = "eoforge federation") -> Authority:
        """A new authority.

        Raises:
            ConflictError: The folder holds one; a second key would invalidate every certificate of the first.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / "ca.key").exists():
            raise ConflictError(f"{folder} holds an authority already; choose another folder")
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        builder = _builder(subject, subject, key.public_key(), CA_DAYS)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        builder = builder.add_extension(_usage(signs_certificates=True), critical=True)
        identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
        certificate = builder.add_extension(identifier, critical=False).sign(key, hashes.SHA256())
        _write_secret(folder / "ca.key", _private(key))
        (folder / "ca.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        authority = cls(folder)
        authority._write_revoked([])
        return authority

    def issue(
        self, role: Role, name: str, out: str | Path, *, hosts: Sequence[str] = (), days: int = LEAF_DAYS
    ) -> Issued:
        """New certificate as ``<name>.pem`` and ``<name>.key`` below ``out``; older ones of that name stay valid.

        Args:
            role: ``silo`` or ``operator`` for clients, ``server`` for the coordinator.
            name: Id of the silo, or name of the operator or of the server.
            out: Folder to write to.
            hosts: DNS names and addresses of a server.
            days: Validity in days.

        Raises:
            UsageError: The name is not plain, or a server has no hosts.
        """
        if not SILO_ID.fullmatch(name):
            raise UsageError(f"a name has 1 to 64 letters, digits, '.', '_' or '-'; got {name!r}")
        if (role == "server") != bool(hosts):
            raise UsageError("a server needs the host names that silos reach it by (--host); others have none")
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        names: list[x509.GeneralName] = [_host(host) for host in hosts]
        purpose = ExtendedKeyUsageOID.SERVER_AUTH
        if role != "server":
            names = [x509.UniformResourceIdentifier(f"{TRUST_DOMAIN}{role}/{name}")]
            purpose = ExtendedKeyUsageOID.CLIENT_AUTH
        builder = _builder(subject, self._certificate.subject, key.public_key(), days)
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        builder = builder.add_extension(_usage(signs_certificates=False), critical=True)
        builder = builder.add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        certificate = builder.add_extension(issuer, critical=False).sign(self._key, hashes.SHA256())
        folder = Path(out)
        folder.mkdir(parents=True, exist_ok=True)
        serial, expires = f"{certificate.serial_number:x}", certificate.not_valid_after_utc.isoformat()
        with open(self.folder / "issued.jsonl", "a") as log:  # before it is handed out: what exists can be revoked
            log.write(json.dumps({"serial": serial, "role": role, "name": name, "expires": expires}) + "\n")
        _write_secret(folder / f"{name}.key", _private(key))
        _replace(folder / f"{name}.pem", certificate.public_bytes(serialization.Encoding.PEM))
        _replace(folder / "ca.pem", self._certificate.public_bytes(serialization.Encoding.PEM))
        return Issued(str(folder / f"{name}.pem"), str(folder / f"{name}.key"), str(folder / "ca.pem"), serial, expires)

    def revoke(self, name: str, serial: str | None = None) -> list[str]:
        """Revocation of all certificates of ``name``, or of one by its serial number; the revoked serial numbers.

        Raises:
            NotFound: No such certificate was issued.
        """
        path = self.folder / "issued.jsonl"
        entries = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        found = [e["serial"] for e in entries if e["name"] == name and serial in (None, e["serial"])]
        if not found:
            raise NotFound(f"no certificate was issued to {name!r}" + (f" with serial {serial}" if serial else ""))
        self._write_revoked(sorted({*self._revoked(), *(int(s, 16) for s in found)}))
        return found

    def _revoked(self) -> list[int]:
        ca = self._certificate.public_bytes(serialization.Encoding.PEM)
        return [serial for _, serial in revoked_certificates((self.folder / "crl.pem").read_bytes(), ca)]

    def _write_revoked(self, serials: Sequence[int]) -> None:
        now = dt.datetime.now(dt.UTC)
        builder = x509.CertificateRevocationListBuilder().issuer_name(self._certificate.subject)
        builder = builder.last_update(now).next_update(now + dt.timedelta(days=CA_DAYS))
        for serial in serials:
            entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now).build()
            builder = builder.add_revoked_certificate(entry)
        signed = builder.sign(self._key, hashes.SHA256())
        _replace(self.folder / "crl.pem", signed.public_bytes(serialization.Encoding.PEM))


def revoked_certificates(lists: bytes, authorities: bytes) -> frozenset[tuple[x509.Name, int]]:
    """Issuer and serial number of every revoked certificate.

    Args:
        lists: Revocation lists (PEM), one after the other.
        authorities: Certificates of the authorities (PEM).

    Raises:
        UsageError: There is no list, or one is malformed or not signed by an authority.
    """
    try:
        signers = x509.load_pem_x509_certificates(authorities)
        found = [x509.load_pem_x509_crl(block) for block in _CRL.findall(lists)]
    except ValueError as error:
        raise UsageError("expected certificates of authorities and their revocation lists (PEM)") from error
    if not found or len(found) != lists.count(b"-----BEGIN"):
        raise UsageError("expected revocation lists (PEM) and nothing else")
    for crl in found:
        if not any(crl.issuer == signer.subject and _signed(crl, signer) for signer in signers):
            raise UsageError("a revocation list is not signed by an authority of the clients")
    return frozenset((crl.issuer, entry.serial_number) for crl in found for entry in crl)


def _signed(crl: x509.CertificateRevocationList, signer: x509.Certificate) -> bool:
    try:
        return crl.is_signature_valid(signer.public_key())  # type: ignore[arg-type]  # raises for other types
    except TypeError:
        return False


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, days: int
) -> x509.CertificateBuilder:
    now = dt.datetime.now(dt.UTC)
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key)
    builder = builder.serial_number(x509.random_serial_number()).not_valid_before(now - _BACKDATE)
    return builder.not_valid_after(now + dt.timedelta(days=days))


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _private(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _write_secret(path: Path, data: bytes) -> None:
    partial = path.with_name(f".{path.name}.partial")
    partial.unlink(missing_ok=True)
    with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(data)
    os.replace(partial, path)


def _replace(path: Path, data: bytes) -> None:
    partial = path.with_name(f".{path.name}.partial")
    partial.write_bytes(data)
    os.replace(partial, path)
