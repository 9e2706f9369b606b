"""Archives of the charts for an OCI registry, with signed provenance: ``python -m scripts.chart_package --key NAME``.

Each archive holds what it depends on, so any of them installs alone:

    helm install eoforge oci://registry.example/charts/eoforge --verify --keyring pubring.gpg
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from pathlib import Path

from helm_python import HelmError, package, push, sign, verify

ROOT = Path(__file__).resolve().parents[1]
CHARTS = ROOT / "charts"
PLACEHOLDER = "https://eoforge.example"
"""Home and source in ``Chart.yaml`` until ``--source`` names the public ones."""


def packaged(destination: Path, source: str = PLACEHOLDER) -> list[Path]:
    """Archives of all charts that can be installed.

    Args:
        destination: Folder for the archives.
        source: Address of the sources, for the charts' metadata.

    Raises:
        HelmError: A chart is malformed.
    """
    destination.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        copied = Path(temporary) / "charts"
        shutil.copytree(CHARTS, copied)  # links become what they lead to: the library, and the compiled pipelines
        for metadata in copied.rglob("Chart.yaml"):
            metadata.write_text(metadata.read_text().replace(PLACEHOLDER, source))
        charts = [path.parent for path in sorted(copied.glob("*/values.yaml"))]
        return [Path(package(os.fspath(chart), destination=os.fspath(destination))) for chart in charts]


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m scripts.chart_package", description="Package and sign the charts.")
    parser.add_argument("--destination", type=Path, default=ROOT / "dist" / "charts", help="folder for the archives")
    parser.add_argument("--source", default=PLACEHOLDER, help="public address of the sources, for the metadata")
    parser.add_argument("--key", help="name of the signing key; without it the archives are not signed")
    parser.add_argument("--keyring", type=Path, help="secret keyring with that key (gpg --export-secret-keys > FILE)")
    parser.add_argument("--passphrase-file", type=Path, help="file whose first line unlocks the key")
    parser.add_argument("--push", metavar="oci://HOST/PATH", help="registry to send the archives to, signatures too")
    parser.add_argument("--plain-http", action="store_true", help="the registry speaks no TLS")
    args = parser.parse_args(argv)
    if (args.key is None) != (args.keyring is None):
        parser.error("a signature needs both --key and --keyring")
    try:
        for archive in packaged(args.destination, args.source):
            if args.key:
                sign(archive, key=args.key, keyring=args.keyring, passphrase_file=args.passphrase_file)
                verify(archive, args.keyring)
            print(f"{archive}{' (signed)' if args.key else ''}")
            if args.push:
                pushed = push(archive, args.push, plain_http=args.plain_http)
                print(f"  {pushed}")
    except HelmError as error:
        print(f"charts not packaged: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
