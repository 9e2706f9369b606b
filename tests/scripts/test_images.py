"""Images: pinned, labelled, unprivileged, few shared layers; the image of the coordinator works without torch."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from pipelines.settings import USER_ID
from scripts import images
from tests.charts import support
from tests.charts.support import ROOT, SERVICES, WEB

LOCKS = {"federation": "federation", "pipelines-python": "pipelines"} | dict.fromkeys(
    ("retrieval", "compression", "prediction", "console"), "serve"
)


def dockerfile(name: str) -> str:
    """Text of the Dockerfile of one image."""
    return (ROOT / images.DOCKERFILES[name]).read_text()


def locked(name: str) -> set[str]:
    """Names of the packages in a lock."""
    text = (ROOT / "requirements" / f"{name}.txt").read_text()
    return {found.lower() for found in re.findall(r"^([A-Za-z0-9._-]+)==", text, flags=re.M)}


@pytest.mark.parametrize("name", images.DOCKERFILES)
def test_images_are_pinned_labelled_and_unprivileged(name: str) -> None:
    text = dockerfile(name)
    stages = re.split(r"^FROM ", text, flags=re.M)
    final = stages[-1]
    assert final.startswith("dependencies\n"), "the big layer is used as it is: a copy of it would be stored twice"
    assert all(" AS " in stage.splitlines()[0] for stage in stages[1:-1])
    assert re.search(rf"^USER {USER_ID}:{USER_ID}$", final, flags=re.M)
    assert "--require-hashes" in text
    default = re.search(r"^ARG REQUIREMENTS=(\w+)$", text, flags=re.M)
    assert default is not None
    args = images.build_args(name, "cuda")
    assert args.get("REQUIREMENTS", default.group(1)) == LOCKS[name]
    assert "COPY requirements/${REQUIREMENTS}.txt" in text
    for label in ("title", "description", "version", "revision", "licenses"):
        assert f"org.opencontainers.image.{label}=" in final
    assert (args["DEVICE"] == "cuda") is ("torch" in locked(LOCKS[name])), "a compiler only where kernels are launched"
    assert args.get("SERVICE", name) == name
    assert 'VOLUME ["/tmp", "/var/cache/eoforge"]' in final
    assert "sbom.cdx.json" in final


def test_images_without_a_gpu_hold_no_compiler() -> None:
    for name in images.DOCKERFILES:
        found = re.search(r'^RUN if \[ "\$\{DEVICE\}" = cuda \]; then(.*?)fi$', dockerfile(name), flags=re.M | re.S)
        assert found is not None
        assert "gcc" in found.group(1)
        assert dockerfile(name).count(" gcc ") == 1
        assert images.build_args(name, "cpu")["DEVICE"] != "cuda"


def test_services_with_torch_share_all_layers() -> None:
    """Equal instructions and arguments make equal layers; SERVICE comes after the last layer."""
    head, _, tail = dockerfile("retrieval").partition("ARG SERVICE\n")
    assert "SERVICE" not in head.partition("ARG BASE")[2]
    assert re.search(r"^(RUN|COPY|ADD) ", tail, flags=re.M) is None
    shared = [{**images.build_args(name, "cuda"), "SERVICE": ""} for name in ("retrieval", "compression")]
    assert shared[0] == shared[1]


def test_both_dockerfiles_have_the_same_steps() -> None:
    """All instructions up to USER; the default of REQUIREMENTS differs."""
    steps = set()
    for name in ("retrieval", "pipelines-python"):
        body = dockerfile(name).partition("ARG BASE")[2].partition("USER ")[0]
        steps.add(re.sub(r"^ARG REQUIREMENTS=\w+$", "ARG REQUIREMENTS", body, flags=re.M))
    assert len(steps) == 1


def test_only_what_an_image_needs_is_sent_to_the_build() -> None:
    kept = {line[1:].rstrip("/") for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] == "!"}
    copied = set()
    for name in images.DOCKERFILES:
        for line in dockerfile(name).splitlines():
            if line.startswith("COPY ") and "--from" not in line:
                copied |= {source.partition("/")[0] for source in line.split()[1:-1]}
    assert copied == kept


def test_the_chart_asks_for_the_images_that_are_built() -> None:
    built = {images.tag_of(name, "cuda") for name in images.DOCKERFILES}
    found = support.scenario("plain") + support.scenario("gpu-aws")
    asked = {c["image"] for pod in support.pods(found) for c in pod.containers}
    assert asked == built


def test_variants_without_a_gpu_have_tags_of_their_own() -> None:
    tags = {name: images.tag_of(name, "cpu") for name in images.DOCKERFILES}
    assert [name for name, tag in tags.items() if not tag.endswith("-cpu")] == list(images.ONE_VARIANT)


HIDE = """
import importlib.machinery, sys
hidden = set(sys.argv[1].split(","))
find = importlib.machinery.PathFinder.find_spec
importlib.machinery.PathFinder.find_spec = (
    lambda name, path=None, target=None: None if name.partition(".")[0] in hidden else find(name, path, target)
)
"""
COORDINATOR = """
import services.federation.server, services._runtime.check
from eoforge.federated.privacy.dp import epsilon_after
from eoforge.federated.strategies.registry import STRATEGIES, make_strategy
for name in STRATEGIES:
    make_strategy(name)
from eoforge.cli import app
sys.argv = ["eoforge", "doctor", sys.argv[2], "--json"]
app()
"""
CONSOLE = """
import services.console.app, services.console.server, eoforge.data.query_image, eoforge.methods.anneal.rounds
from services.console.pages import PAGES
for name in PAGES:
    importlib.import_module(f"services.console.pages.{name}")
"""


def run_with_lock(name: str, program: str, *arguments: str) -> str:
    """Output of a program where only what ``requirements/NAME.txt`` installs, as in an image, can be imported."""
    allowed = locked(name) | {"eoforge"}
    hidden = {
        module
        for module, owners in packages_distributions().items()
        if not any(re.sub(r"[-_.]+", "-", owner).lower() in allowed for owner in owners)
    }
    assert hidden
    command = [sys.executable, "-c", HIDE + program, ",".join(sorted(hidden)), *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_the_coordinator_needs_nothing_that_its_lock_does_not_hold(tmp_path: Path) -> None:
    assert {"torch", "triton", "timm", "faiss-cpu"}.isdisjoint(locked("federation"))
    assert "not installed" in run_with_lock("federation", COORDINATOR, os.fspath(tmp_path))


def test_the_console_needs_nothing_that_its_lock_does_not_hold() -> None:
    """The choice of batches of pairs included."""
    assert "kfp" not in locked("serve")
    run_with_lock("serve", CONSOLE)


def test_every_service_has_an_image() -> None:
    assert {*SERVICES, *WEB, "pipelines-python"} == set(images.DOCKERFILES) == set(LOCKS)
