"""Binaries and manifests of the cluster: built from pinned Go modules, kept outside the clone by version.

    python -m tests.cluster.binaries           # builds what is missing and prints one line per component
    python -m tests.cluster.binaries --pods    # and what a node with real pods needs

Each folder of ``modules/`` is a Go module that pins one component by ``go.mod`` and ``go.sum``. What it makes is kept
in ``$XDG_CACHE_HOME/eoforge/cluster/COMPONENT-VERSION-DIGEST``; another pin is another folder. Binaries from elsewhere
are found by the convention of envtest: those that lie in ``$KUBEBUILDER_ASSETS`` are used and not built.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

MODULES = Path(__file__).parent / "modules"
KUBERNETES = "1.34.4"
GO_HINT = "NOT RUN: Go 1.26 or newer is needed to build the control plane, and there is no `go` on PATH"


@dataclass(frozen=True)
class Component:
    """What one pinned module gives.

    Attributes:
        name: Folder below ``modules/``.
        module: Module path.
        binaries: Name of a binary, and the package that it is built from.
        files: Folder in the cache, and a glob below the module whose files are copied there.
        variables: Linker variables to set.
        pins: Folder below ``modules/`` with ``go.mod`` and ``go.sum``, where it is not ``name``.
        edit: A text of the program's main package, and what replaces it.
    """

    name: str
    module: str
    binaries: dict[str, str] = field(default_factory=dict)
    files: tuple[tuple[str, str], ...] = ()
    variables: dict[str, str] = field(default_factory=dict)
    pins: str = ""
    edit: tuple[str, str] | None = None

    @property
    def version(self) -> str:
        """The pinned version.

        Raises:
            ValueError: ``go.mod`` does not require the module.
        """
        for line in (MODULES / self.home / "go.mod").read_text().splitlines():
            words = line.removeprefix("require").split()
            if words[:1] == [self.module] and len(words) > 1:
                return words[1]
        raise ValueError(f"{self.home}/go.mod does not require {self.module}")

    @property
    def home(self) -> str:
        """Folder with the pins: definitions of several projects share one."""
        return self.pins or (self.name if self.binaries else "crds")

    @property
    def folder(self) -> Path:
        """Where it is kept."""
        made_of = (self.binaries, self.files, self.variables, *([self.edit] if self.edit else []))
        digest = hashlib.sha256(repr(made_of).encode())
        for name in ("go.mod", "go.sum"):
            digest.update((MODULES / self.home / name).read_bytes())
        return cache() / f"{self.name}-{self.version}-{digest.hexdigest()[:8]}"


_GIT_VERSION = {
    f"k8s.io/{package}.{name}": value
    for package in ("component-base/version", "client-go/pkg/version")
    for name, value in (("gitVersion", f"v{KUBERNETES}"), ("gitMajor", "1"), ("gitMinor", "34"))
}
_KUBERNETES = ("kube-apiserver", "kube-controller-manager", "kube-scheduler")
COMPONENTS = (
    Component("etcd", "go.etcd.io/etcd/server/v3", {"etcd": "go.etcd.io/etcd/server/v3"}),
    Component(
        "kubernetes",
        "k8s.io/kubernetes",
        {name: f"k8s.io/kubernetes/cmd/{name}" for name in _KUBERNETES},
        variables=_GIT_VERSION,
    ),
    Component(
        "kwok",
        "sigs.k8s.io/kwok",
        {"kwok": "sigs.k8s.io/kwok/cmd/kwok"},
        (
            ("stages", "kustomize/stage/node/fast/node-*.yaml"),
            ("stages", "kustomize/stage/node/heartbeat-with-lease/node-*.yaml"),
            ("stages", "kustomize/stage/pod/fast/pod-ready.yaml"),
            ("stages", "kustomize/stage/pod/fast/pod-delete.yaml"),
        ),
    ),
    Component(
        "kserve",
        "github.com/kserve/kserve",
        {"kserve-manager": "github.com/kserve/kserve/cmd/manager"},
        (
            ("crds", "config/crd/full/serving.*.yaml"),
            ("crds", "config/crd/full/clusterstoragecontainer/serving.*.yaml"),
            ("webhooks", "config/webhook/manifests.yaml"),
            ("config", "config/configmap/inferenceservice.yaml"),
        ),
        # There is no option for it: its webhooks would listen on all addresses of the machine.
        edit=("Port: options.webhookPort,", 'Host: "127.0.0.1", Port: options.webhookPort,'),
    ),
    Component(
        "jobset",
        "sigs.k8s.io/jobset",
        {"jobset-manager": "sigs.k8s.io/jobset"},
        (
            ("crds", "config/components/crd/bases/*.yaml"),
            ("webhooks", "config/components/webhook/manifests.yaml"),
            ("webhooks/patches", "config/components/webhook/patches/*.yaml"),
        ),
    ),
    Component(
        "trainer",
        "github.com/kubeflow/trainer/v2",
        {"trainer-manager": "github.com/kubeflow/trainer/v2/cmd/trainer-controller-manager"},
        (("crds", "manifests/base/crds/trainer.*.yaml"), ("webhooks", "manifests/base/webhook/manifests.yaml")),
    ),
    Component(
        "cert-manager",
        "github.com/cert-manager/cert-manager",
        files=(("crds", "deploy/crds/cert-manager.io_certificates.yaml"),),
    ),
    Component("keda", "github.com/kedacore/keda/v2", files=(("crds", "config/crd/bases/keda.sh_scaledobjects.yaml"),)),
    Component(
        "prometheus-operator",
        "github.com/prometheus-operator/prometheus-operator",
        files=(
            ("crds", "example/prometheus-operator-crd/monitoring.coreos.com_servicemonitors.yaml"),
            ("crds", "example/prometheus-operator-crd/monitoring.coreos.com_prometheusrules.yaml"),
        ),
    ),
    Component(
        "gateway-api",
        "sigs.k8s.io/gateway-api",
        files=tuple(
            ("crds", f"config/crd/standard/gateway.networking.k8s.io_{kind}.yaml")
            for kind in ("grpcroutes", "httproutes", "tlsroutes", "gateways")
        ),
    ),
)

NODE = (
    Component(
        "node",
        "k8s.io/kubernetes",
        {name: f"k8s.io/kubernetes/cmd/{name}" for name in ("kubelet", "kube-proxy")},
        variables=_GIT_VERSION,
    ),
    Component("coredns", "github.com/coredns/coredns", {"coredns": "github.com/coredns/coredns"}),
    Component(
        "kube-router",
        "github.com/cloudnativelabs/kube-router/v2",
        {"kube-router": "github.com/cloudnativelabs/kube-router/v2/cmd/kube-router"},
    ),
    # The container that KServe puts into pods of models; with our charts it must not come.
    Component(
        "kserve-agent", "github.com/kserve/kserve", {"agent": "github.com/kserve/kserve/cmd/agent"}, pins="kserve"
    ),
)
"""What a node with real pods needs besides."""


def cache() -> Path:
    """Folder of everything that is built."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(home) / "eoforge" / "cluster"


def existing() -> bool:
    """Whether a cluster that is there is to be used, by the convention of envtest."""
    return os.environ.get("USE_EXISTING_CLUSTER", "").lower() == "true"


def _objects() -> Path:
    """Go's own cache while it builds, which grows to 3 GB; one that the caller names in ``GOCACHE`` is kept."""
    return cache() / ".go-build"


def missing(components: Sequence[Component] = COMPONENTS) -> list[Component]:
    """Components that have to be built or copied."""
    wanted = () if existing() else (component for component in components if _wanted(component))
    return [component for component in wanted if not component.folder.is_dir()]


def _wanted(component: Component) -> bool:
    """Whether anything of a component is not there already by the convention of envtest."""
    return bool(component.files) or not all(_elsewhere(name) for name in component.binaries)


def _elsewhere(name: str) -> Path | None:
    assets = os.environ.get("KUBEBUILDER_ASSETS")
    found = Path(assets) / name if assets else None
    return found if found is not None and os.access(found, os.X_OK) else None


def binary(name: str) -> Path:
    """Path of a binary that is there.

    Raises:
        FileNotFoundError: It has not been built.
    """
    if found := _elsewhere(name):
        return found
    (component,) = (c for c in (*COMPONENTS, *NODE) if name in c.binaries)
    if not (path := component.folder / name).exists():
        raise FileNotFoundError(f"{path}: build it with python -m tests.cluster.binaries")
    return path


def folder(name: str) -> Path:
    """Folder of a component by name."""
    (component,) = (c for c in COMPONENTS if c.name == name)
    return component.folder


def build(component: Component) -> None:
    """Builds and copies a component; its folder appears when all of it is there.

    Raises:
        subprocess.CalledProcessError: Go failed; its words went to standard error.
    """
    # -trimpath: the same bytes wherever the modules lie; -mod=readonly: nothing that go.sum does not name.
    environment = os.environ | {"CGO_ENABLED": "0", "GOFLAGS": "-mod=readonly -trimpath -buildvcs=false"}
    environment.setdefault("GOCACHE", str(_objects()))
    home = MODULES / component.home
    cache().mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=f".{component.name}-", dir=cache()))
    try:
        flags = " ".join(["-s -w", *(f"-X {name}={value}" for name, value in component.variables.items())])
        command = ["go", "mod", "download", "-json", component.module]
        answer = subprocess.run(command, cwd=home, env=environment, check=True, stdout=subprocess.PIPE)
        module = Path(json.loads(answer.stdout)["Dir"])
        for name, package in component.binaries.items():
            with _edited(component, module, package) as (folder, target):
                command = ["go", "build", "-ldflags", flags, "-o", str(made / name), target]
                subprocess.run(command, cwd=folder, env=environment, check=True)
        _copy(component, module, made)
        made.chmod(0o755)
        made.rename(component.folder)
    except BaseException:
        shutil.rmtree(made)
        raise


@contextmanager
def _edited(component: Component, module: Path, package: str) -> Iterator[tuple[Path, str]]:
    """Folder to build in, and the package: a copy of the main package beside the pins where it is edited.

    Raises:
        ValueError: The text to replace is not there once.
    """
    home = MODULES / component.home
    if component.edit is None:
        yield home, package
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for pin in ("go.mod", "go.sum"):
            shutil.copyfile(home / pin, folder / pin)
        sources = (module / package.removeprefix(component.module + "/")).glob("*.go")
        texts = {p.name: p.read_text() for p in sources if not p.name.endswith("_test.go")}
        if sum(text.count(component.edit[0]) for text in texts.values()) != 1:
            raise ValueError(f"{package} does not hold {component.edit[0]!r} once")
        for source, text in texts.items():
            (folder / source).write_text(text.replace(*component.edit))
        yield folder, "."


def _copy(component: Component, module: Path, made: Path) -> None:
    for target, pattern in component.files:
        found = sorted(module.glob(pattern))
        if not found:
            raise FileNotFoundError(f"{component.module}: no file fits {pattern}")
        (made / target).mkdir(parents=True, exist_ok=True)
        for path in found:
            shutil.copyfile(path, made / target / path.name)  # modules are read-only, copies need not be


def size(path: Path) -> float:
    """Megabytes of a folder."""
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) / 1e6


def main(arguments: Sequence[str]) -> int:
    """Command line; returns the exit code, 3 where Go is needed and not there."""
    todo = missing((*COMPONENTS, *NODE) if "--pods" in arguments else COMPONENTS)
    if todo and shutil.which("go") is None:
        print(GO_HINT, file=sys.stderr)
        return 3
    try:
        for component in todo:
            started = time.monotonic()
            print(f"{component.name} {component.version}: building ...", flush=True)
            build(component)
            seconds, megabytes = time.monotonic() - started, size(component.folder)
            print(f"{component.name} {component.version}: {seconds:.0f} s, {megabytes:.0f} MB", flush=True)
    finally:
        shutil.rmtree(_objects(), ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
