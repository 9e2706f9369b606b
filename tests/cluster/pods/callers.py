"""Callers outside the cluster: the command line, and searches that go on while something happens."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx

from eoforge.client import RetrievalClient
from eoforge.errors import EoforgeError


def cli(environment: dict[str, str], *arguments: str) -> Any:
    """Output of ``eoforge --json`` on this machine.

    Raises:
        EoforgeError: The command failed.
    """
    command = [sys.executable, "-m", "eoforge.cli", *arguments, "--json"]
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise EoforgeError(f"eoforge {' '.join(arguments)} failed: {done.stderr[-2000:]}")
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith(("{", "["))]
    return lines[-1] if len(lines) == 1 else lines


def python(environment: dict[str, str], code: str) -> str:
    """Last line of output of Python code on this machine.

    Raises:
        EoforgeError: The code failed.
    """
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise EoforgeError(f"python failed: {done.stderr[-2000:]}")
    return done.stdout.strip().splitlines()[-1]


def hits_of(page: httpx.Response) -> list[str]:
    """Ids of the hits on a page of the console, in their order."""
    return re.findall(r'data-name="([^"]+)" data-kind="(?:hit|partner|miss)"', page.text)


@dataclass
class Searches:
    """Consecutive searches of one caller.

    Attributes:
        target: ``HOST:PORT``.
        ca: File with the CA of the server.
        token: Bearer token.
        patch: Id of the query patch.
        attempts: Attempts of each search.
        answered: Number of answered searches.
        failed: Messages of failed searches.
        longest: Seconds of the slowest search.
    """

    target: str
    ca: str
    token: str
    patch: str
    attempts: int
    answered: int = 0
    failed: list[str] = field(default_factory=list)
    longest: float = 0.0
    _stopped: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        """Searches until stopped."""
        with RetrievalClient(self.target, token=self.token, ca_file=self.ca, attempts=self.attempts) as client:
            while not self._stopped.is_set():
                began = time.monotonic()
                try:
                    client.search(patch_id=self.patch, source="s2", target="s1", k=5)
                    self.answered += 1
                except EoforgeError as error:
                    self.failed.append(str(error)[:200])
                self.longest = max(self.longest, time.monotonic() - began)
                time.sleep(0.02)

    @contextmanager
    def in_background(self) -> Iterator[None]:
        """Searches in a thread while the block runs, and a second before and after."""
        thread = threading.Thread(target=self.run)
        thread.start()
        time.sleep(1.0)
        try:
            yield
            time.sleep(1.0)
        finally:
            self._stopped.set()
            thread.join()

    def summary(self) -> str:
        """One line for the report."""
        text = f"{self.answered} searches answered, {len(self.failed)} failed, the longest took {self.longest:.2f} s"
        return f"{text}; {self.failed[0]}" if self.failed else text
