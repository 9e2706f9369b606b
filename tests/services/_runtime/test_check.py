"""What ``helm test`` runs, against a real service: with and without a token, with and without a certificate."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from services._runtime.check import main
from tests.services.conftest import server_for
from tests.services.retrieval.fixtures import RetrievalFixture
from tests.services.support import Pki, Running, Signer, make_pki, running

RPC = "eoforge.api.retrieval.v1.RetrievalService/ListIndexes"


@pytest.fixture(scope="module")
def guarded(archive: RetrievalFixture, pki: Pki, signer: Signer) -> Iterator[Running]:
    """TLS with client certificates, and tokens."""
    files = {
        "tls_cert_file": pki.path("server.pem"),
        "tls_key_file": pki.path("server.key"),
        "tls_client_ca_file": pki.path("ca.pem"),
    }
    with running(server_for(archive, **files, **signer.settings)) as run:
        yield run


@pytest.fixture(scope="module")
def tls_service(archive: RetrievalFixture, pki: Pki, signer: Signer) -> Iterator[Running]:
    """TLS without client certificates, and tokens."""
    files = {"tls_cert_file": pki.path("server.pem"), "tls_key_file": pki.path("server.key")}
    with running(server_for(archive, **files, **signer.settings)) as run:
        yield run


@pytest.fixture(scope="module")
def open_service(archive: RetrievalFixture) -> Iterator[Running]:
    """Neither."""
    with running(server_for(archive)) as run:
        yield run


def arguments(pki: Pki, *names: str) -> list[str]:
    """Options for the CA and, by name, a certificate."""
    options = ["--ca", str(pki.path("ca.pem"))]
    for name in names:
        options += ["--cert", str(pki.path(f"{name}.pem")), "--key", str(pki.path(f"{name}.key"))]
    return options


def test_an_open_service_answers(open_service: Running, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([open_service.target, RPC]) == 0
    out = capsys.readouterr().out
    assert "health: SERVING" in out
    assert "indexes" in out


def test_token_and_certificate_are_carried(guarded: Running, pki: Pki, signer: Signer, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text(signer.token() + "\n")
    assert main([guarded.target, RPC, *arguments(pki, "client"), "--token-file", str(token)]) == 0


def test_a_caller_without_either_is_refused_and_that_can_be_expected(
    guarded: Running, pki: Pki, capsys: pytest.CaptureFixture[str]
) -> None:
    without_token = [guarded.target, RPC, *arguments(pki, "client")]
    assert main(without_token) == 1
    assert "UNAUTHENTICATED" in capsys.readouterr().err
    assert main([*without_token, "--expect-refusal"]) == 0
    assert main([guarded.target, RPC, *arguments(pki), "--expect-refusal"]) == 0


def test_a_server_that_wants_tokens_alone_refuses_by_its_answer(
    tls_service: Running, pki: Pki, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([tls_service.target, RPC, *arguments(pki), "--expect-refusal"]) == 0
    said = capsys.readouterr()
    assert "health: SERVING" in said.out
    assert "UNAUTHENTICATED" in said.err


def test_nobody_there_is_no_refusal(pki: Pki, monkeypatch: pytest.MonkeyPatch) -> None:
    """`helm test` without a credential must not be green over a service that is down."""
    monkeypatch.setattr("services._runtime.check._WAIT_S", 0.5)
    assert main(["127.0.0.1:1", RPC, "--expect-refusal"]) == 1
    assert main(["127.0.0.1:1", RPC, *arguments(pki), "--expect-refusal"]) == 1


def test_a_server_of_another_ca_is_no_refusal(guarded: Running, tmp_path: Path) -> None:
    other = make_pki(tmp_path)
    assert main([guarded.target, RPC, "--ca", str(other.path("ca.pem")), "--expect-refusal"]) == 1


def test_an_open_service_fails_a_test_that_expects_refusal(open_service: Running) -> None:
    assert main([open_service.target, RPC, "--expect-refusal"]) == 1


@pytest.mark.parametrize("name", ["ListIndexes", "eoforge.api.retrieval.v1.RetrievalService/Nothing", "a.b/c"])
def test_an_unknown_method_is_named(open_service: Running, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([open_service.target, name]) == 1
    assert name in capsys.readouterr().err


def test_a_missing_key_is_named(pki: Pki, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["127.0.0.1:1", RPC, "--cert", str(pki.path("client.pem"))]) == 1
    assert "--key" in capsys.readouterr().err
