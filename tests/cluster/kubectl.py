"""kubectl for tests: output as text or objects, manifests from dictionaries."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Object = dict[str, Any]


class Refused(Exception):
    """kubectl ended with an error; the message is what it said."""


@dataclass(frozen=True)
class Kubectl:
    """The command line of one user.

    Attributes:
        kubeconfig: Cluster and user.
        options: Options of every call, such as ``--as``.
    """

    kubeconfig: Path
    options: tuple[str, ...] = ()

    def try_run(self, *arguments: str, given: str | None = None) -> tuple[int, str]:
        """Exit code and output, errors included."""
        found = subprocess.run(
            [_program(), f"--kubeconfig={self.kubeconfig}", *self.options, *arguments],
            input=given,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        return found.returncode, found.stdout.strip()

    def run(self, *arguments: str, given: str | None = None) -> str:
        """Output.

        Raises:
            Refused: It failed.
        """
        code, output = self.try_run(*arguments, given=given)
        if code:
            raise Refused(f"kubectl {' '.join(arguments)}: {output}")
        return output

    def apply(self, *objects: Object, dry_run: bool = False) -> str:
        """Server-side apply with strict fields."""
        mode = ["--dry-run=server"] if dry_run else []
        given = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)})
        return self.run("apply", "--server-side", "--force-conflicts", "--validate=strict", *mode, "-f-", given=given)

    def get(self, *arguments: str) -> Object:
        """One object, or a list."""
        found: Object = json.loads(self.run("get", *arguments, "--output=json"))
        return found

    def items(self, *arguments: str) -> list[Object]:
        """The objects of a list."""
        found: list[Object] = self.get(*arguments)["items"]
        return found


def _program() -> str:
    """kubectl of this environment, or the one on PATH."""
    own = Path(sys.executable).with_name("kubectl")
    return os.fspath(own) if own.exists() else shutil.which("kubectl") or "kubectl"
