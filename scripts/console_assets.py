"""JavaScript of the console from npm: ``python -m scripts.console_assets [--development]``.

Reads ``services/console/package-lock.json``, downloads the packages from the registry, checks each against the
``integrity`` of the lock, and unpacks only the files listed here into ``services/console/static/vendor/``, which git
ignores (what only tests need, into ``build/``). No Node is needed; the script needs the standard library only. Files
that are there and whole are kept.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import io
import json
import os
import sys
import tarfile
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CONSOLE = ROOT / "services" / "console"
LOCK, VENDOR = CONSOLE / "package-lock.json", CONSOLE / "static" / "vendor"
DEVELOPMENT_FOLDER = ROOT / "build" / "console-assets"
REGISTRY = os.environ.get("NPM_CONFIG_REGISTRY", "https://registry.npmjs.org").rstrip("/")
FILES: dict[str, tuple[str, ...]] = {
    "htmx.org": ("dist/htmx.min.js",),
    "leaflet": ("dist/leaflet.js", "dist/leaflet.css"),
    "uplot": ("dist/uPlot.iife.min.js", "dist/uPlot.min.css"),
}
"""Package -> files that pages load."""
DEVELOPMENT: dict[str, tuple[str, ...]] = {"axe-core": ("axe.min.js",)}
"""Package -> files that tests load; they are not part of an image."""
LICENCES = ("LICENSE", "LICENSE.txt", "LICENSE.md")
SECONDS, MAX_BYTES = 120, 64 << 20


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m scripts.console_assets", description=__doc__.partition("\n")[0])
    parser.add_argument("--development", action="store_true", help="also what the browser tests need")
    args = parser.parse_args(argv)
    packages = json.loads(LOCK.read_text())["packages"]
    wanted = [(VENDOR, *item) for item in FILES.items()]
    wanted += [(DEVELOPMENT_FOLDER, *item) for item in DEVELOPMENT.items()] if args.development else []
    for folder, name, files in wanted:
        entry = packages[f"node_modules/{name}"]
        stamp = folder / f".{name}"
        present = all((folder / Path(file).name).is_file() for file in files)
        if present and stamp.is_file() and stamp.read_text() == entry["integrity"]:
            continue
        unpack(download(name, entry["version"], entry["integrity"]), name, files, folder)
        stamp.write_text(entry["integrity"])
        print(f"{name} {entry['version']}: {', '.join(Path(file).name for file in files)}", flush=True)
    return 0


def download(name: str, version: str, integrity: str) -> bytes:
    """Archive of a package, as the lock says.

    Raises:
        SystemExit: The registry does not answer, or its bytes are not those of the lock.
    """
    url = f"{REGISTRY}/{name}/-/{name.rpartition('/')[2]}-{version}.tgz"
    try:
        with urllib.request.urlopen(url, timeout=SECONDS) as answer:  # noqa: S310  # the scheme is that of the registry
            content: bytes = answer.read(MAX_BYTES + 1)
    except OSError as error:
        raise SystemExit(f"cannot download {url}: {error}. NPM_CONFIG_REGISTRY names another registry") from error
    algorithm, _, expected = integrity.partition("-")
    found = base64.b64encode(hashlib.new(algorithm, content).digest()).decode()
    if found != expected:
        raise SystemExit(f"{url} is not what the lock names: expected {integrity}, got {algorithm}-{found}")
    return content


def unpack(archive: bytes, name: str, files: tuple[str, ...], folder: Path) -> None:
    """Writes the listed files, and the package's licence, flat into a folder.

    Raises:
        SystemExit: A listed file is not in the archive.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as tar:
        members = {member.name.partition("/")[2]: member for member in tar.getmembers() if member.isfile()}
        if missing := set(files) - members.keys():
            raise SystemExit(f"{name} holds no {', '.join(sorted(missing))}")
        for path in files:
            (folder / Path(path).name).write_bytes(_content(tar, members[path]))
        for licence in LICENCES:
            if licence in members:
                (folder / f"{name}.{licence}").write_bytes(_content(tar, members[licence]))


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    if file is None:
        raise SystemExit(f"{member.name} is no file")
    return file.read()


if __name__ == "__main__":
    sys.exit(main())
