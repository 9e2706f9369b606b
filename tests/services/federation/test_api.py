"""API of the service: declared errors, limits, pages, and certificates from issue to revocation."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from eoforge.api.federation.v1 import federation_pb2 as pb
from eoforge.client.base import RemoteError
from eoforge.client.federation import FederationClient
from eoforge.client.silo import SiloClient
from eoforge.federated.ca import Authority
from eoforge.storage.chunks import digest_of, file_manifest
from eoforge.storage.tensorfile import write_file
from scripts.settings_table import table
from services._runtime.errors import CATALOGUE
from services.federation import servicer
from tests.federated.quadratic import SHAPES, spec, write_model
from tests.services.federation.helpers import ManualSilo, deltas, server_for, start_run
from tests.services.support import Running, Signer, details, running

ROOT = Path(__file__).parents[3]


def test_a_silo_cannot_make_the_store_hold_what_it_likes(
    served: Running, client: FederationClient, tmp_path: Path
) -> None:
    silo = ManualSilo(served.target, tmp_path)
    run = start_run(client, [silo], tmp_path)
    announce = silo.client.stub.PrepareUpdate

    def request(number: int) -> pb.PrepareUpdateRequest:
        return pb.PrepareUpdateRequest(
            run_id=run, round=1, manifest=pb.Manifest(length=9, chunks=[number.to_bytes(32, "big")])
        )

    for number in range(8):
        silo.client._call(announce, request(number))
    with pytest.raises(RemoteError) as caught:
        silo.client._call(announce, request(8))
    assert caught.value.remote_reason == "LIMIT_EXCEEDED"
    silo.client._call(announce, request(0))  # what it announced before it may announce again
    client.cancel(run)


def test_names_from_messages_are_names_and_answers_say_nothing_of_the_store(
    served: Running, client: FederationClient, tmp_path: Path
) -> None:
    silo = ManualSilo(served.target, tmp_path)
    run = start_run(client, [silo], tmp_path)
    calls = {
        "INVALID_ARGUMENT": lambda: silo.client.answer(run, 1, update=pb.UpdateAnswer(digest="../x", samples=1)),
        "NOT_FOUND": lambda: silo.client._call(
            silo.client.stub.PutUpdate, iter([pb.PutUpdateRequest(run_id=run, round=1, digest="0" * 64)])
        ),
        "NOT_FOUND ": lambda: client.run("../x"),
    }
    for reason, provoke in calls.items():
        with pytest.raises(RemoteError) as caught:
            provoke()
        assert caught.value.remote_reason == reason.strip()
        assert "store" not in str(caught.value)
        assert "manifests" not in str(caught.value)
    client.cancel(run)


def test_pause_opens_no_round_and_cancel_ends_it(served: Running, client: FederationClient, tmp_path: Path) -> None:
    silo = ManualSilo(served.target, tmp_path)
    run = start_run(client, [silo], tmp_path)
    client.pause(run, "maintenance")
    silo.send(run, 1, deltas())
    for event in client.watch(run):
        if event.WhichOneof("event") == "round_closed":
            break
    assert (client.run(run).status, client.run(run).round.number) == (pb.RUN_STATUS_PAUSED, 1)
    client.resume(run)
    assert next(silo.tasks).round == 2
    assert client.cancel(run, "enough").status == pb.RUN_STATUS_CANCELLED
    assert next(silo.tasks).kind == pb.TASK_KIND_END
    with pytest.raises(RemoteError) as caught:
        client.pause(run)
    assert caught.value.remote_reason == "WRONG_STATE"
    assert client.get_model(run, str(tmp_path / "kept"), round=1) == 1


def test_runs_and_silos_come_in_pages(served: Running, client: FederationClient, tmp_path: Path) -> None:
    model = client.put_model(write_model(tmp_path / "model.safetensors"))
    names = [client.create_run(spec(model, silos=["nobody"])).run_id for _ in range(3)]
    page = client._call(client.stub.ListRuns, pb.ListRunsRequest(page_size=2))
    assert [r.run_id for r in page.runs] == names[:0:-1]
    rest = client._call(client.stub.ListRuns, pb.ListRunsRequest(page_size=2, page_token=page.next_page_token))
    assert rest.runs[0].run_id == names[0]
    ManualSilo(served.target, tmp_path), ManualSilo(served.target, tmp_path)
    first = client._call(client.stub.ListSilos, pb.ListSilosRequest(page_size=1))
    assert len(first.silos) == 1
    assert len(list(client.silos())) > 1


def test_an_estimate_counts_the_bytes_of_the_strategy(client: FederationClient, tmp_path: Path) -> None:
    model = client.put_model(write_model(tmp_path / "model.safetensors"))
    elements = sum(int(np.prod(s)) for s in SHAPES.values())
    for strategy, factor in (("fedavg", 1), ("scaffold", 2)):
        request = pb.EstimateRunRequest(spec=spec(model, strategy=strategy), silos=4)
        found = client.estimate(request)
        assert (found.bytes_down, found.bytes_up) == (4 * 4 * elements * factor, 4 * 4 * elements * factor)
        assert found.bytes_total == 2 * (found.bytes_down + found.bytes_up)


def test_a_request_id_makes_a_create_without_a_name_safe_to_repeat(client: FederationClient, tmp_path: Path) -> None:
    model = client.put_model(write_model(tmp_path / "model.safetensors"))

    def create(**given: Any) -> pb.Run:
        return client._call(client.stub.CreateRun, pb.CreateRunRequest(**given)).run

    wanted = spec(model, silos=["nobody"])
    first = create(spec=wanted, request_id="abc")
    assert create(spec=wanted, request_id="abc") == first
    assert create(spec=wanted, request_id="abd").run_id != first.run_id
    assert client.create_run(wanted).run_id != client.create_run(wanted).run_id, "two calls are two runs"
    with pytest.raises(RemoteError) as caught:
        create(spec=spec(model, silos=["somebody"]), request_id="abc")
    assert caught.value.remote_reason == "CONFLICT"
    for bad in ({"request_id": "a b"}, {"request_id": "a", "run_id": "b"}):
        with pytest.raises(grpc.RpcError) as refused:
            client.stub.CreateRun(pb.CreateRunRequest(spec=wanted, **bad), timeout=60)
        assert details(refused.value)["fields"][0][0] == "request_id"


def test_a_retried_create_makes_one_run(
    client: FederationClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer is lost and the client asks again: the run that is there comes back."""
    model = client.put_model(write_model(tmp_path / "model.safetensors"))
    before = {run.run_id for run in client.runs()}
    asked, stream = [], client._stream

    def lose_the_first(call: Any, request: Any, timeout: float) -> Any:
        answer = stream(call, request, timeout)
        asked.append(request)
        if len(asked) == 1:
            raise RemoteError("lost", "UNAVAILABLE", "", 0.01)
        return answer

    monkeypatch.setattr(client, "_stream", lose_the_first)
    created = client.create_run(spec(model, silos=["nobody"]))
    monkeypatch.undo()
    assert len(asked) == 2
    assert {run.run_id for run in client.runs()} - before == {created.run_id}


def test_bad_arguments_are_named(client: FederationClient, tmp_path: Path) -> None:
    model = client.put_model(write_model(tmp_path / "model.safetensors"))
    for call, request, field in (
        (client.stub.CreateRun, pb.CreateRunRequest(spec=spec(model, strategy="fedmagic")), "spec"),
        (client.stub.CreateRun, pb.CreateRunRequest(run_id="a b", spec=spec(model)), "run_id"),
        (client.stub.PrepareModel, pb.PrepareModelRequest(manifest=pb.Manifest(length=5)), "manifest"),
        (client.stub.ListRuns, pb.ListRunsRequest(page_size=5000), "page_size"),
        (client.stub.ListSilos, pb.ListSilosRequest(page_token="!"), "page_token"),
    ):
        with pytest.raises(grpc.RpcError) as refused:
            call(request, timeout=60)
        assert [name for name, _, _ in details(refused.value)["fields"]] == [field]


def test_creating_the_same_run_twice_gives_the_same_run(client: FederationClient, tmp_path: Path) -> None:
    model = client.put_model(write_model(tmp_path / "model.safetensors"))
    wanted = spec(model, silos=["nobody"])
    assert client.create_run(wanted, "twice") == client.create_run(wanted, "twice")
    with pytest.raises(RemoteError) as caught:
        client.create_run(spec(model, silos=["somebody"]), "twice")
    assert caught.value.remote_reason == "CONFLICT"


def _many(client: FederationClient, silo: ManualSilo, run: str) -> dict[str, Any]:
    return {
        "NOT_FOUND": lambda: client.run("no-such-run"),
        "INVALID_ARGUMENT": lambda: client._call(client.stub.ListRuns, pb.ListRunsRequest(page_token="x")),
        "LIMIT_EXCEEDED": lambda: client._call(client.stub.ListRuns, pb.ListRunsRequest(page_size=5000)),
        "WRONG_STATE": lambda: silo.client.answer(run, 1, update=pb.UpdateAnswer(digest=announced_digest(silo, run))),
        "DATA_REFUSED": lambda: client._call(
            client.stub.PrepareModel, pb.PrepareModelRequest(manifest=pb.Manifest(length=5, chunks=[b"short"]))
        ),
        "PERMISSION_DENIED": lambda: SiloClient(silo.client._target, attempts=1).register(samples=1),
    }


def announced_digest(silo: ManualSilo, run: str) -> str:
    """Announces an update without sending it."""
    path = silo.folder / "announced"
    write_file(path, deltas(7.0))
    manifest = file_manifest(str(path))
    request = pb.PrepareUpdateRequest(run_id=run, round=1, manifest=manifest)
    assert silo.client._call(silo.client.stub.PrepareUpdate, request).missing == [0]
    return digest_of(manifest)


def test_declared_errors(served: Running, client: FederationClient, tmp_path: Path) -> None:
    """CONFLICT, NOT_LEADER: their own tests. QUOTA_EXCEEDED, INTERNAL, ...: the runtime's, whose code this is."""
    silo = ManualSilo(served.target, tmp_path)
    run = start_run(client, [silo], tmp_path)
    for reason, provoke in _many(client, silo, run).items():
        with pytest.raises(RemoteError) as caught:
            provoke()
        assert caught.value.remote_reason == reason, caught.value
    client.cancel(run)


def test_uploads_beyond_the_bound_are_told_to_wait(tmp_path: Path) -> None:
    first = pb.PutModelRequest(manifest=file_manifest(write_model(tmp_path / "model")))
    hold = threading.Event()

    def slow() -> Iterator[pb.PutModelRequest]:
        yield first
        hold.wait(60)

    with running(server_for(tmp_path / "store", max_uploads=1)) as served, FederationClient(served.target) as client:
        call = client.stub.PutModel.future(slow())
        refused = None
        while refused is None:  # until the first one has arrived
            try:
                client.stub.PutModel(iter([first]))
            except grpc.RpcError as error:
                refused = error
        assert details(refused)["reason"] == "OVERLOADED"
        hold.set()
        call.result()


def test_certificates_tokens_and_who_may_what(tmp_path: Path) -> None:
    authority = Authority.create(tmp_path / "ca")
    tls = tmp_path / "tls"
    authority.issue("server", "coordinator", tls, hosts=["127.0.0.1"])
    authority.issue("silo", "berlin", tls)
    signer = Signer(tmp_path)
    settings = {
        "tls_cert_file": tls / "coordinator.pem",
        "tls_key_file": tls / "coordinator.key",
        "tls_client_ca_file": tls / "ca.pem",
        "revoked_file": tmp_path / "ca" / "crl.pem",
        "silo_port": 0,
        **signer.settings,
    }

    def silo(name: str = "berlin") -> SiloClient:
        own = {"cert_file": str(tls / f"{name}.pem"), "key_file": str(tls / f"{name}.key")}
        files = {"ca_file": str(tls / "ca.pem"), **own}
        return SiloClient(f"127.0.0.1:{served.server.certificate_port}", attempts=1, **files)

    def operator(name: str, scope: str = "federation:operator") -> FederationClient:
        token = signer.token(name, scope=scope)
        return FederationClient(served.target, attempts=1, ca_file=str(tls / "ca.pem"), token=token)

    def refused(call: Any) -> str:
        with pytest.raises(RemoteError) as caught:
            call()
        return caught.value.remote_reason

    with running(server_for(tmp_path / "store", **settings)) as served:
        assert silo().register(samples=3).silo_id == "berlin"
        with operator("alice") as alice, operator("bob") as bob:
            model = alice.put_model(write_model(tmp_path / "model"))
            alice.create_run(spec(model, silos=["berlin"]), "hers")
            assert refused(lambda: bob.run("hers")) == "PERMISSION_DENIED"
            assert list(bob.runs()) == []
            assert refused(lambda: operator("carol", scope="other").run("hers")) == "PERMISSION_DENIED"
            assert refused(lambda: FederationClient(served.target, ca_file=str(tls / "ca.pem")).run("hers")) == (
                "UNAUTHENTICATED"
            )
        # Rotation: a new certificate works beside the old one; revocation ends both.
        with silo() as old:
            old.register(samples=3)
            authority.issue("silo", "berlin", tls)
            silo().register(samples=3)
            authority.revoke("berlin")
            assert refused(lambda: old.register(samples=3)) == "UNAUTHENTICATED"
            assert refused(lambda: silo().register(samples=3)) == "UNAUTHENTICATED"
        # A certificate of an operator is no silo's.
        authority.issue("operator", "dora", tls)
        assert refused(lambda: silo("dora").register(samples=1)) == "PERMISSION_DENIED"
        # The other protocol asks for the same: a certificate of an operator that was not revoked.
        dora, berlin = inference(served, tls, "dora"), inference(served, tls, "berlin")
        assert status_of(dora, "none") == grpc.StatusCode.NOT_FOUND
        assert status_of(dora, "hers") == grpc.StatusCode.PERMISSION_DENIED
        assert status_of(berlin, "hers") == grpc.StatusCode.UNAUTHENTICATED
        authority.revoke("dora")
        assert status_of(dora, "none") == grpc.StatusCode.UNAUTHENTICATED
    assert list((tmp_path / "store" / "audit").rglob("*.json"))


def inference(served: Running, tls: Path, name: str) -> Any:
    """A client of the Open Inference Protocol with the certificate of ``name``."""
    from kserve.protocol.grpc import grpc_predict_v2_pb2_grpc as oip_grpc

    files = [(tls / part).read_bytes() for part in ("ca.pem", f"{name}.key", f"{name}.pem")]
    channel = grpc.secure_channel(f"127.0.0.1:{served.server.certificate_port}", grpc.ssl_channel_credentials(*files))
    return oip_grpc.GRPCInferenceServiceStub(channel)


def status_of(stub: Any, run: str) -> grpc.StatusCode:
    """How a question for the state of a run is answered."""
    from kserve import InferInput, InferRequest

    tensor = InferInput("run_id", [1], "BYTES")
    tensor.set_data_from_numpy(np.array([run.encode()], dtype=object))
    with pytest.raises(grpc.RpcError) as caught:
        stub.ModelInfer(InferRequest("eoforge-federation-runs", [tensor]).to_grpc())
    code: grpc.StatusCode = caught.value.code()
    return code


def test_the_coordinator_starts_without_what_it_may_never_need() -> None:
    """KServe, pandas and Lance are 140 MB and seconds of imports: a restart after a crash would wait for them."""
    heavy = "kserve", "pandas", "lance", "pyarrow", "torch", "kubernetes"
    code = f"import sys, services.federation.server; print([m for m in {heavy!r} if m in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, text=True) == "[]\n"


def test_a_client_puts_the_pages_of_a_history_together(
    served: Running, client: FederationClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    silo = ManualSilo(served.target, tmp_path)
    run = start_run(client, [silo], tmp_path, policy={"rounds": 5})
    monkeypatch.setattr(servicer, "MAX_HISTORY", 2)
    for number in range(1, 6):
        silo.send(run, number, deltas())
        if number < 5:
            assert next(silo.tasks).round == number + 1
    list(client.watch(run))
    assert [summary.number for summary in client.run(run).history] == [1, 2, 3, 4, 5]


def test_a_long_history_comes_in_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    run = pb.Run(history=[pb.RoundSummary(number=n) for n in range(1, 251)])
    page, more = servicer._page(run)
    assert ([s.number for s in page.history], more) == (list(range(151, 251)), True)
    page, more = servicer._page(run, before=51)
    assert ([s.number for s in page.history], more) == (list(range(1, 51)), False)
    monkeypatch.setattr(servicer, "MAX_HISTORY_BYTES", 5)
    page, more = servicer._page(run)
    assert more
    assert 1 <= len(page.history) < 3
    assert servicer._page(pb.Run()) == (pb.Run(), False)


def test_the_readme_lists_every_setting_and_the_proto_every_error() -> None:
    readme = (ROOT / "services/federation/README.md").read_text()
    assert table("services.federation.settings") in readme, "run python -m scripts.settings_table and paste the result"
    head = (ROOT / "proto/eoforge/api/federation/v1/federation.proto").read_text().split("service ")[0]
    named = {reason for reason in CATALOGUE if reason in head}
    assert named == set(CATALOGUE) - {"NOT_READY", "INDEX_CHANGED", "OTHER_BUNDLE", "BUNDLE_REFUSED", "UNIMPLEMENTED"}
    for reason in named:
        assert f"| {reason} | {CATALOGUE[reason].status.name} | {CATALOGUE[reason].http} |" in readme
