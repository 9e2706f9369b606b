"""Trial of the pipelines image with podman: compiled steps fill the store, and Triton compiles a kernel.

The commands of the ingestion are those of ``pipelines/compiled/ingest.yaml``. Every container runs as user 10001 with a
read-only root, without capabilities and privilege escalation: more strictly than Kubeflow runs steps by default.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from scripts import images
from scripts.podman.engine import NETWORK, Podman

INGEST = images.ROOT / "pipelines" / "compiled" / "ingest.yaml"
IMAGE = f"localhost/{images.tag_of('pipelines-python', 'cuda')}"
CACHE = "eo-pipelines-cache"
OUTPUTS = "/minio"
"""Folder of Kubeflow's launcher for artifacts of ``minio://`` addresses, here mounted from this machine."""
PATCHES = 120
RESTRICTED = (
    "--rm",
    "--read-only",
    "--user=10001:10001",
    "--cap-drop=all",
    "--security-opt=no-new-privileges",
    "--tmpfs=/tmp",
    f"--volume={CACHE}:/var/cache/eoforge",
)
COMPILE = """
import os
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.build import compile_module_from_src
from kernels.pack_bits.kernel import pack_kernel

source = "#include <Python.h>\\nstatic struct PyModuleDef m = {PyModuleDef_HEAD_INIT, .m_name = \\"stub\\"};\\n"
source += "PyMODINIT_FUNC PyInit_stub(void) { return PyModule_Create(&m); }\\n"
stub = compile_module_from_src(source, "stub")
types = {"x_ptr": "*fp32", "out_ptr": "*u8", "n_bytes": "i32", "BLOCK": "constexpr"}
made = triton.compile(ASTSource(pack_kernel, types, {(3,): 1024}), target=GPUTarget("cuda", 90, 32))
assert stub.__file__.startswith(os.environ["TRITON_CACHE_DIR"]), stub.__file__
print(len(made.asm["cubin"]))
"""
"""Compilation at the first launch on a GPU, as far as possible without one: the C stub by gcc, a kernel to a cubin."""


@dataclass(frozen=True)
class Steps:
    """Commands and steps of Kubeflow in the image.

    Attributes:
        podman: Interface to podman.
        environment: ``AWS_*`` variables of the store.
        folder: Folder of this machine that steps write their outputs to.
    """

    podman: Podman
    environment: Mapping[str, str]
    folder: Path

    def run(self, *command: str) -> str:
        """Output of one command.

        Raises:
            EoforgeError: The command failed.
        """
        variables = [f"--env={key}={value}" for key, value in self.environment.items()]
        mount = f"--volume={self.folder}:{OUTPUTS}"
        return self.podman("run", *RESTRICTED, mount, f"--network={NETWORK}", *variables, IMAGE, *command)

    def eoforge(self, *arguments: str) -> Any:
        """Last line of output of ``eoforge --json``, parsed.

        Raises:
            EoforgeError: The command failed.
        """
        return json.loads(self.run("eoforge", *arguments, "--json").splitlines()[-1])

    def step(self, name: str, **parameters: object) -> dict[str, Any]:
        """Output parameters of one step of the compiled ingestion, started with the command of Kubeflow.

        Raises:
            EoforgeError: The step failed.
        """
        spec = next(yaml.safe_load_all(INGEST.read_text()))
        container = spec["deploymentSpec"]["executors"][f"exec-{name}"]["container"]
        outputs = spec["components"][f"comp-{name}"].get("outputDefinitions", {})
        home = f"{OUTPUTS}/{name}"
        artifacts = {
            key: {"artifacts": [{"name": key, "uri": f"minio://{name}/{key}", "type": found["artifactType"]}]}
            for key, found in outputs.get("artifacts", {}).items()
        }
        request = {
            "inputs": {"parameterValues": parameters},
            "outputs": {
                "parameters": {key: {"outputFile": f"{home}/{key}"} for key in outputs.get("parameters", {})},
                "artifacts": artifacts,
                "outputFile": f"{home}/executor_output.json",
            },
        }
        self.run(*container["command"], *[part.replace("{{$}}", json.dumps(request)) for part in container["args"]])
        written = self.folder / name / "executor_output.json"
        answer = json.loads(written.read_text()) if written.exists() else {}
        found: dict[str, Any] = answer.get("parameterValues", {})
        return found


def fill(steps: Steps) -> dict[str, Any]:
    """Archive, table, model and index, made with the image.

    Returns:
        ``table``: version of the table; ``bundle``: bundle of the model; ``cubin_bytes``: size of the compiled kernel.
    """
    steps.folder.mkdir()
    steps.folder.chmod(0o777)  # the user of the image does not exist on this machine
    lake, archive = "s3://eoforge", f"{OUTPUTS}/archive"
    table = f"{lake}/patches.lance"
    steps.eoforge("synth", archive, "--patches", str(PATCHES))
    plan = steps.step("plan-ingest", archive=archive, table=table, shard_rows=50, strict=True)
    for part in plan["Output"]:
        steps.step("ingest-range", table=table, shard_range=part)
    done = steps.step("commit-ingest", table=table, ingest_id=plan["ingest_id"])
    version = steps.step("finish-table", table=table, committed_version=done["version"])["Output"]
    places = ("--data", table, "--out", f"{lake}/runs")
    bundle = steps.eoforge("train", "ss_cm_rsir", "epochs=1", "batch_size=16", *places)["bundle"]
    steps.eoforge("index", bundle, table, f"{lake}/codes.lance")
    size = int(steps.run("python", "-c", COMPILE).splitlines()[-1])
    return {"table": version, "bundle": bundle, "cubin_bytes": size}
