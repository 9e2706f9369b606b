"""Shared parts of the drivers of both peers: processes, waiting, and a byte counter."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil

PORT = 8002
SILO_ADDRESS = "127.0.0.2"
"""Where Flower's silos find the server: its own processes talk to each other on 127.0.0.1 over the same port."""
WAIT_S = 600.0


class Failed(Exception):
    """Failure of a peer; the message is for the table."""


class ByteCounter:
    """Counter of bytes over one TCP port, by the kernel's packet filter in a network namespace of this process."""

    def __init__(self, port: int = PORT, address: str = "") -> None:
        toward, away = (f"ip daddr {address}", f"ip saddr {address}") if address else ("", "")
        rules = [
            "add table inet bench",
            "add chain inet bench in { type filter hook input priority 0; }",
            f"add rule inet bench in {toward} tcp dport {port} counter",
            f"add rule inet bench in {away} tcp sport {port} counter",
        ]
        self._counts = os.environ.get("EOFORGE_BENCH_ISOLATED") == "1" and all(
            subprocess.run(["nft", rule], capture_output=True, check=False).returncode == 0 for rule in rules
        )

    def __call__(self) -> int | None:
        """Bytes so far in both directions; None without a counter."""
        if not self._counts:
            return None
        listed = subprocess.run(["nft", "-j", "list", "table", "inet", "bench"], capture_output=True, check=True)
        rules = [entry["rule"]["expr"] for entry in json.loads(listed.stdout)["nftables"] if "rule" in entry]
        return sum(part["counter"]["bytes"] for expr in rules for part in expr if "counter" in part)


class Processes:
    """Processes of one case by name, each with its children and its log."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.folder, self.environment = folder, {**os.environ, **environment}
        self.started: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, command: Sequence[str], cwd: Path | None = None) -> None:
        """Starts or restarts ``name``; its output is added to ``<name>.log``."""
        with (self.folder / f"{name}.log").open("ab") as log:
            self.started[name] = subprocess.Popen(
                command, env=self.environment, cwd=cwd, stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )

    def run(self, command: Sequence[str], timeout: float = 90.0) -> str:
        """Runs a command to its end and returns its output.

        Raises:
            Failed: The command failed.
        """
        done = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, timeout=timeout, check=False
        )
        if done.returncode:
            raise Failed(f"{Path(command[0]).name} {command[1]}: {(done.stderr or done.stdout).strip()[-300:]}")
        return done.stdout

    def kill(self, name: str) -> None:
        """``kill -9`` of a process and all that it started."""
        with contextlib.suppress(psutil.NoSuchProcess):
            root = psutil.Process(self.started[name].pid)
            for process in (*root.children(recursive=True), root):
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.send_signal(signal.SIGKILL)
        self.started[name].wait()

    def stop(self) -> None:
        """Kills all processes."""
        for name in self.started:
            self.kill(name)

    def log(self, name: str) -> str:
        """Output of a process."""
        path = self.folder / f"{name}.log"
        return path.read_text(errors="replace") if path.exists() else ""


def wait_for(reached: Callable[[], Any], what: str, seconds: float = WAIT_S) -> Any:
    """Result of ``reached`` as soon as it is true.

    Raises:
        Failed: The time has passed.
    """
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if result := reached():
            return result
        time.sleep(0.2)
    raise Failed(f"no {what} within {seconds:.0f} s")
