"""Build of the images with podman or docker: ``python -m scripts.images [--base IMAGE] [--device cpu] [NAME ...]``.

One image per service and one for pipelines and training, tagged ``eoforge/NAME:VERSION``, or ``...-cpu`` for machines
without a GPU. On a machine without access to an image registry, ``--debian`` first makes the base image by debootstrap.
The script needs the standard library only.
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

from scripts import console_assets

ROOT = Path(__file__).resolve().parents[1]
SERVICES, PIPELINES = "services/Dockerfile", "pipelines/Dockerfile"
DOCKERFILES = {
    "retrieval": SERVICES,
    "compression": SERVICES,
    "prediction": SERVICES,
    "federation": SERVICES,
    "console": SERVICES,
    "pipelines-python": PIPELINES,
}
"""Image -> its Dockerfile."""
ONE_VARIANT = ("federation",)
"""Images without torch, and so without a variant for machines without a GPU."""
DEBIAN_BASE = "localhost/debian-python:bookworm"
PACKAGES = "ca-certificates,python3,python3-venv"
# Settings of this machine for its package index, which a build container lacks.
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
"""Settings for sandboxes: no systemd, control groups version 1, limits that cannot be raised."""


def version() -> str:
    """Version of the package, the tag of the images."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        return str(tomllib.load(file)["project"]["version"])


def restricted() -> bool:
    """Whether this machine lacks systemd, as a sandbox does, so that podman needs other settings."""
    return not Path("/run/systemd/system").is_dir()


def engine_environment(folder: Path) -> dict[str, str]:
    """Environment for podman calls; ``folder`` holds the settings file."""
    if not restricted() or "CONTAINERS_CONF" in os.environ:
        return dict(os.environ)
    settings = folder / "containers.conf"
    settings.write_text(PODMAN_SETTINGS)
    return {**os.environ, "CONTAINERS_CONF": str(settings)}


def find_engine(name: str | None) -> str:
    """Program that builds images.

    Raises:
        SystemExit: The machine has none.
    """
    for engine in [name] if name else ["podman", "docker"]:
        if shutil.which(engine):
            return engine
    raise SystemExit("no podman and no docker on this machine: install one, for example `apt-get install podman runc`")


def debian_base(engine: str, env: dict[str, str], folder: Path) -> str:
    """Debian 12 image with Python 3.11, made by debootstrap unless it exists."""
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


def build_args(name: str, device: str) -> dict[str, str]:
    """Build arguments that select service, requirements and device of an image."""
    args = {"DEVICE": device}
    if name in ONE_VARIANT:
        args = {"DEVICE": "none", "REQUIREMENTS": name, "NVIDIA_VISIBLE_DEVICES": "void"}
    return args | ({"SERVICE": name} if DOCKERFILES[name] == SERVICES else {})


def build(engine: str, env: dict[str, str], name: str, base: str | None, device: str) -> str:
    """Builds one image for ``device``, cuda or cpu, and returns its tag.

    Raises:
        SystemExit: The build failed.
    """
    console_assets.main([])  # part of the context: every image holds all services
    tag = tag_of(name, device)
    head = ["git", "-C", str(ROOT), "rev-parse", "HEAD"]
    revision = subprocess.run(head, check=False, capture_output=True, text=True).stdout
    command = [engine, "build", "--file", str(ROOT / DOCKERFILES[name]), "--tag", tag]
    args = {"VERSION": version(), "REVISION": revision.strip() or "unknown", **build_args(name, device)}
    args |= {"BASE": base} if base else {}
    command += [part for key, value in args.items() for part in ("--build-arg", f"{key}={value}")]
    if engine == "podman":
        command += ["--layers", "--network", "host"]
        command += [part for file in HOST_FILES if Path(file).is_file() for part in ("--volume", f"{file}:{file}:ro")]
    started = time.monotonic()
    if subprocess.run([*command, str(ROOT)], check=False, env=env).returncode != 0:
        raise SystemExit(f"{tag} was not built; see the lines above")
    inspect = [engine, "image", "inspect", "--format", "{{.Size}}", tag]
    size = int(subprocess.run(inspect, env=env, capture_output=True, text=True, check=True).stdout)
    print(f"built {tag}: {size / 1e9:.2f} GB in {time.monotonic() - started:.0f} s", flush=True)
    return tag


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m scripts.images", description="Build eoforge's images.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"images to build: {', '.join(DOCKERFILES)}")
    parser.add_argument("--engine", choices=("podman", "docker"), help="podman by default, or else docker")
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
