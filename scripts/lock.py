"""Compilation of ``requirements/*.txt`` from ``pyproject.toml``: one hash-locked set per extra, in one resolution.

``dev`` (everything) is resolved first; the other sets are constrained by it, so that a service image never has a
version that was not tested. The files hold no index addresses.

Usage: ``python -m scripts.lock [--check | --upgrade]``. ``--check`` compares the inputs recorded in each file with
``pyproject.toml`` and needs no network.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LOCKS = ROOT / "requirements"
EXTRAS: dict[str, tuple[str, ...]] = {
    "dev": ("dev",),
    "ingest": ("ingest",),
    "export": ("ingest", "export"),
    "train": ("ingest", "train"),
    "federation": ("federation",),
    "serve": ("federation", "serve"),
    "pipelines": ("ingest", "train", "pipelines"),
}
"""Lock file -> extras it installs (the base dependencies always)."""
MARK = "# inputs: "


def inputs_digest(extras: tuple[str, ...]) -> str:
    """Digest of the dependency lists of ``extras``."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    optional = project["optional-dependencies"]
    # "dev" refers to all other extras by name, so its inputs are all of them.
    chosen = optional if "dev" in extras else {name: optional[name] for name in extras}
    text = json.dumps([project["dependencies"], chosen, project["requires-python"]], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def compile_lock(name: str, extras: tuple[str, ...], upgrade: bool) -> None:
    """Writes ``requirements/<name>.txt``."""
    target = LOCKS / f"{name}.txt"
    command = [sys.executable, "-m", "uv", "pip", "compile", "--quiet", "pyproject.toml", "--python-version", "3.11"]
    command += ["--generate-hashes", "--no-annotate", "--no-header", "--no-emit-index-url"]
    command += [part for extra in extras for part in ("--extra", extra)]
    if name != "dev":
        command += ["--constraint", str(LOCKS / "dev.txt")]
    if upgrade:
        command.append("--upgrade")
    body = LOCKS / f".{name}.tmp"
    if target.exists() and not upgrade:
        body.write_text(target.read_text())  # uv keeps the versions in its output file
    subprocess.run([*command, "--output-file", str(body)], cwd=ROOT, check=True)
    lines = [line for line in body.read_text().splitlines(keepends=True) if not line.startswith("#")]
    target.write_text(f"{MARK}{inputs_digest(extras)} (python -m scripts.lock)\n" + "".join(lines))
    body.unlink()


def stale_locks() -> list[str]:
    """Names of the lock files whose recorded inputs differ from ``pyproject.toml``."""
    stale = []
    for name, extras in EXTRAS.items():
        path = LOCKS / f"{name}.txt"
        first = path.read_text().partition("\n")[0] if path.exists() else ""
        if not first.startswith(f"{MARK}{inputs_digest(extras)} "):
            stale.append(name)
    return stale


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--check", action="store_true", help="only compare the recorded inputs")
    mode.add_argument("--upgrade", action="store_true", help="take the newest versions within the bounds")
    args = parser.parse_args()
    if args.check:
        stale = stale_locks()
        if stale:
            print(
                f"requirements/{{{','.join(stale)}}}.txt do not match pyproject.toml; run `make lock`", file=sys.stderr
            )
        return 1 if stale else 0
    for name, extras in EXTRAS.items():
        compile_lock(name, extras, args.upgrade)
    return 0


if __name__ == "__main__":
    sys.exit(main())
