"""Key files while a service runs: rotation, damage, and the key sets that identity providers publish."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from eoforge.client import RemoteError, RetrievalClient
from eoforge.errors import UsageError
from services._runtime.auth import Authenticator
from services._runtime.errors import Unauthenticated
from services._runtime.files import RETRY_SECONDS
from services._runtime.settings import RuntimeSettings
from tests.services._runtime.failing_service import make
from tests.services.support import AUDIENCE, ISSUER, Running, Signer, make_pki, running

RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
OTHER_RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
SHORT_RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=1024)
EC_KEY = ec.generate_private_key(ec.SECP256R1())


def stale(setting: str = "EOFORGE_TOKEN_KEY_FILE") -> float | None:
    return REGISTRY.get_sample_value("eoforge_stale_file", {"setting": setting})


def public_pem(key: Any) -> bytes:
    form = (serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return bytes(key.public_key().public_bytes(*form))


def private_pem(key: Any) -> bytes:
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return bytes(key.private_bytes(*form))


def jwk(key: Any, algorithm: str = "RS256", **facts: Any) -> dict[str, Any]:
    return jwt.get_algorithm_by_name(algorithm).to_jwk(key.public_key(), as_dict=True) | facts


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Running, Signer]]:
    signer = Signer(tmp_path_factory.mktemp("keys"))
    with running(lambda: make(**signer.settings)) as run:
        yield run, signer


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGE: dict[str, Callable[[Path], Any]] = {
    "empty": lambda path: path.write_bytes(b""),
    "half-written": lambda path: path.write_bytes(public_pem(RSA_KEY)[:120]),
    "absent": lambda path: path.unlink(),
    "a folder": _folder,
    "a key of another type": lambda path: path.write_bytes(public_pem(EC_KEY)),
    "a short key": lambda path: path.write_bytes(public_pem(SHORT_RSA_KEY)),
    "a certificate request page": lambda path: path.write_bytes(b"<html>moved</html>"),
    "a key set without a usable key": lambda path: path.write_text(json.dumps({"keys": [jwk(EC_KEY, "ES256")]})),
    "half a key set": lambda path: path.write_text(json.dumps({"keys": [jwk(RSA_KEY)]})[:50]),
    "a key set of another form": lambda path: path.write_text('{"keys": {"a": 1}}'),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_the_former_keys_serve_while_the_file_is_unusable(archive: tuple[Running, Signer], damage: str) -> None:
    run, signer = archive
    token = signer.token()

    def answers() -> bool:
        header = {"authorization": f"Bearer {token}"}
        with RetrievalClient(run.target, token=token, attempts=1) as client:
            return client.get_patch("x").info.patch_id == "x" and (
                httpx.get(f"{run.rest}/v2/models", headers=header).status_code == 200
            )

    assert answers()
    assert stale() == 0
    with capture_logs() as lines:
        DAMAGE[damage](signer.key_file)
        assert all(answers() for _ in range(3))
    assert stale() == 1
    assert len([line for line in lines if line.get("setting") == "EOFORGE_TOKEN_KEY_FILE"]) == 1
    with RetrievalClient(run.target, token="a.b.c", attempts=1) as client, pytest.raises(RemoteError) as caught:
        client.get_patch("x")
    assert caught.value.code == "UNAUTHENTICATED"
    assert signer.key_file.name not in str(caught.value)
    if signer.key_file.is_dir():
        signer.key_file.rmdir()
    signer.key_file.write_bytes(signer.public_pem)
    assert answers()
    assert stale() == 0


def test_a_file_that_is_completed_without_a_new_time_is_taken_up(tmp_path: Path) -> None:
    signer = Signer(tmp_path)
    keys = Authenticator(RuntimeSettings(**signer.settings))
    new = Signer(tmp_path)
    os.truncate(signer.key_file, 0)
    signer.key_file.write_bytes(b"x" * len(new.public_pem))
    moment = signer.key_file.stat()
    assert identify(keys, signer.token()) == "alice"
    signer.key_file.write_bytes(new.public_pem)
    os.utime(signer.key_file, ns=(moment.st_atime_ns, moment.st_mtime_ns))
    time.sleep(RETRY_SECONDS)
    assert identify(keys, new.token()) == "alice"


def test_unusable_keys_are_refused_at_the_start(tmp_path: Path) -> None:
    for damage in DAMAGE.values():
        signer = Signer(tmp_path)
        damage(signer.key_file)
        with pytest.raises(UsageError, match="EOFORGE_TOKEN_KEY_FILE"):
            Authenticator(RuntimeSettings(**signer.settings))
        if signer.key_file.is_dir():
            signer.key_file.rmdir()


def identify(authenticator: Authenticator, token: str) -> str:
    return authenticator.identify(f"Bearer {token}", (), "here").name


def with_keys(folder: Path, content: Any, algorithm: str = "RS256") -> Authenticator:
    path = folder / "keys.json"
    path.write_bytes(content if isinstance(content, bytes) else json.dumps({"keys": content}).encode())
    values = {"token_key_file": path, "token_audience": AUDIENCE, "token_issuer": ISSUER}
    return Authenticator(RuntimeSettings(**values, token_algorithm=algorithm))


def token(key: Any, algorithm: str = "RS256", headers: dict[str, Any] | None = None, **claims: Any) -> str:
    body = {"sub": "alice", "aud": AUDIENCE, "iss": ISSUER, "exp": int(time.time()) + 300} | claims
    return jwt.encode(body, key, algorithm=algorithm, headers=headers)


ENCRYPTION = jwk(OTHER_RSA_KEY, kid="enc", use="enc", alg="RSA-OAEP")
PUBLISHED: dict[str, list[Any]] = {
    "Keycloak": [
        ENCRYPTION,
        jwk(EC_KEY, "ES256", kid="ec", use="sig", alg="ES256"),
        jwk(ed25519.Ed25519PrivateKey.generate(), "EdDSA", kid="ed", use="sig", alg="EdDSA"),
        {"kty": "OKP", "crv": "X25519", "x": "AAAA", "use": "enc", "kid": "x"},
        {"kty": "EC", "crv": "brainpoolP256r1", "x": "AA", "y": "AA", "kid": "b", "use": "sig"},
        jwk(RSA_KEY, kid="sig", use="sig", alg="RS256", x5c=["MIIC"], x5t="t"),
    ],
    "Dex": [jwk(RSA_KEY, use="sig", kid="sig", alg="RS256"), jwk(OTHER_RSA_KEY, use="sig", kid="old", alg="RS256")],
    "Entra": [jwk(RSA_KEY, kid="sig", use="sig", x5t="sig", issuer="https://login.test/{tenantid}/v2.0")],
    "without kid": [jwk(OTHER_RSA_KEY), jwk(RSA_KEY)],
    "with entries of no sense": [None, 7, {}, {"kty": "RSA"}, {"kty": "RSA", "n": 5, "e": []}, jwk(RSA_KEY, kid="sig")],
}


@pytest.mark.parametrize("provider", PUBLISHED)
def test_key_sets_of_identity_providers(provider: str, tmp_path: Path) -> None:
    with capture_logs() as lines:
        keys = with_keys(tmp_path, PUBLISHED[provider])
    usable = {"Dex": 2, "without kid": 2}.get(provider, 1)
    assert len([line for line in lines if "left out" in line["event"]]) == len(PUBLISHED[provider]) - usable
    assert identify(keys, token(RSA_KEY, headers={"kid": "sig"})) == "alice"
    assert identify(keys, token(RSA_KEY)) == "alice"
    if provider == "Keycloak":  # neither its encryption key nor keys of other algorithms sign
        for key, algorithm, kid in ((OTHER_RSA_KEY, "RS256", "enc"), (EC_KEY, "ES256", "ec")):
            with pytest.raises(Unauthenticated):
                identify(keys, token(key, algorithm, {"kid": kid}))


def test_use_key_ops_alg_and_length_are_respected(tmp_path: Path) -> None:
    secret = b"s" * 16
    short = {"kty": "oct", "k": jwt.utils.base64url_encode(secret).decode()}
    for algorithm, entry in {
        "enc": ("RS256", jwk(RSA_KEY, use="enc")),
        "ops": ("RS256", jwk(RSA_KEY, key_ops=["encrypt"])),
        "alg": ("RS256", jwk(RSA_KEY, alg="RS512")),
        "short": ("RS256", jwk(SHORT_RSA_KEY)),
        "curve": ("ES256", jwk(ec.generate_private_key(ec.SECP384R1()), "ES384")),
        "oct": ("HS256", short),
        "kid": ("RS256", jwk(RSA_KEY, kid=7)),
    }.values():
        with pytest.raises(UsageError, match="no signature key"):
            with_keys(tmp_path, [entry], algorithm)
    long = {"kty": "oct", "k": jwt.utils.base64url_encode(secret * 2).decode()}
    assert identify(with_keys(tmp_path, [short, long], "HS256"), token(secret * 2, "HS256")) == "alice"


def test_a_private_key_verifies_as_its_public_half(tmp_path: Path) -> None:
    assert identify(with_keys(tmp_path, private_pem(RSA_KEY)), token(RSA_KEY)) == "alice"


@pytest.mark.parametrize("subject", ["", " ", "a\nb", 7, None, ["alice"]])
def test_a_subject_names_somebody(subject: Any, tmp_path: Path) -> None:
    keys = with_keys(tmp_path, public_pem(RSA_KEY))
    with pytest.raises(Unauthenticated):
        identify(keys, jwt.api_jws.encode(json.dumps(claims(sub=subject)).encode(), RSA_KEY, algorithm="RS256"))


@pytest.mark.parametrize("header", [{"kid": 7}, {"kid": ["a"]}, {"crit": ["x"]}, {"kid": "\ud800"}])
def test_a_header_of_another_form_is_refused(header: dict[str, Any], tmp_path: Path) -> None:
    keys = with_keys(tmp_path, public_pem(RSA_KEY))
    part = jwt.utils.base64url_encode(json.dumps({"alg": "RS256", **header}).encode()).decode()
    _, body, signature = token(RSA_KEY).split(".")
    with pytest.raises(Unauthenticated):
        identify(keys, f"{part}.{body}.{signature}")


def claims(**changes: Any) -> dict[str, Any]:
    return {"sub": "alice", "aud": AUDIENCE, "iss": ISSUER, "exp": int(time.time()) + 300} | changes


@pytest.mark.parametrize("exp", [1e300, "soon", None, [], {}, True])
def test_an_expiry_of_another_form_is_refused(exp: Any, tmp_path: Path) -> None:
    keys = with_keys(tmp_path, public_pem(RSA_KEY))
    for number in ("1e999", json.dumps(exp)):
        text = json.dumps(claims(exp=0)).replace('"exp": 0', f'"exp": {number}')
        signed = jwt.api_jws.encode(text.encode(), RSA_KEY, algorithm="RS256")
        if exp == 1e300 and number != "1e999":
            assert identify(keys, signed) == "alice"  # a number, if a large one
            continue
        with pytest.raises(Unauthenticated):
            identify(keys, signed)


@pytest.mark.parametrize("damaged", ["server.pem", "server.key", "ca.pem"])
@pytest.mark.parametrize("content", [b"", b"-----BEGIN CERTIFICATE-----\nMIIC", None])
def test_former_certificates_serve_while_a_file_is_unusable(
    damaged: str, content: bytes | None, tmp_path: Path
) -> None:
    pki = make_pki(tmp_path)
    (tmp_path / "ca-of-clients.pem").write_bytes(pki.path("ca.pem").read_bytes())
    files = {
        "tls_cert_file": pki.path("server.pem"),
        "tls_key_file": pki.path("server.key"),
        "tls_client_ca_file": pki.path("ca.pem"),
    }
    own = {"cert_file": str(pki.path("client.pem")), "key_file": str(pki.path("client.key"))}
    setting = "EOFORGE_TLS_*_FILE"
    with running(lambda: make(**files)) as run:
        assert stale(setting) == 0
        path = pki.path(damaged)
        if content is None:
            path.unlink()
        else:
            path.write_bytes(content)
        with RetrievalClient(run.target, ca_file=str(tmp_path / "ca-of-clients.pem"), attempts=1, **own) as client:
            assert client.get_patch("x").info.patch_id == "x"
        assert stale(setting) == 1
