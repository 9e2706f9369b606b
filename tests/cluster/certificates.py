"""A certificate authority for one run of the cluster: servers by address, clients by user and group."""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

DAY = datetime.timedelta(days=1)


@dataclass(frozen=True)
class Pair:
    """Files of a certificate and its key."""

    certificate: Path
    key: Path


class Authority:
    """Signs certificates that are good for a day.

    Args:
        folder: Where the files go.
        addresses: Addresses of the servers.
    """

    def __init__(self, folder: Path, addresses: Sequence[str] = ("127.0.0.1",)) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._names: list[x509.GeneralName] = [x509.IPAddress(ipaddress.ip_address(a)) for a in addresses]
        self._names.append(x509.DNSName("localhost"))
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "eoforge-test-ca")])
        builder = self._builder(self._name, self._key.public_key())
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        self.certificate = folder / "ca.crt"
        self.certificate.write_bytes(builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))

    def _builder(self, name: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - DAY)
            .not_valid_after(now + DAY)
        )

    def issue(
        self,
        user: str,
        group: str = "",
        *,
        folder: Path | None = None,
        name: str = "",
        names: Sequence[x509.GeneralName] = (),
    ) -> Pair:
        """A certificate for ``user`` in ``group``, good for servers at the authority's addresses too.

        Args:
            user: Common name.
            group: Organisation, which Kubernetes reads as the group.
            folder: Where the files go; that of the authority by default.
            name: File name without ``.crt`` and ``.key``; ``user`` by default.
            names: Alternative names; the addresses of the authority by default.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        attributes = [x509.NameAttribute(NameOID.COMMON_NAME, user)]
        if group:
            attributes.append(x509.NameAttribute(NameOID.ORGANIZATION_NAME, group))
        hosts = x509.SubjectAlternativeName(names or self._names)
        signed = self._builder(x509.Name(attributes), key.public_key()).add_extension(hosts, critical=False)
        folder = folder or self.folder
        folder.mkdir(parents=True, exist_ok=True)
        made = Pair(folder / f"{name or user}.crt", folder / f"{name or user}.key")
        encoding = serialization.Encoding.PEM
        made.certificate.write_bytes(signed.sign(self._key, hashes.SHA256()).public_bytes(encoding))
        made.key.touch(mode=0o600)
        made.key.write_bytes(
            key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        )
        return made
