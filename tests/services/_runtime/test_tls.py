"""What the ports demand: TLS, client certificates, and settings that would expose a service."""

from __future__ import annotations

import ssl
import time
from pathlib import Path

import grpc
import httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from eoforge.api.retrieval.v1 import retrieval_pb2_grpc
from eoforge.client import RemoteError, RetrievalClient
from eoforge.errors import UsageError
from services._runtime.settings import RuntimeSettings
from tests.services._runtime.failing_service import NAME, get, make
from tests.services.support import Pki, Signer, make_pki, running, until


class TestTls:
    def test_tls_and_the_plaintext_health_port(self, pki: Pki) -> None:
        files = {"tls_cert_file": pki.path("server.pem"), "tls_key_file": pki.path("server.key"), "health_port": 0}
        with running(lambda: make(**files)) as run:
            with RetrievalClient(run.target, ca_file=str(pki.path("ca.pem"))) as client:
                assert client.get_patch("x").info.patch_id == "x"
            with RetrievalClient(run.target, attempts=1) as client, pytest.raises(RemoteError):
                client.get_patch("x")
            assert httpx.get(f"{run.rest}/v2/health/live", verify=str(pki.path("ca.pem"))).status_code == 200
            with grpc.insecure_channel(f"127.0.0.1:{run.server.health_port}") as channel:
                health = health_pb2_grpc.HealthStub(channel)
                request = health_pb2.HealthCheckRequest(service=NAME)
                assert health.Check(request, timeout=60).status == health_pb2.HealthCheckResponse.SERVING
                with pytest.raises(grpc.RpcError) as caught:
                    next(health.Watch(request, timeout=60))
                assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
                with pytest.raises(grpc.RpcError) as caught:
                    get(retrieval_pb2_grpc.RetrievalServiceStub(channel), "x")
                assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED

    def test_mutual_tls_names_the_caller_and_counts_its_quota(self, pki: Pki) -> None:
        files = {
            "tls_cert_file": pki.path("server.pem"),
            "tls_key_file": pki.path("server.key"),
            "tls_client_ca_file": pki.path("ca.pem"),
        }
        ca = str(pki.path("ca.pem"))
        with running(lambda: make(**files, quota_per_second=0.01, quota_burst=1)) as run:
            own = {"cert_file": str(pki.path("client.pem")), "key_file": str(pki.path("client.key"))}
            with RetrievalClient(run.target, ca_file=ca, attempts=1, **own) as client:
                client.get_patch("x")
                with pytest.raises(RemoteError, match=r"berlin\.silo") as caught:
                    client.get_patch("x")
                assert caught.value.remote_reason == "QUOTA_EXCEEDED"
            stranger = {"cert_file": str(pki.path("stranger.pem")), "key_file": str(pki.path("stranger.key"))}
            for files_ in ({}, stranger):
                with (
                    RetrievalClient(run.target, ca_file=ca, attempts=1, timeout=30, **files_) as client,
                    pytest.raises(RemoteError) as caught,
                ):
                    client.get_patch("x")
                assert caught.value.code == "UNAVAILABLE"

    def test_a_token_never_travels_in_the_clear(self) -> None:
        with pytest.raises(UsageError, match="in the clear"):
            RetrievalClient("example.org:8081", token="t", tls=False)

    def test_renewed_certificates_count_for_new_connections(self, tmp_path: Path) -> None:
        """Both ports, without a restart; a half-written pair in between does no harm."""
        make_pki(tmp_path)
        before = (tmp_path / "ca.pem").rename(tmp_path / "before.pem")
        files = {"tls_cert_file": tmp_path / "server.pem", "tls_key_file": tmp_path / "server.key"}
        with running(lambda: make(**files)) as run:

            def answers(ca: Path) -> list[bool]:
                with RetrievalClient(run.target, ca_file=str(ca), attempts=1, timeout=30) as client:
                    try:
                        over_grpc = client.get_patch("x").info.patch_id == "x"
                    except RemoteError:
                        over_grpc = False
                try:
                    over_rest = httpx.get(f"{run.rest}/v2/health/live", verify=str(ca)).status_code == 200
                except httpx.ConnectError:
                    over_rest = False
                return [over_grpc, over_rest]

            assert answers(before) == [True, True]
            old_key = (tmp_path / "server.key").read_bytes()
            make_pki(tmp_path)
            new_key = (tmp_path / "server.key").read_bytes()
            (tmp_path / "server.key").write_bytes(old_key)
            time.sleep(1.5)  # longer than it takes to look at the files
            assert answers(before)[1], "a certificate without its key is not taken up"
            (tmp_path / "server.key").write_bytes(new_key)
            until(lambda: answers(tmp_path / "ca.pem") == [True, True])
            assert answers(before) == [False, False]

    def test_a_withdrawn_authority_is_refused_over_rest(self, tmp_path: Path) -> None:
        """A new client CA replaces the former one; it is not added to it."""
        former, present = (tmp_path / name for name in ("former", "present"))
        for folder in (former, present):
            folder.mkdir()
            make_pki(folder)
        authority = tmp_path / "client-ca.pem"
        authority.write_bytes((former / "ca.pem").read_bytes())
        own = {"tls_cert_file": former / "server.pem", "tls_key_file": former / "server.key"}
        with running(lambda: make(**own, tls_client_ca_file=authority)) as run:

            def answers(folder: Path) -> bool:
                context = ssl.create_default_context(cafile=former / "ca.pem")
                context.load_cert_chain(folder / "client.pem", folder / "client.key")
                try:
                    with httpx.Client(verify=context) as client:
                        return client.get(f"{run.rest}/v2/health/live").status_code == 200
                except httpx.TransportError:
                    return False

            assert answers(former)
            assert not answers(present)
            authority.write_bytes((present / "ca.pem").read_bytes())
            until(lambda: answers(present))
            assert not answers(former)


class TestExposure:
    @pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.1.2.3", "example.org"])
    def test_other_addresses_need_tls_and_authentication(self, host: str, pki: Pki, tmp_path: Path) -> None:
        tls = {"tls_cert_file": pki.path("server.pem"), "tls_key_file": pki.path("server.key")}
        signer = Signer(tmp_path)
        for values, missing in (
            ({}, "without TLS"),
            (tls, "without authentication"),
            (signer.settings, "without TLS"),
        ):
            with pytest.raises(UsageError, match=missing):
                RuntimeSettings(host=host, **values).require_consistent()
        RuntimeSettings(host=host, **tls, **signer.settings).require_consistent()
        RuntimeSettings(host=host, **tls, tls_client_ca_file=pki.path("ca.pem")).require_consistent()
        RuntimeSettings(host=host, insecure=True).require_consistent()

    def test_a_server_does_not_start_exposed(self) -> None:
        with (
            pytest.raises(UsageError, match="refusing to listen"),
            running(lambda: make(host="0.0.0.0")),
        ):
            pass

    def test_settings_come_from_the_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("EOFORGE_PORT", "7000")
        monkeypatch.setenv("EOFORGE_INSECURE", "true")
        settings = RuntimeSettings()
        assert (settings.port, settings.insecure) == (7000, True)
        monkeypatch.setenv("EOFORGE_PORT", "70000")
        with pytest.raises(UsageError, match="EOFORGE_PORT"):
            RuntimeSettings()
        monkeypatch.setenv("EOFORGE_PORT", "7000")
        monkeypatch.setenv("EOFORGE_DRAIN_SECONDS", "inf")
        with pytest.raises(UsageError, match="EOFORGE_DRAIN_SECONDS"):
            RuntimeSettings()

    def test_half_of_a_pair_is_refused(self, pki: Pki, tmp_path: Path) -> None:
        for values in (
            {"tls_cert_file": pki.path("server.pem")},
            {"tls_client_ca_file": pki.path("ca.pem")},
            {"token_key_file": Signer(tmp_path).key_file},
        ):
            with pytest.raises(UsageError):
                RuntimeSettings(**values).require_consistent()

    def test_a_taken_port_is_an_error_that_says_so(self) -> None:
        with running(make) as run:
            for taken in ({"port": run.server.port}, {"rest_port": run.server.rest_port}):
                with pytest.raises(UsageError, match="cannot listen"), running(lambda values=taken: make(**values)):
                    pass
