"""What people see when the store is down, and what a console on a laptop says, answers and leaves behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from eoforge.storage.seaweed import free_ports
from tests.console.console_support import console_with, refused, runs_in
from tests.services.support import until

PAGES = ("/archive", "/archive/quarantine", "/runs", "/runs/bundle?name=x/y", "/annotate")


def test_a_store_that_is_down_is_a_clear_page(monkeypatch: pytest.MonkeyPatch) -> None:
    (nobody,) = free_ports(1)
    where = {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{nobody}", "AWS_ALLOW_HTTP": "true"}
    for name, value in ({"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x"} | where).items():
        monkeypatch.setenv(name, value)
    tables = {name: f"s3://lake/{name}" for name in ("patches_uri", "runs_uri", "annotations_uri")}
    with console_with(**tables) as visitor, ThreadPoolExecutor() as pool:  # each tries again for some seconds
        for answer in pool.map(visitor.get, PAGES):
            text = refused(answer, 503, "cannot reach its store at the moment")
            assert str(nobody) not in text
            assert "lake" not in text


def test_a_console_on_a_laptop_names_its_address_and_ends_with_ctrl_c(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    runs = str(runs_in(tmp_path) / "runs")
    command = [sys.executable, "-m", "eoforge.cli", "console", "--runs", runs, "--port", str(port)]
    group = {"start_new_session": True, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    address = f"http://127.0.0.1:{port}"
    with subprocess.Popen(command, text=True, **group) as process:  # type: ignore[call-overload]

        def answers() -> bool:
            assert process.poll() is None, process.stdout.read()
            try:
                return httpx.get(f"{address}/health/ready").status_code == 200
            except httpx.TransportError:
                return False

        try:
            until(answers)
            assert "first/bundle" in httpx.get(f"{address}/runs").text
            os.killpg(process.pid, signal.SIGINT)
            said, _ = process.communicate(timeout=30)
        finally:
            process.kill()
    assert process.returncode == 0, said
    assert f"console: {address}/" in said
    assert "Traceback" not in said
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)
