"""Builds the images with podman or docker: ``python -m scripts.images [--base IMAGE] [--device cpu] [NAME ...]``.

One image per service and one for pipelines and training, tagged ``eoforge/NAME:VERSION``, or ``...-cpu`` for machines
without a GPU. On a machine that reaches no image registry, ``--debian`` makes the base image by debootstrap first.
Needs nothing but Python's standard library.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DOCKERFILES = {
    "retrieval": "services/retrieval/Dockerfile",
    "compression": "services/compression/Dockerfile",
    "federation": "services/federation/Dockerfile",
    "pipelines-python": "pipelines/Dockerfile",
}
ONE_VARIANT = ("federation",)
"""Images without torch, and so without a variant for machines without a GPU."""
DEBIAN_BASE = "localhost/debian-python:bookworm"
PACKAGES = "ca-certificates,python3,python3-venv"
# How this machine reaches its package index; a build container knows nothing of it.
HOST_FILES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pip.conf")
PODMAN_SETTINGS = """\
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=4096:4096"]
netns = "host"
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
"""
"""For sandboxes: no systemd, control groups of the first generation, limits that may not be raised."""


def version() -> str:
    """Version of the package, which the images are tagged with."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        return str(tomllib.load(file)["project"]["version"])


def restricted() -> bool:
    """Whether this machine lacks systemd, as in a sandbox: podman then needs settings of its own."""
    return not Path("/run/systemd/system").is_dir()


def engine_environment(folder: Path) -> dict[str, str]:
    """The environment for podman calls; ``folder`` holds its settings as long as they are needed."""
    if not restricted() or "CONTAINERS_CONF" in os.environ:
        return dict(os.environ)
    settings = folder / "containers.conf"
    settings.write_text(PODMAN_SETTINGS)
    return {**os.environ, "CONTAINERS_CONF": str(settings)}


def find_engine(asked: str | None) -> str:
    """The program that builds.

    Raises:
        SystemExit: There is none.
    """
    for name in [asked] if asked else ["podman", "docker"]:
        if shutil.which(name):
            return name
    raise SystemExit("no podman and no docker on this machine: install one, for example `apt-get install podman runc`")


def debian_base(engine: str, env: dict[str, str], folder: Path) -> str:
    """A Debian 12 image with Python 3.11, made here by debootstrap; kept if it is there already."""
    found = subprocess.run([engine, "image", "inspect", DEBIAN_BASE], check=False, env=env, capture_output=True)
    if found.returncode == 0:
        return DEBIAN_BASE
    if not shutil.which("debootstrap"):
        raise SystemExit("no debootstrap on this machine: `apt-get install debootstrap`, or name an image by --base")
    root = folder / "debian"
    command = ["debootstrap", "--variant=minbase", f"--include={PACKAGES}", "bookworm", str(root)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    for archive in (root / "var/cache/apt/archives").glob("*.deb"):
        archive.unlink()
    with subprocess.Popen(["tar", "-C", str(root), "-c", "."], stdout=subprocess.PIPE) as tar:
        subprocess.run([engine, "import", "-", DEBIAN_BASE], env=env, stdin=tar.stdout, check=True)
    return DEBIAN_BASE


def tag_of(name: str, device: str) -> str:
    """Repository and tag of an image for machines with or without GPUs."""
    return f"eoforge/{name}:{version()}{'-cpu' if device == 'cpu' and name not in ONE_VARIANT else ''}"


def build(engine: str, env: dict[str, str], name: str, base: str | None, device: str) -> str:
    """Builds one image for ``device``, cuda or cpu, and returns its tag.

    Raises:
        SystemExit: The build failed.
    """
    tag = tag_of(name, device)
    head = ["git", "-C", str(ROOT), "rev-parse", "HEAD"]
    revision = subprocess.run(head, check=False, capture_output=True, text=True).stdout
    command = [engine, "build", "--file", str(ROOT / DOCKERFILES[name]), "--tag", tag]
    command += ["--build-arg", f"VERSION={version()}", "--build-arg", f"REVISION={revision.strip() or 'unknown'}"]
    command += ["--build-arg", f"BASE={base}"] if base else []
    command += [] if name in ONE_VARIANT else ["--build-arg", f"DEVICE={device}"]
    if engine == "podman":
        command += ["--layers", "--network", "host"]
        command += [part for file in HOST_FILES if Path(file).is_file() for part in ("--volume", f"{file}:{file}:ro")]
    started = time.monotonic()
    if subprocess.run([*command, str(ROOT)], check=False, env=env).returncode != 0:
        raise SystemExit(f"{tag} was not built; the lines above say why")
    inspect = [engine, "image", "inspect", "--format", "{{.Size}}", tag]
    size = int(subprocess.run(inspect, env=env, capture_output=True, text=True, check=True).stdout)
    print(f"built {tag}: {size / 1e9:.2f} GB in {time.monotonic() - started:.0f} s", flush=True)
    return tag


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m scripts.images", description="Build eoforge's images.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"images to build: {', '.join(DOCKERFILES)}")
    parser.add_argument("--engine", choices=("podman", "docker"), help="podman if it is there, else docker")
    parser.add_argument("--base", help="base image with Python 3.11; that of the Dockerfiles by default")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: smaller, tagged VERSION-cpu")
    parser.add_argument("--debian", action="store_true", help="make the base image by debootstrap")
    args = parser.parse_args(argv)
    if unknown := set(args.names) - DOCKERFILES.keys():
        parser.error(f"no such image: {', '.join(sorted(unknown))}; there are {', '.join(DOCKERFILES)}")
    engine = find_engine(args.engine)
    with tempfile.TemporaryDirectory() as scratch:
        env = engine_environment(Path(scratch)) if engine == "podman" else dict(os.environ)
        base = debian_base(engine, env, Path(scratch)) if args.debian else args.base
        for name in args.names or DOCKERFILES:
            build(engine, env, name, base, args.device)
    return 0


if __name__ == "__main__":
    sys.exit(main())
