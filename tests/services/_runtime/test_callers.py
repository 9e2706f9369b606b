"""Who calls, and how often: bearer tokens and quotas."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import httpx
import jwt
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from eoforge.api.retrieval.v1 import retrieval_pb2 as pb
from eoforge.api.retrieval.v1 import retrieval_pb2_grpc
from eoforge.client import RemoteError, RetrievalClient
from eoforge.errors import UsageError
from services._runtime import errors as service_errors
from services._runtime.admission import Quota
from tests.services._runtime.failing_service import make
from tests.services.support import Running, Signer, running


class TestTokens:
    @pytest.fixture(scope="class")
    def guarded(self, signer: Signer) -> Iterator[Running]:
        with running(lambda: make(**signer.settings)) as run:
            yield run

    def test_a_good_token_passes(self, guarded: Running, signer: Signer) -> None:
        with RetrievalClient(guarded.target, token=signer.token()) as client:
            assert client.get_patch("x").info.patch_id == "x"
        header = {"authorization": f"Bearer {signer.token()}"}
        assert httpx.get(f"{guarded.rest}/v2/models", headers=header).status_code == 200

    def test_whatever_does_not_hold_is_refused(self, guarded: Running, signer: Signer, tmp_path: Path) -> None:
        past = dt.datetime.now(dt.UTC) - dt.timedelta(minutes=1)
        other = Signer(tmp_path)
        bad = {
            "none": None,
            "expired": signer.token(exp=past),
            "never expires": signer.token(exp=None),
            "other audience": signer.token(aud="someone else"),
            "other issuer": signer.token(iss="https://evil.test"),
            "no subject": signer.token(sub=None),
            "other key": other.token(),
            # The public key as an HMAC secret: the classic confusion of algorithms.
            "HS256 with the public key": _hs256(signer),
            "unsigned": jwt.encode({"sub": "alice", "aud": "eoforge"}, None, algorithm="none"),
            "garbage": "a.b.c",
        }
        for why, token in bad.items():
            with (
                RetrievalClient(guarded.target, token=token, attempts=1) as client,
                pytest.raises(RemoteError) as caught,
            ):
                client.get_patch("x")
            assert caught.value.code == "UNAUTHENTICATED", why
            assert caught.value.remote_reason == "UNAUTHENTICATED", why
        assert httpx.get(f"{guarded.rest}/v2/models").status_code == 401

    def test_health_needs_no_token(self, guarded: Running) -> None:
        with grpc.insecure_channel(guarded.target) as channel:
            answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=60)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING

    def test_a_rotated_key_counts_at_once(self, tmp_path: Path) -> None:
        old = Signer(tmp_path)
        with running(lambda: make(**old.settings)) as run:
            new = Signer(tmp_path)  # writes its public key over the old one
            with RetrievalClient(run.target, token=new.token()) as client:
                client.get_patch("x")
            with RetrievalClient(run.target, token=old.token()) as client, pytest.raises(RemoteError):
                client.get_patch("x")

    def test_hs256_secrets_must_be_long(self, tmp_path: Path) -> None:
        (tmp_path / "short").write_text("secret")
        values = {"token_algorithm": "HS256", "token_audience": "a", "token_issuer": "b"}
        with (
            pytest.raises(UsageError, match="32 bytes"),
            running(lambda: make(token_key_file=tmp_path / "short", **values)),
        ):
            pass


def _hs256(signer: Signer) -> str:
    import base64
    import hashlib
    import hmac
    import json

    def part(value: bytes) -> str:
        return base64.urlsafe_b64encode(value).rstrip(b"=").decode()

    claims = jwt.decode(signer.token(), options={"verify_signature": False})
    body = part(json.dumps({"alg": "HS256", "typ": "JWT"}).encode()) + "." + part(json.dumps(claims).encode())
    return body + "." + part(hmac.new(signer.public_pem, body.encode(), hashlib.sha256).digest())


def test_quota_per_caller_with_retry_info() -> None:
    # A bucket that takes hours to fill: however slowly the calls come, the third finds it empty.
    with (
        running(lambda: make(quota_per_second=1e-4, quota_burst=2)) as run,
        RetrievalClient(run.target, attempts=1) as client,
    ):
        client.get_patch("1")
        client.get_patch("2")
        with pytest.raises(RemoteError) as caught:
            client.get_patch("3")
        assert caught.value.code == "RESOURCE_EXHAUSTED"
        assert caught.value.remote_reason == "QUOTA_EXCEEDED"
        assert 9_000 < (caught.value.retry_after or 0) <= 10_000
    with running(lambda: make(quota_per_second=5, quota_burst=2)) as run:
        with RetrievalClient(run.target, attempts=5) as client:
            for i in range(4):  # the client comes back when it was told to
                client.get_patch(str(i))
        with grpc.insecure_channel(run.target) as channel:
            stub = retrieval_pb2_grpc.RetrievalServiceStub(channel)
            requests = [pb.SearchStreamRequest(correlation_id=str(i)) for i in range(5)]
            time.sleep(0.5)
            answers = list(stub.SearchStream(iter(requests), timeout=60))  # a stream is slowed down, not cut off
            assert [a.correlation_id for a in answers] == [str(i) for i in range(5)]


def test_a_bucket_fills_again_and_callers_do_not_share_it() -> None:
    now = [0.0]
    quota = Quota(2.0, 2, clock=lambda: now[0])
    for _ in range(2):
        quota.take("a")
    with pytest.raises(service_errors.QuotaExceeded) as caught:
        quota.take("a")
    assert caught.value.retry_after == pytest.approx(0.5)
    quota.take("b")
    now[0] = 0.5
    quota.take("a")
    now[0] = 100.0
    for _ in range(2):
        quota.take("a")
    with pytest.raises(service_errors.QuotaExceeded):
        quota.take("a")
