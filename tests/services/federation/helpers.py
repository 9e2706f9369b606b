"""Helpers of the federation tests: settings of a real server, silos in threads, and manual silos."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from eoforge.api.federation.v1 import federation_pb2 as pb
from eoforge.client.federation import FederationClient
from eoforge.client.silo import SiloClient
from eoforge.federated.silo.silo import Silo
from eoforge.storage.chunks import digest_of, file_manifest
from eoforge.storage.tensorfile import write_file
from services._runtime.server import Server
from services.federation.coordinator import Coordinator
from services.federation.server import build
from services.federation.settings import FederationSettings
from tests.federated.quadratic import SHAPES, Quadratic, spec, write_model
from tests.services.support import Running, until

JOIN_S = 60.0


def settings_for(folder: Path | str, **values: Any) -> FederationSettings:
    defaults: dict[str, Any] = {
        "federation_uri": str(folder),
        "port": 0,
        "rest_port": 0,
        "drain_notice_seconds": 0.0,
        "drain_seconds": 5.0,
        "lease_seconds": 60.0,  # no other coordinator exists, and a busy machine must not lose the lead
        "instance": "one",
        "log_level": "warning",
        "flush": False,  # covered by test_disk.py; slow elsewhere
    }
    return FederationSettings(**(defaults | values))


def server_for(folder: Path | str, **values: Any) -> Callable[[], Server]:
    """Maker of a server, for ``running``."""
    return lambda: build(settings_for(folder, **values))


def coordinator_of(served: Running) -> Coordinator:
    """Coordinator inside a running server."""
    return served.server.service.start.__self__  # type: ignore[attr-defined,no-any-return]  # bound method


class SiloThread:
    """Silo in a thread."""

    def __init__(self, target: str, name: str, folder: Path, trainer: Any = None, **options: Any) -> None:
        self.trainer = trainer or Quadratic()
        about = {"modalities": options.pop("modalities", ["s2"]), "samples": options.pop("samples", 10)}
        about["strategies"] = options.pop("strategies", None)
        self.until, self.within = options.pop("until", ""), options.pop("within", 0.0)
        self.silo = Silo(SiloClient(target, silo_id=name, **options), lambda _: self.trainer, folder / name, **about)
        self.status: Any = None
        self.error: BaseException | None = None
        self.thread = threading.Thread(target=self._main, daemon=True)
        self.thread.start()

    def _main(self) -> None:
        try:
            self.status = self.silo.run(until_end_of=self.until, appears_within=self.within)
        except BaseException as error:
            self.error = error

    def join(self) -> Any:
        self.thread.join(JOIN_S)
        assert not self.thread.is_alive(), "the silo did not end"
        if self.error is not None:
            raise self.error
        return self.status


@contextmanager
def silo_threads(target: str, folder: Path, names: list[str], **options: Any) -> Iterator[dict[str, SiloThread]]:
    made = {name: SiloThread(target, name, folder, **options) for name in names}
    try:
        yield made
    finally:
        for silo in made.values():
            silo.silo.stop()
        for silo in made.values():
            silo.thread.join(JOIN_S)


def wait_for(client: FederationClient, run_id: str, until: Callable[[pb.RunEvent], bool]) -> pb.RunEvent:
    """First event that fulfils a condition."""
    for event in client.watch(run_id):
        if until(event):
            return event
    raise AssertionError(f"run {run_id} ended before: {client.run(run_id).failure}")


def wait_connected(client: FederationClient, silos: int) -> None:
    """Waits until at least ``silos`` silos are connected, by polling."""
    until(lambda: sum(silo.connected for silo in client.silos()) >= silos)


SILO_NAMES = (f"x{i}" for i in itertools.count())


class ManualSilo:
    """Registered silo whose tasks and answers a test handles itself."""

    def __init__(
        self, target: str, folder: Path, samples: int = 10, modalities: tuple[str, ...] = ("s2",), name: str = ""
    ) -> None:
        self.name, self.folder = name or next(SILO_NAMES), folder
        self.client = SiloClient(target, silo_id=self.name, attempts=2)
        self.client.register(samples=samples, modalities=modalities)
        self.tasks = self.client.tasks()

    def send(self, run: str, number: int, tensors: Mapping[str, Any], **answer: Any) -> pb.AnswerResponse:
        path = self.folder / f"{self.name}.safetensors"
        write_file(path, tensors)
        manifest = file_manifest(str(path))
        digest = digest_of(manifest)
        self.client.upload(run, number, str(path), manifest, digest)
        numbers = {"samples": 5, "steps": 1} | answer
        return self.client.answer(run, number, update=pb.UpdateAnswer(digest=digest, **numbers))


def deltas(value: float = 1.0, **changes: Any) -> dict[str, Any]:
    return {f"delta/{n}": np.full(s, value, np.float32) for n, s in SHAPES.items()} | changes


def start_run(client: FederationClient, silos: list[ManualSilo], tmp_path: Path, **changes: Any) -> str:
    """Creates a run for the silos and receives their first tasks."""
    model = client.put_model(write_model(tmp_path / "model.safetensors"))
    policy = {"rounds": 2, "min_silos": len(silos)} | changes.pop("policy", {})
    run = client.create_run(spec(model, policy=policy, silos=[silo.name for silo in silos], **changes))
    for silo in silos:
        assert next(silo.tasks).kind == pb.TASK_KIND_TRAIN
    return run.run_id
