"""A rolling restart of two processes behind one list of addresses: no call fails."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import grpc
import pytest

from eoforge.api.retrieval.v1 import retrieval_pb2 as pb
from eoforge.api.retrieval.v1 import retrieval_pb2_grpc
from eoforge.client import RemoteError, RetrievalClient
from eoforge.client.base import is_loopback

ROOT = Path(__file__).parents[3]
CALLERS, READY_S, JOIN_S = 48, 120.0, 120.0


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


class Process:
    """Server in a process of its own, on a fixed port."""

    def __init__(self, port: int, log: Path) -> None:
        self.port, self._log = port, log
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        environment = {
            "EOFORGE_PORT": str(self.port),
            "EOFORGE_REST_PORT": "0",
            "EOFORGE_DRAIN_NOTICE_SECONDS": "0.2",
            "EOFORGE_REFLECTION": "false",
        }
        with open(self._log, "ab") as log:
            place = log.tell()
            command = [sys.executable, "-m", "tests.services._runtime.slow_process"]
            self._process = subprocess.Popen(command, env=os.environ | environment, stderr=log, cwd=ROOT)
        self._place = place

    def wait_ready(self) -> None:
        assert self._process is not None
        end = time.monotonic() + READY_S
        while not any(json.loads(line)["event"] == "serving" for line in self._lines(self._place)):
            assert time.monotonic() < end, self._log.read_text()
            assert self._process.poll() is None, self._log.read_text()
            time.sleep(0.05)

    def _lines(self, place: int) -> list[str]:
        text = self._log.read_bytes()[place:].decode()
        return [line for line in text[: text.rfind("\n") + 1].splitlines() if line.startswith("{")]

    def stop(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        assert self._process.wait(JOIN_S) == 0

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[list[Process]]:
    found: list[Process] = []
    try:
        for port in free_ports(2):
            found.append(Process(port, tmp_path / f"{port}.log"))
            found[-1].start()
        for process in found:
            process.wait_ready()
        yield found
    finally:
        for process in found:
            process.kill()


def test_no_call_fails_while_each_process_is_replaced(processes: list[Process]) -> None:
    target = "ipv4:" + ",".join(f"127.0.0.1:{process.port}" for process in processes)
    done, answered = threading.Event(), [0] * CALLERS
    failures: list[tuple[str, str]] = []

    def call(number: int) -> None:
        with RetrievalClient(target) as client:
            while not done.is_set():
                try:
                    client.get_patch(str(number))
                    answered[number] += 1
                except RemoteError as error:
                    failures.append((error.code, str(error)))

    threads = [threading.Thread(target=call, args=(number,), daemon=True) for number in range(CALLERS)]
    for thread in threads:
        thread.start()
    for process in processes:
        time.sleep(1.0)  # callers are in the middle of their calls
        process.stop()
        process.start()
        process.wait_ready()
    time.sleep(1.0)
    done.set()
    for thread in threads:
        thread.join(JOIN_S)
        assert not thread.is_alive()
    assert failures == []
    assert min(answered) > 0


def test_a_call_that_a_stopping_server_cancelled_is_made_again() -> None:
    """gRPC cancels calls that a server has received but not started when it stops."""
    asked: list[str] = []

    def get_patch(request: pb.GetPatchRequest, context: grpc.ServicerContext) -> pb.GetPatchResponse:
        asked.append(request.patch_id)
        if len(asked) < 3:
            context.abort(grpc.StatusCode.CANCELLED, "")
        return pb.GetPatchResponse(patch=pb.PatchMetadata(patch_id=request.patch_id))

    class Cancels(retrieval_pb2_grpc.RetrievalServiceServicer):
        GetPatch = staticmethod(get_patch)

    server = grpc.server(ThreadPoolExecutor(1))
    retrieval_pb2_grpc.add_RetrievalServiceServicer_to_server(Cancels(), server)  # type: ignore[no-untyped-call]  # generated
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with RetrievalClient(f"ipv4:127.0.0.1:{port}") as client:
            assert client.get_patch("x").info.patch_id == "x"
        assert asked == ["x"] * 3
    finally:
        server.stop(None)


@pytest.mark.parametrize(
    ("target", "local"),
    [
        ("ipv4:127.0.0.1:1,127.0.0.2:2", True),
        ("ipv6:[::1]:1", True),
        ("localhost:1", True),
        ("ipv4:127.0.0.1:1,10.0.0.1:2", False),
        ("127.0.0.1:1,example.org:2", False),
        ("example.org:1", False),
    ],
)
def test_a_list_is_local_if_each_address_is(target: str, local: bool) -> None:
    assert is_loopback(target) is local
